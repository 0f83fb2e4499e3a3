//! Pods as plugins that follow and adjust containers see them, and what such plugins are told of pods.

use std::sync::Weak;

use async_trait::async_trait;
use serde_json::Value;
use windlass_api::cri;
use windlass_core::Result;
use windlass_core::nri::{Container, Domain, Eviction, Hold, Namespace, Nri, Pod, Update};
use windlass_network::namespaces::is_namespace;

use super::cgroup_parent;
use crate::cri::Cri;
use crate::state::Sandbox;
use crate::state::record::{SandboxRecord, SandboxStatus};

/// The kinds of namespaces that are held by file, and what OCI calls them.
const KINDS: [(&str, &str); 4] = [("net", "network"), ("ipc", "ipc"), ("uts", "uts"), ("user", "user")];

impl Cri {
    /// Keeps plugins from joining amid an operation.
    pub(crate) async fn hold_plugins(&self) -> Hold {
        match &self.nri {
            Some(nri) => nri.hold().await,
            None => Hold::none(),
        }
    }

    /// The plugins, where anybody listens.
    pub(crate) fn plugins(&self) -> Option<&dyn Nri> {
        self.nri.as_deref().filter(|nri| nri.enabled())
    }

    /// A pod as plugins see it.
    pub(crate) async fn seen_pod(&self, sandbox: &Sandbox) -> Pod {
        self.as_pod(&sandbox.id, &sandbox.record, &sandbox.status())
    }

    fn as_pod(&self, id: &str, record: &SandboxRecord, status: &SandboxStatus) -> Pod {
        let config = record.config.clone().unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        let dir = self.namespaces_dir(id);
        let namespaces = KINDS.iter().map(|(file, kind)| (dir.join(file), kind));
        let held = namespaces.filter(|(path, _)| is_namespace(path));
        let linux = config.linux.as_ref();
        Pod {
            id: id.to_owned(),
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            runtime_handler: record.handler.clone(),
            cgroup_parent: cgroup_parent(&config).to_owned(),
            cgroups_path: self.cgroups_path(id, &record.handler, &config),
            namespaces: held
                .map(|(path, kind)| Namespace {
                    kind: (*kind).to_owned(),
                    path: path.to_string_lossy().into_owned(),
                })
                .collect(),
            pid: status.pid,
            ips: status.ips.clone(),
            overhead: self.oci_resources(status.overhead.as_ref()),
            resources: self.oci_resources(status.resources.as_ref()),
            sandbox_resources: self.oci_resources(linux.and_then(|linux| linux.resources.as_ref())),
            labels: config.labels,
            annotations: config.annotations,
        }
    }

    /// Where the pod's own process is, or would be: in the form that the handler's containers have it.
    fn cgroups_path(&self, id: &str, handler: &str, config: &cri::PodSandboxConfig) -> String {
        let systemd = self.handler(handler).is_ok_and(|handler| handler.systemd_cgroup());
        // A parent that has not the form was refused when the pod was made.
        crate::spec::cgroups_path(systemd, cgroup_parent(config), id).unwrap_or_default()
    }

    fn oci_resources(&self, resources: Option<&cri::LinuxContainerResources>) -> Value {
        let Some(resources) = resources else { return Value::Null };
        match self.handler("").and_then(|handler| {
            Ok(crate::spec::resources(&self.host, self.settings(&handler), resources, &Value::Null)?)
        }) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "a pod's resources are not told to plugins");
                Value::Null
            }
        }
    }

    /// The pod runs, as far as the caller knows. A plugin may refuse it.
    pub(super) async fn introduce_pod(
        &self,
        id: &str,
        record: &SandboxRecord,
        status: &SandboxStatus,
    ) -> Result<()> {
        match self.plugins() {
            Some(nri) => nri.run_pod(&self.as_pod(id, record, status)).await,
            None => Ok(()),
        }
    }

    /// A pod that never ran goes again.
    pub(super) async fn dismiss_pod(&self, id: &str, record: &SandboxRecord) {
        let Some(nri) = self.plugins() else { return };
        let pod = self.as_pod(id, record, &SandboxStatus::default());
        log(id, "stop", nri.stop_pod(&pod).await);
        log(id, "removal", nri.remove_pod(&pod).await);
    }

    pub(super) async fn stop_pod_in_plugins(&self, sandbox: &Sandbox) {
        if let Some(nri) = self.plugins() {
            log(&sandbox.id, "stop", nri.stop_pod(&self.seen_pod(sandbox).await).await);
        }
    }

    pub(super) async fn remove_pod_in_plugins(&self, sandbox: &Sandbox) {
        if let Some(nri) = self.plugins() {
            log(&sandbox.id, "removal", nri.remove_pod(&self.seen_pod(sandbox).await).await);
        }
    }

    /// A plugin may refuse the change.
    pub(super) async fn update_pod_in_plugins(
        &self,
        sandbox: &Sandbox,
        overhead: Option<&cri::LinuxContainerResources>,
        resources: Option<&cri::LinuxContainerResources>,
    ) -> Result<()> {
        let Some(nri) = self.plugins() else { return Ok(()) };
        let (overhead, resources) = (self.oci_resources(overhead), self.oci_resources(resources));
        nri.update_pod(&self.seen_pod(sandbox).await, &overhead, &resources).await
    }

    pub(super) async fn pod_updated_in_plugins(&self, sandbox: &Sandbox) {
        if let Some(nri) = self.plugins() {
            log(&sandbox.id, "update", nri.post_update_pod(&self.seen_pod(sandbox).await).await);
        }
    }
}

/// The plugin as owner of pods and containers. It does not keep it alive.
pub struct Owner(pub Weak<Cri>);

#[async_trait]
impl Domain for Owner {
    async fn pods(&self) -> Vec<Pod> {
        let Some(cri) = self.0.upgrade() else { return Vec::new() };
        let mut pods = Vec::new();
        for sandbox in cri.state.sandboxes.all() {
            if sandbox.is_ready() {
                pods.push(cri.seen_pod(&sandbox).await);
            }
        }
        pods
    }

    async fn containers(&self) -> Vec<Container> {
        match self.0.upgrade() {
            Some(cri) => cri.seen_containers().await,
            None => Vec::new(),
        }
    }

    async fn update(&self, updates: Vec<Update>) -> Vec<Update> {
        match self.0.upgrade() {
            Some(cri) => cri.carry_out_updates(updates).await,
            None => updates,
        }
    }

    async fn evict(&self, evictions: Vec<Eviction>) -> Vec<Eviction> {
        match self.0.upgrade() {
            Some(cri) => cri.carry_out_evictions(evictions).await,
            None => evictions,
        }
    }
}

/// What has happened stays so, whatever a plugin thinks of it.
fn log(id: &str, what: &str, told: Result<()>) {
    if let Err(error) = told {
        tracing::warn!(pod = %id, error = %error.chain(), "a plugin fails at the {what} of a pod");
    }
}
