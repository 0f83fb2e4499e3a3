//! The daemon is killed at every named step of Kubernetes' pods; it is started again, and nothing acknowledged is lost, what
//! was cut off can be asked for again, and nothing is left over.
//!
//! The steps are found in the sources, so a new one cannot be forgotten. Needs binaries with the feature `failpoints`:
//! `make steps` builds them into `target/failpoints`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use tonic::{Code, Status};
use windlass_api::cri::{ContainerConfig, ContainerState, NamespaceMode, PodSandboxConfig};
use windlass_tests::cri::{Node, log, pod, script};
use windlass_tests::{Daemon, steps};

/// Attempts that the kubelet makes of one pod, or of one container.
const ATTEMPTS: u32 = 4;

/// What the kubelet has been told. What is being asked for is in none of these: then anything may be.
#[derive(Default)]
struct Told {
    /// The pod that runs.
    pod: Option<String>,
    /// State of containers, with the process of those that run.
    containers: BTreeMap<String, (ContainerState, i32)>,
    /// What has been removed.
    gone: BTreeSet<String>,
}

impl Told {
    /// What is not so any more.
    fn lost(&self, node: &Node) -> Vec<String> {
        let mut lost = Vec::new();
        if let Some(pod) = self.pod.as_ref().filter(|pod| !node.is_ready(pod)) {
            lost.push(format!("pod {pod} is not ready"));
        }
        for (id, (state, pid)) in &self.containers {
            match node.status(id) {
                Ok(status) if status.state() != *state => {
                    lost.push(format!("container {id} is {:?} instead of {state:?}", status.state()));
                }
                Ok(_) if *state == ContainerState::ContainerRunning && node.pid(id) != *pid => {
                    lost.push(format!("container {id} has another process"));
                }
                Ok(_) => {}
                Err(error) => lost.push(format!("container {id}: {error}")),
            }
        }
        lost.extend(
            self.gone.iter().filter(|id| node.status(id).is_ok()).map(|id| format!("container {id} is back")),
        );
        lost
    }
}

/// Asks for a pod until there is one: for the next attempt where this one has stopped.
fn ensure_pod(node: &Node, config: &mut PodSandboxConfig) -> Result<String, Status> {
    for attempt in 0..ATTEMPTS {
        config.metadata.as_mut().expect("it has a name").attempt = attempt;
        match node.run_pod(config) {
            Err(error) if error.code() == Code::AlreadyExists => {}
            answer => return answer,
        }
    }
    Err(Status::internal("no attempt at the pod succeeds"))
}

/// The same for a container: one that has been started already is removed, and another attempt is made.
fn ensure_container(
    node: &Node,
    pod: &str,
    config: &mut ContainerConfig,
    of: &PodSandboxConfig,
) -> Result<String, Status> {
    for attempt in 0..ATTEMPTS {
        config.metadata.as_mut().expect("it has a name").attempt = attempt;
        match node.create(pod, config, of) {
            Err(error) if error.code() == Code::AlreadyExists => {}
            answer => return answer,
        }
    }
    Err(Status::internal("no attempt at the container succeeds"))
}

/// A pod's whole life, each answer noted.
fn life(node: &Node, told: &mut Told) -> Result<(), Status> {
    let mut of = pod(node, "web", NamespaceMode::Pod, true);
    told.pod = None;
    let id = ensure_pod(node, &mut of)?;
    told.pod = Some(id.clone());
    let talks = "echo begun; trap '' TERM; while :; do sleep 1000; done";
    let mut ids = Vec::new();
    // The first reads the image's users, the second knows them.
    for (name, text) in [("talks", talks), ("ends", "exit 3")] {
        let container = ensure_container(node, &id, &mut script(&of, name, text), &of)?;
        told.containers.insert(container.clone(), (ContainerState::ContainerCreated, 0));
        ids.push(container);
    }
    let (talks, ends) = (&ids[0], &ids[1]);
    for container in &ids {
        told.containers.remove(container);
        node.start_container(container)?;
        if container == talks {
            told.containers
                .insert(talks.clone(), (ContainerState::ContainerRunning, node.pid_or_error(talks)?));
        }
    }
    let said = node.exec(talks, "echo inside")?;
    if said.stdout != "inside\n" {
        return Err(Status::internal(format!("a command printed {said:?}")));
    }
    node.update(talks, 512)?;
    let code = node.end_or_error(ends)?;
    if code != 3 {
        return Err(Status::internal(format!("a container ended with {code} instead of 3")));
    }
    told.containers.insert(ends.clone(), (ContainerState::ContainerExited, 0));
    told.containers.remove(talks);
    node.stop_container(talks, 0)?;
    told.containers.insert(talks.clone(), (ContainerState::ContainerExited, 0));
    told.containers.remove(talks);
    node.remove_container(talks)?;
    told.gone.insert(talks.clone());
    // The other one goes with its pod.
    told.pod = None;
    node.stop_pod(&id)?;
    told.containers.remove(ends);
    node.remove_pod(&id)?;
    told.gone.insert(ends.clone());
    Ok(())
}

