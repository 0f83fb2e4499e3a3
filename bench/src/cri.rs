//! Pods and containers through the container runtime interface, two clients in parallel: what a kubelet does to a node.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use futures::future::{join_all, try_join_all};
use tonic::transport::Channel;
use windlass_api::connect::{MAX_MESSAGE, connect};
use windlass_api::cri::image_service_client::ImageServiceClient;
use windlass_api::cri::runtime_service_client::RuntimeServiceClient;
use windlass_api::cri::{self, ContainerConfig, ImageSpec, PodSandboxConfig};

use crate::peer::{field, helpers};
use crate::table::{Row, Table};
use crate::{Options, milliseconds};

/// Clients at a time.
const CLIENTS: usize = 2;
const STEPS: [&str; 8] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// Ends at SIGTERM, as a well-behaved service does.
const SERVICE: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// A daemon as a kubelet sees it.
pub struct Node {
    title: String,
    pid: u32,
    address: String,
    channel: Channel,
    image: String,
}

impl Node {
    pub async fn connect(title: &str, pid: u32, address: &std::path::Path, image: &str) -> Result<Self> {
        let node = Self {
            title: title.to_owned(),
            pid,
            address: address.to_string_lossy().into_owned(),
            channel: connect(address).await?,
            image: image.to_owned(),
        };
        let request = cri::PullImageRequest { image: Some(node.image()), ..Default::default() };
        let mut images = ImageServiceClient::new(node.channel.clone());
        images.pull_image(request).await.with_context(|| format!("{title}: pull {image}"))?;
        Ok(node)
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn image(&self) -> ImageSpec {
        ImageSpec { image: self.image.clone(), ..Default::default() }
    }

    async fn run_pod(&self, name: &str) -> Result<(String, PodSandboxConfig)> {
        let name = format!("bench-{name}-{}", std::process::id());
        let config = PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                uid: name.clone(),
                namespace: "bench".into(),
                attempt: 0,
                name,
            }),
            linux: Some(cri::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok((id, config))
    }

    async fn create(&self, pod: &str, sandbox: &PodSandboxConfig) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "service".into(), attempt: 0 }),
            image: Some(self.image()),
            command: ["/bin/sh", "-c", SERVICE].map(str::to_owned).to_vec(),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    async fn start(&self, container: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: container.to_owned() };
        self.runtime().start_container(request).await?;
        Ok(())
    }

    async fn exec(&self, container: &str) -> Result<()> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: vec!["/bin/true".into()],
            timeout: 10,
        };
        match self.runtime().exec_sync(request).await?.into_inner().exit_code {
            0 => Ok(()),
            code => bail!("{}: true ended with {code}", self.title),
        }
    }

    async fn stop_pod(&self, pod: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime().stop_pod_sandbox(request).await?;
        Ok(())
    }

    async fn remove_pod(&self, pod: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// A pod with a running container.
    async fn pod(&self, name: &str) -> Result<String> {
        let (pod, config) =
            self.run_pod(name).await.with_context(|| format!("{}: run pod {name}", self.title))?;
        let container =
            self.create(&pod, &config).await.with_context(|| format!("{}: create", self.title))?;
        self.start(&container).await.with_context(|| format!("{}: start", self.title))?;
        Ok(pod)
    }

    /// A whole life; answers what each of [`STEPS`] took.
    async fn life(&self, name: &str) -> Result<[f64; STEPS.len()]> {
        let mut clock = Clock { last: Instant::now(), took: [0.0; STEPS.len()], step: 0 };
        let (pod, config) = self.run_pod(name).await?;
        clock.lap();
        let container = self.create(&pod, &config).await?;
        clock.lap();
        self.start(&container).await?;
        clock.lap();
        self.exec(&container).await?;
        clock.lap();
        let stop = cri::StopContainerRequest { container_id: container.clone(), timeout: 10 };
        self.runtime().stop_container(stop).await?;
        clock.lap();
        self.runtime().remove_container(cri::RemoveContainerRequest { container_id: container }).await?;
        clock.lap();
        self.stop_pod(&pod).await?;
        clock.lap();
        self.remove_pod(&pod).await?;
        clock.lap();
        Ok(clock.took)
    }
}

