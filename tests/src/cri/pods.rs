//! What a kubelet asks of pods and containers.

use std::path::Path;

use tonic::Status;
use windlass_api::cri;
use windlass_api::cri::NamespaceMode;

use super::{Node, label};
use crate::IMAGE;

/// What a command in a container printed and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Process {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A pod of this name; its containers see each other's processes if `shared`.
pub fn pod(node: &Node, name: &str, network: NamespaceMode, shared: bool) -> cri::PodSandboxConfig {
    let options = cri::NamespaceOption {
        network: network.into(),
        pid: if shared { NamespaceMode::Pod } else { NamespaceMode::Container }.into(),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "e2e".into(),
            attempt: 0,
        }),
        hostname: if network == NamespaceMode::Node { String::new() } else { name.into() },
        log_directory: node.logs(name).to_string_lossy().into_owned(),
        labels: label("pod", name),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: node.group(name),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container of a pod that runs a shell script.
pub fn script(pod: &cri::PodSandboxConfig, name: &str, script: &str) -> cri::ContainerConfig {
    let security = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into()],
        args: vec![script.into()],
        log_path: format!("{name}.log"),
        labels: label("container", name),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: security.and_then(|security| security.namespace_options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Node {
    pub fn run_pod(&self, config: &cri::PodSandboxConfig) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.call(|mut client| async move { client.run_pod_sandbox(request).await })
            .map(|answer| answer.pod_sandbox_id)
    }

    pub fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.call(|mut client| async move { client.stop_pod_sandbox(request).await }).map(drop)
    }

    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.call(|mut client| async move { client.remove_pod_sandbox(request).await }).map(drop)
    }

    pub fn create(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        pod_config: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        self.call(|mut client| async move { client.create_container(request).await })
            .map(|answer| answer.container_id)
    }

    pub fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.call(|mut client| async move { client.start_container(request).await }).map(drop)
    }

    /// A container that runs a script, started.
    #[track_caller]
    pub fn run(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        pod_config: &cri::PodSandboxConfig,
    ) -> String {
        let id = self.create(pod, config, pod_config).expect("a container can be made");
        self.start_container(&id).expect("a container can be started");
        id
    }

    pub fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.call(|mut client| async move { client.stop_container(request).await }).map(drop)
    }

    pub fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.call(|mut client| async move { client.remove_container(request).await }).map(drop)
    }

    /// Changes a container's share of processor time.
    pub fn update(&self, id: &str, cpu_shares: i64) -> Result<(), Status> {
        let linux = cri::LinuxContainerResources { cpu_shares, ..Default::default() };
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        self.call(|mut client| async move { client.update_container_resources(request).await }).map(drop)
    }

    pub fn exec(&self, id: &str, script: &str) -> Result<Process, Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: vec!["/bin/sh".into(), "-c".into(), script.into()],
            timeout: 30,
        };
        let answer = self.call(|mut client| async move { client.exec_sync(request).await })?;
        Ok(Process {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// What a command prints that has to succeed.
    #[track_caller]
    pub fn says(&self, id: &str, script: &str) -> String {
        let process = self.exec(id, script).expect("a command can be run");
        assert_eq!((process.code, process.stderr.as_str()), (0, ""), "{script}");
        process.stdout.trim_end().to_owned()
    }

    #[track_caller]
    pub fn pods(&self) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest::default();
        self.call(|mut client| async move { client.list_pod_sandbox(request).await })
            .expect("pods can be listed")
            .items
    }

    #[track_caller]
    pub fn containers(&self) -> Vec<cri::Container> {
        let request = cri::ListContainersRequest::default();
        self.call(|mut client| async move { client.list_containers(request).await })
            .expect("containers can be listed")
            .containers
    }

    pub fn pod_status(&self, id: &str) -> Result<cri::PodSandboxStatus, Status> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.call(|mut client| async move { client.pod_sandbox_status(request).await })
            .map(|answer| answer.status.expect("a pod has a status"))
    }

    pub fn is_ready(&self, pod: &str) -> bool {
        self.pod_status(pod).is_ok_and(|status| status.state() == cri::PodSandboxState::SandboxReady)
    }

    pub fn status(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.call(|mut client| async move { client.container_status(request).await })
            .map(|answer| answer.status.expect("a container has a status"))
    }

    #[track_caller]
    pub fn state(&self, id: &str) -> cri::ContainerState {
        self.status(id).expect("the container is known").state()
    }

    /// How a container has ended: code and reason. Waits for it.
    #[track_caller]
    pub fn ended(&self, id: &str) -> (i32, String) {
        self.daemon
            .eventually("the container ends", || self.state(id) == cri::ContainerState::ContainerExited);
        let status = self.status(id).expect("the container is known");
        (status.exit_code, status.reason)
    }

    /// The same, of a daemon that may die.
    pub fn end_or_error(&self, id: &str) -> Result<i32, Status> {
        let mut status = self.status(id)?;
        self.daemon.try_eventually("the container ends", || {
            if status.state() == cri::ContainerState::ContainerExited {
                return Some(Ok(status.exit_code));
            }
            match self.status(id) {
                Ok(new) => status = new,
                Err(error) => return Some(Err(error)),
            }
            None
        })
    }

    /// The process of a container, or nought.
    #[track_caller]
    pub fn pid(&self, id: &str) -> i32 {
        self.pid_or_error(id).expect("the container is known")
    }

    /// The same, of a daemon that may die.
    pub fn pid_or_error(&self, id: &str) -> Result<i32, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let mut answer = self.call(|mut client| async move { client.container_status(request).await })?;
        let info = answer.info.remove("info").expect("it is verbose");
        let info: serde_json::Value = serde_json::from_str(&info).expect("it is JSON");
        Ok(info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a number"))
    }

    /// `kill -9` of the shim above a container's process.
    #[track_caller]
    pub fn kill_shim(&self, id: &str) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid(id))).expect("the process runs");
        let after = stat.rsplit_once(')').expect("a stat line names its command").1;
        let shim =
            after.split_whitespace().nth(1).expect("a stat line has a parent").parse().expect("a number");
        let name = std::fs::read_to_string(format!("/proc/{shim}/comm")).expect("the parent runs");
        assert!(name.starts_with("containerd-shim"), "{name}");
        // SAFETY: a plain signal to the shim of this test's own container.
        assert_eq!(unsafe { libc::kill(shim, libc::SIGKILL) }, 0);
    }
}

/// Lines of a log in the CRI's format, as "stream tag content"; panics where one is not whole.
#[track_caller]
pub fn log(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a line is cut: {:?}", text.lines().last());
    let line = |line: &str| {
        let (time, rest) = line.split_once(' ').unwrap_or_default();
        assert!(time.len() >= 20 && time.contains('T'), "no time in {line:?}");
        rest.to_owned()
    };
    text.lines().map(line).collect()
}
