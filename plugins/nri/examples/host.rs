//! A host of NRI plugins without containers, driven by lines of JSON: what `tests/go/nri` drives.
//!
//! The only argument is the configuration, in JSON. A line in is `{"id": 1, "op": "run_pod", "pod": {…}, …}`; a line out
//! is `{"id": 1, "ok": …}` or `{"id": 1, "error": "…"}`, or `{"asked": …}` where plugins ask for something unasked. It ends,
//! with a word to the plugins, when its input ends.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use windlass_core::Labels;
use windlass_core::nri::{
    Changes, Container, Domain, Eviction, Hold, Namespace, Nri, Pod, Seccomp, State, Update,
};
use windlass_nri::{Config, Host, Limits};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Command {
    id: u64,
    op: String,
    pod: PodData,
    container: ContainerData,
    /// A spec to adjust, or resources to change.
    value: Value,
    overhead: Value,
    /// For `seed`: how many pods there are, with as many containers each, and how long each one's environment is.
    pods: usize,
    containers: usize,
    length: usize,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct PodData {
    id: String,
    name: String,
    namespace: String,
    annotations: Labels,
    resources: Value,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerData {
    id: String,
    name: String,
    spec: Value,
    localhost_seccomp: Option<String>,
}

impl PodData {
    fn pod(self) -> Pod {
        Pod {
            uid: format!("uid-{}", self.id),
            id: self.id,
            name: self.name,
            namespace: self.namespace,
            annotations: self.annotations,
            resources: self.resources,
            namespaces: vec![Namespace { kind: "network".into(), path: "/run/netns/x".into() }],
            ips: vec!["10.0.0.1".into()],
            pid: 4711,
            ..Pod::default()
        }
    }
}

impl ContainerData {
    fn container(self, pod: &str) -> Container {
        Container {
            id: self.id,
            pod_id: pod.into(),
            name: self.name,
            spec: Arc::new(self.spec),
            seccomp: self.localhost_seccomp.map(Seccomp::Localhost),
            state: State::Running,
            ..Container::default()
        }
    }
}

const WHOLE: &str = "nobody panics with a list in hand";

/// Says that it has done what it is asked, but to the container `broken`.
#[derive(Default)]
struct Memory {
    pods: Mutex<Vec<Pod>>,
    containers: Mutex<Vec<Container>>,
    /// From `keep` to `release`.
    hold: Mutex<Option<Hold>>,
}

impl Memory {
    fn seed(&self, pods: usize, containers: usize, length: usize) {
        let mut all = self.containers.lock().expect(WHOLE);
        for p in 0..pods {
            let pod = PodData { id: format!("pod{p}"), ..PodData::default() };
            self.pods.lock().expect(WHOLE).push(pod.pod());
            for c in 0..containers {
                let spec = json!({"process": {"env": [format!("FILL={}", "x".repeat(length))]}});
                let data = ContainerData { id: format!("pod{p}-{c}"), spec, ..ContainerData::default() };
                all.push(data.container(&format!("pod{p}")));
            }
        }
    }
}

#[async_trait]
impl Domain for Memory {
    async fn pods(&self) -> Vec<Pod> {
        self.pods.lock().expect(WHOLE).clone()
    }

    async fn containers(&self) -> Vec<Container> {
        self.containers.lock().expect(WHOLE).clone()
    }

    async fn update(&self, updates: Vec<Update>) -> Vec<Update> {
        say(json!({"asked": {"updates": updates.iter().map(update).collect::<Vec<_>>()}}));
        updates.into_iter().filter(|u| u.container_id == "broken").collect()
    }

    async fn evict(&self, evictions: Vec<Eviction>) -> Vec<Eviction> {
        let all: Vec<_> = evictions.iter().map(|e| &e.container_id).collect();
        say(json!({"asked": {"evictions": all}}));
        Vec::new()
    }
}

fn update(update: &Update) -> Value {
    json!({"container": update.container_id, "resources": update.resources, "ignore": update.ignore_failure})
}

fn changes(changes: Changes) -> Value {
    json!({
        "updates": changes.updates.iter().map(update).collect::<Vec<_>>(),
        "evictions": changes.evictions.iter().map(|e| &e.container_id).collect::<Vec<_>>(),
    })
}

fn say(line: Value) {
    let mut out = std::io::stdout().lock();
    // Who drives it may have gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn run(host: &Host, memory: &Memory, command: Command) -> windlass_core::Result<Value> {
    let pod = command.pod.pod();
    let container = command.container.container(&pod.id);
    let mut value = command.value;
    match command.op.as_str() {
        "plugins" => return Ok(json!(host.plugins())),
        "enabled" => return Ok(json!(host.enabled())),
        "hold" => drop(host.hold().await),
        "keep" => *memory.hold.lock().expect(WHOLE) = Some(host.hold().await),
        "release" => drop(memory.hold.lock().expect(WHOLE).take()),
        "seed" => memory.seed(command.pods, command.containers, command.length),
        "run_pod" => host.run_pod(&pod).await?,
        "update_pod" => host.update_pod(&pod, &command.overhead, &value).await?,
        "post_update_pod" => host.post_update_pod(&pod).await?,
        "stop_pod" => host.stop_pod(&pod).await?,
        "remove_pod" => host.remove_pod(&pod).await?,
        "create_container" => {
            let adjusted = host.create_container(&pod, &container, &mut value).await?;
            return Ok(json!({
                "spec": value,
                "changes": changes(adjusted.changes),
                "cdi": adjusted.cdi_devices,
                "blockio": adjusted.blockio_class,
            }));
        }
        "post_create_container" => host.post_create_container(&pod, &container).await?,
        "start_container" => host.start_container(&pod, &container).await?,
        "post_start_container" => host.post_start_container(&pod, &container).await?,
        "update_container" => {
            let asked = host.update_container(&pod, &container, &mut value).await?;
            return Ok(json!({"resources": value, "changes": changes(asked)}));
        }
        "post_update_container" => host.post_update_container(&pod, &container).await?,
        "stop_container" => return Ok(changes(host.stop_container(&pod, &container).await?)),
        "remove_container" => return Ok(changes(host.remove_container(&pod, &container).await?)),
        other => return Err(windlass_core::Error::invalid(format!("no such operation: {other}"))),
    }
    Ok(Value::Null)
}

async fn drive(config: Config) -> windlass_core::Result<()> {
    let limits = Limits::try_from(&config)?;
    let (host, memory) = (Arc::new(Host::new(config, limits)), Arc::new(Memory::default()));
    host.attach(memory.clone()).await?;
    say(json!({"id": 0, "ok": host.plugins()}));
    let (lines, mut read) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = read.recv().await {
        let command: Command = match serde_json::from_str(&line) {
            Ok(command) => command,
            Err(error) => {
                say(json!({"id": 0, "error": error.to_string()}));
                continue;
            }
        };
        let (host, memory) = (host.clone(), memory.clone());
        tokio::spawn(async move {
            let id = command.id;
            say(match run(&host, &memory, command).await {
                Ok(answer) => json!({"id": id, "ok": answer}),
                Err(error) => json!({"id": id, "error": error.chain()}),
            });
        });
    }
    host.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let config = std::env::args().nth(1).unwrap_or_else(|| "{}".into());
    let result = match serde_json::from_str(&config) {
        Ok(config) => drive(config).await,
        Err(error) => Err(windlass_core::Error::invalid("configuration").with_source(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(json!({"id": 0, "error": error.chain()}));
            ExitCode::FAILURE
        }
    }
}