struct Clock {
    last: Instant,
    took: [f64; STEPS.len()],
    step: usize,
}

impl Clock {
    fn lap(&mut self) {
        let now = Instant::now();
        self.took[self.step] = milliseconds(now - self.last);
        (self.last, self.step) = (now, self.step + 1);
    }
}

/// All rows of pods.
pub async fn measure(nodes: &[Node], options: &Options, table: &mut Table) -> Result<()> {
    lives(nodes, options.rounds / 2, table).await?;
    standing(nodes, table).await?;
    crowd(nodes, options.pods, table).await
}

async fn lives(nodes: &[Node], rounds: usize, table: &mut Table) -> Result<()> {
    let mut times = vec![vec![Vec::new(); nodes.len()]; STEPS.len()];
    // The first two rounds are not counted.
    for round in 0..rounds + 2 {
        for (n, node) in nodes.iter().enumerate() {
            let lives =
                (0..CLIENTS).map(|client| async move { node.life(&format!("{round}-{client}")).await });
            let lives = try_join_all(lives).await.with_context(|| format!("{}: a pod's life", node.title))?;
            for took in lives.iter().filter(|_| round >= 2) {
                took.iter().enumerate().for_each(|(step, took)| times[step][n].push(*took));
            }
        }
    }
    for (step, times) in STEPS.iter().zip(times) {
        table.push(Row::of(&format!("CRI x{CLIENTS} {step}"), "ms", times));
    }
    Ok(())
}

/// What twenty pods cost in memory.
async fn standing(nodes: &[Node], table: &mut Table) -> Result<()> {
    const PODS: usize = 20;
    let (mut daemons, mut shims) = (Vec::new(), Vec::new());
    for node in nodes {
        let names: Vec<_> = (0..PODS).map(|n| format!("standing-{n}")).collect();
        let pods = try_join_all(names.iter().map(|name| node.pod(name))).await?;
        daemons.push(vec![field(&format!("/proc/{}/status", node.pid), "VmRSS:")]);
        shims.push(
            helpers(&node.address)
                .iter()
                .map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
                .collect(),
        );
        for pod in &pods {
            node.stop_pod(pod).await?;
            node.remove_pod(pod).await?;
        }
    }
    table.push(Row::of("daemon memory, 20 pods", "MB", daemons));
    table.push(Row::of("helper memory (PSS), 20 pods", "MB", shims));
    Ok(())
}

/// Many pods at once: none may fail.
async fn crowd(nodes: &[Node], pods: usize, table: &mut Table) -> Result<()> {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for node in nodes {
        let names: Vec<_> = (0..pods).map(|n| format!("crowd-{n}")).collect();
        let begun = Instant::now();
        let (started, failed): (Vec<_>, Vec<_>) =
            join_all(names.iter().map(|name| node.pod(name))).await.into_iter().partition(Result::is_ok);
        up.push(vec![milliseconds(begun.elapsed())]);
        let begun = Instant::now();
        let ends = started.into_iter().flatten().map(|pod| async move {
            node.stop_pod(&pod).await?;
            node.remove_pod(&pod).await
        });
        let not_ended = join_all(ends)
            .await
            .into_iter()
            .filter_map(Result::err)
            .chain(failed.into_iter().filter_map(Result::err));
        let errors: Vec<_> = not_ended.map(|e| format!("{e:#}")).collect();
        down.push(vec![milliseconds(begun.elapsed())]);
        eprintln!(
            "{}: {} of {pods} pods at once failed {}",
            node.title,
            errors.len(),
            errors.first().map_or("", |e| e)
        );
    }
    table.push(Row::of(&format!("{pods} pods at once, started"), "ms", up));
    table.push(Row::of(&format!("{pods} pods at once, ended"), "ms", down));
    Ok(())
}