/// What came of a kill at one step.
#[derive(Default)]
struct Outcome {
    reached: bool,
    lost: Vec<String>,
    left: Vec<String>,
}

fn kill_at(step: &str) -> Result<Outcome, String> {
    let marks = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mark = marks.path().join("reached");
    // The image is there before anything can be killed.
    let mut node = Node::with(Daemon::builder().failpoints());
    node.daemon.terminate();
    node.daemon.set_env("WINDLASS_KILL_MARK", Some(&mark.to_string_lossy()));
    node.daemon.set_env("WINDLASS_KILL_AT", Some(step));
    node.daemon.start();
    let mut told = Told::default();
    let lived = life(&node, &mut told);
    let reached = mark.exists();
    if reached {
        let status = node.daemon.wait();
        if status.signal() != Some(libc::SIGKILL) {
            return Err(format!("it ended otherwise: {status}"));
        }
    } else if let Err(error) = lived {
        return Err(format!("it fails without having been killed: {error}\n{}", node.daemon.log()));
    } else {
        node.daemon.terminate();
    }
    node.daemon.set_env("WINDLASS_KILL_AT", None);
    node.daemon.start();
    let mut outcome = Outcome { reached, lost: told.lost(&node), left: Vec::new() };
    // Lines that are not whole make this panic.
    log(&node.logs("web").join("talks.log"));
    life(&node, &mut Told::default()).map_err(|e| format!("the retry fails: {e}\n{}", node.daemon.log()))?;
    for pod in node.pods() {
        node.stop_pod(&pod.id).map_err(|e| format!("a pod cannot be stopped: {e}"))?;
        node.remove_pod(&pod.id).map_err(|e| format!("a pod cannot be removed: {e}"))?;
    }
    outcome.left = node.left_in_the_end();
    Ok(outcome)
}

#[test]
fn a_kill_at_any_step_of_pods_loses_nothing_and_leaves_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let only = std::env::var("STEP").unwrap_or_default();
    let steps: Vec<_> =
        steps::named(root, &["cri-plugin/*.rs"]).into_iter().filter(|step| step.contains(&only)).collect();
    assert!(steps.len() > 25 || !only.is_empty(), "the steps are found: {steps:?}");
    let (mut kills, mut missed, mut failed) = (0, Vec::new(), Vec::new());
    let (mut lost, mut left) = (0, 0);
    for step in &steps {
        match kill_at(step) {
            Ok(outcome) => {
                if outcome.reached {
                    kills += 1
                } else {
                    missed.push(step.as_str())
                }
                lost += outcome.lost.len();
                left += outcome.left.len();
                failed.extend(outcome.lost.iter().map(|what| format!("{step}: lost: {what}")));
                failed.extend(outcome.left.iter().map(|what| format!("{step}: left over: {what}")));
            }
            Err(error) => failed.push(format!("{step}: {error}")),
        }
    }
    println!(
        "{} steps, {kills} kills, {lost} lost, {left} left over, {} not come by: {}",
        steps.len(),
        missed.len(),
        missed.join(", ")
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(missed.is_empty(), "steps that no scenario comes by: {}", missed.join(", "));
}
