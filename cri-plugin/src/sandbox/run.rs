//! A pod is made: record → namespaces and files → network → its own process → record → visible.
//!
//! A client that asks again while its first call is under way, or after it, gets what that one made.

use std::sync::Arc;
use std::time::SystemTime;

use windlass_api::cri;
use windlass_core::{Error, Result};
use windlass_network::cni::Capabilities;
use windlass_network::namespaces::{self, Mapping, Wanted};

use super::{files, host_ipc, host_network, namespaces as wanted_namespaces, user_namespace};
use crate::config::Handler;
use crate::cri::{Cri, new_id};
use crate::spec;
use crate::state::record::{SandboxPhase, SandboxRecord, SandboxStatus, nanos};
use crate::state::{Reserved, Sandbox, sandbox_name};
use crate::step;

/// Annotation: the pod is not trusted, and asks for the runtime handler of that name.
const UNTRUSTED: &str = "io.kubernetes.cri.untrusted-workload";
/// The handler of pods that are not trusted.
const UNTRUSTED_HANDLER: &str = "untrusted";

impl Cri {
    pub async fn run_pod_sandbox(
        self: &Arc<Self>,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse> {
        let cri = self.clone();
        let id = self.finish(async move { cri.run_pod(request).await }).await?;
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn run_pod(self: Arc<Self>, request: cri::RunPodSandboxRequest) -> Result<String> {
        let config = request.config.ok_or_else(|| Error::invalid("a pod needs a configuration"))?;
        let metadata = config.metadata.as_ref();
        if metadata.is_none_or(|m| m.name.is_empty() || m.namespace.is_empty() || m.uid.is_empty()) {
            return Err(Error::invalid("a pod's metadata must have a name, a namespace and a uid"));
        }
        let handler = handler_name(&config, request.runtime_handler)?;
        self.handler(&handler)?.usable()?;
        let name = sandbox_name(metadata);
        let reservation = match self.state.sandboxes.reserve(&name).await {
            Reserved::Taken(sandbox) => return adopt(&sandbox, &handler),
            Reserved::New(reservation) => reservation,
        };
        let id = new_id()?;
        let (record, capabilities) = self.plan(&id, config, handler)?;
        let begun = std::time::Instant::now();
        let _making = self.networks.making(&id);
        let _hold = self.hold_plugins().await;
        match self.make_pod(&id, &record, capabilities).await {
            Ok(status) => {
                let sandbox = Arc::new(Sandbox::new(id.clone(), record, status));
                reservation.fill(sandbox.clone());
                self.tell_pod(&sandbox, cri::ContainerEventType::ContainerCreatedEvent).await;
                self.tell_pod(&sandbox, cri::ContainerEventType::ContainerStartedEvent).await;
                self.watch_pause(&sandbox);
                tracing::info!(pod = %id, name = %sandbox.name, elapsed = ?begun.elapsed(), "pod runs");
                // Plugins work: what they would not give back before, they may now.
                self.collect_network();
                Ok(id)
            }
            Err(error) => {
                if let Some(left) = self.undo_pod(&id, &record).await {
                    // What could not be undone stays visible as a pod that is not ready: it can be stopped and removed.
                    // It does not stand in the way of the same pod's next try.
                    reservation.give_up(Arc::new(Sandbox::new(id, record, left)));
                }
                Err(error.context("run pod"))
            }
        }
    }

    /// What the pod is going to be, and what network plugins are told of it.
    fn plan(
        &self,
        id: &str,
        config: cri::PodSandboxConfig,
        handler: String,
    ) -> Result<(SandboxRecord, Capabilities)> {
        user_namespace(&config)?;
        // Before anything is made: what the plugins refuse for its form they would refuse to take back, too.
        let capabilities = crate::network::capabilities(&config)?;
        let shared_pid = wanted_namespaces(&config).pid() == cri::NamespaceMode::Pod;
        // Some runtimes mount a plain container's sysfs read-only as a whole, and it is one for all of a network
        // namespace: a privileged pod's own process mounts it first, and writable.
        let privileged =
            config.linux.as_ref().and_then(|l| l.security_context.as_ref()).is_some_and(|s| s.privileged);
        let runtime = self.handler(&handler)?;
        // Its containers would be refused.
        spec::cgroups_path(runtime.systemd_cgroup(), super::cgroup_parent(&config), id)?;
        let pause =
            shared_pid || (privileged && !host_network(&config)) || self.config.always_pauses(&runtime);
        let record = SandboxRecord {
            created_at: nanos(SystemTime::now()),
            pause,
            namespaces: self.namespaces_dir(id).to_string_lossy().into_owned(),
            network: !host_network(&config),
            handler,
            config: Some(config),
        };
        Ok((record, capabilities))
    }

    /// All steps. On an error, some of it may be there.
    async fn make_pod(
        &self,
        id: &str,
        record: &SandboxRecord,
        capabilities: Capabilities,
    ) -> Result<SandboxStatus> {
        let handler = self.handler(&record.handler)?;
        let config =
            record.config.as_ref().ok_or_else(|| Error::internal("a pod without a configuration"))?;
        let mut status = SandboxStatus { phase: SandboxPhase::Creating.into(), ..Default::default() };
        if let Some(linux) = &config.linux {
            status.overhead.clone_from(&linux.overhead);
            status.resources.clone_from(&linux.resources);
        }
        self.found_pod(id, &handler, record, config, &status).await?;
        step!("pod.run.namespaces");
        if record.network {
            let connected = self.connect_pod(id, record, config, capabilities).await?;
            (status.ips, status.network) = (connected.ips, connected.raw);
        }
        step!("pod.run.network");
        if record.pause {
            status.pid = self.start_pause(id, &handler, record, config).await?;
        }
        step!("pod.run.pause");
        status.phase = SandboxPhase::Ready.into();
        self.introduce_pod(id, record, &status).await?;
        step!("pod.run.introduced");
        self.write_pod_status(id, &status).await?;
        step!("pod.run.ready");
        Ok(status)
    }

    /// The record, and beside it what a restart finds by itself: namespaces and files.
    async fn found_pod(
        &self,
        id: &str,
        handler: &Handler<'_>,
        record: &SandboxRecord,
        config: &cri::PodSandboxConfig,
        status: &SandboxStatus,
    ) -> Result<()> {
        let user = user_namespace(config)?;
        let files = {
            let (dir, config, user) = (self.sandbox_dir(id), config.clone(), user.clone());
            tokio::task::spawn_blocking(move || files::make(&dir, &config, user.as_ref()))
        };
        let namespaces = self.make_namespaces(id, handler, config, user);
        let written = async {
            self.write_pod(id, self.runtime(handler), record, status).await?;
            step!("pod.run.recorded");
            Ok::<(), Error>(())
        };
        // None is cut off: each leaves all or nothing, or what `undo` finds.
        let (files, namespaces, written) = tokio::join!(files, namespaces, written);
        written?;
        namespaces?;
        files.map_err(|e| Error::internal("files of a pod").with_source(e))?
    }

    async fn make_namespaces(
        &self,
        id: &str,
        handler: &Handler<'_>,
        config: &cri::PodSandboxConfig,
        user: Option<Mapping>,
    ) -> Result<()> {
        let own_network = !host_network(config);
        let sysctls: Vec<_> = spec::sysctls(self.settings(handler), config)?.into_iter().collect();
        let wanted = Wanted {
            net: own_network,
            ipc: !host_ipc(config),
            uts: own_network,
            user,
            join_user: None,
            hostname: Some(config.hostname.as_str()).filter(|name| own_network && !name.is_empty()),
            sysctls: &sysctls,
        };
        if !wanted.net && !wanted.ipc && wanted.user.is_none() {
            return Ok(());
        }
        namespaces::create(&self.namespaces_dir(id), wanted).await.map(drop).map_err(Error::from)
    }
}

/// A pod of that name is there.
fn adopt(sandbox: &Sandbox, handler: &str) -> Result<String> {
    if !sandbox.is_ready() {
        return Err(Error::exists(format!(
            "pod {} of the name {:?} has stopped; remove it, or ask for another attempt",
            sandbox.id, sandbox.name
        )));
    }
    if sandbox.record.handler != handler {
        return Err(Error::exists(format!(
            "pod {} of the name {:?} runs under runtime handler {:?}",
            sandbox.id, sandbox.name, sandbox.record.handler
        )));
    }
    Ok(sandbox.id.clone())
}

/// The handler that a pod is to run under.
fn handler_name(config: &cri::PodSandboxConfig, asked: String) -> Result<String> {
    if config.annotations.get(UNTRUSTED).is_none_or(|value| value != "true") {
        return Ok(asked);
    }
    if !matches!(asked.as_str(), "" | UNTRUSTED_HANDLER) {
        return Err(Error::invalid("an untrusted pod cannot ask for another runtime handler"));
    }
    let options = wanted_namespaces(config);
    let node = i32::from(cri::NamespaceMode::Node);
    if [options.network, options.pid, options.ipc].contains(&node) {
        return Err(Error::invalid("an untrusted pod cannot use the machine's namespaces"));
    }
    Ok(UNTRUSTED_HANDLER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_pods_have_a_handler_of_their_own() {
        let mut config = cri::PodSandboxConfig::default();
        assert_eq!(handler_name(&config, "kata".into()).expect("as asked"), "kata");
        config.annotations.insert(UNTRUSTED.into(), "true".into());
        assert_eq!(handler_name(&config, String::new()).expect("the only one"), UNTRUSTED_HANDLER);
        assert!(handler_name(&config, "kata".into()).is_err());
    }

    #[test]
    fn a_pod_that_has_stopped_is_not_adopted() {
        let record = SandboxRecord { config: Some(cri::PodSandboxConfig::default()), ..Default::default() };
        let status = |phase: SandboxPhase| SandboxStatus { phase: phase.into(), ..Default::default() };
        let ready = Sandbox::new("1".into(), record.clone(), status(SandboxPhase::Ready));
        assert_eq!(adopt(&ready, "").expect("it is the same pod"), "1");
        assert!(adopt(&ready, "kata").is_err());
        assert!(adopt(&Sandbox::new("2".into(), record, status(SandboxPhase::NotReady)), "").is_err());
    }
}
