//! Containers as plugins of the node resource interface see them, and what such plugins change.
//!
//! Plugins that fail an operation fail it before anything is done; what they say of what has been done is logged.

use std::sync::Arc;

use serde_json::Value;
use windlass_api::cri;
use windlass_core::nri::{self, Adjusted, Changes, Eviction, State, Update};
use windlass_core::{Error, Labels, Result};

use super::stop::stop_at_once;
use crate::cri::Cri;
use crate::spec;
use crate::state::{Container, Phase, Sandbox};

/// A container that is about to be made, as plugins see it.
pub(super) fn planned(id: &str, pod: &Sandbox, config: &cri::ContainerConfig) -> nri::Container {
    nri::Container {
        id: id.to_owned(),
        pod_id: pod.id.clone(),
        name: config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default(),
        state: State::Unknown,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        cdi_devices: config.cdi_devices.iter().map(|device| device.name.clone()).collect(),
        seccomp: seccomp(config),
        ..nri::Container::default()
    }
}

fn seccomp(config: &cri::ContainerConfig) -> Option<nri::Seccomp> {
    use cri::security_profile::ProfileType;
    let security = config.linux.as_ref()?.security_context.as_ref()?;
    let profile = security.seccomp.as_ref()?;
    Some(match profile.profile_type() {
        ProfileType::RuntimeDefault => nri::Seccomp::RuntimeDefault,
        ProfileType::Unconfined => nri::Seccomp::Unconfined,
        ProfileType::Localhost => nri::Seccomp::Localhost(profile.localhost_ref.clone()),
    })
}

impl Cri {
    /// A container as plugins see it.
    async fn seen(&self, container: &Container) -> nri::Container {
        let status = container.status().clone();
        let spec = match self.database.containers().get(&self.cx, &container.id).await {
            Ok(record) => record.spec.and_then(|spec| serde_json::from_slice(&spec.value).ok()),
            Err(_) => None,
        };
        let pod = &container.record.sandbox_id;
        let config = container.config();
        nri::Container {
            id: container.id.clone(),
            pod_id: pod.clone(),
            name: config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default(),
            state: match status.phase() {
                Phase::Created => State::Created,
                Phase::Running => State::Running,
                Phase::Exited => State::Stopped,
            },
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            spec: Arc::new(spec.unwrap_or(Value::Null)),
            pid: status.pid,
            created_at: container.record.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            cdi_devices: config.cdi_devices.iter().map(|device| device.name.clone()).collect(),
            seccomp: seccomp(config),
        }
    }

    /// The pod of a container; one that has gone is told by its id.
    async fn pod_seen(&self, container: &Container) -> nri::Pod {
        match self.state.sandboxes.get(&container.record.sandbox_id) {
            Ok(pod) => self.seen_pod(&pod).await,
            Err(_) => nri::Pod { id: container.record.sandbox_id.clone(), ..nri::Pod::default() },
        }
    }

    /// Plugins adjust the specification of a container that is about to be made.
    pub(super) async fn create_in_plugins(
        &self,
        pod: &Sandbox,
        container: &nri::Container,
        spec: &mut Value,
    ) -> Result<Option<Adjusted>> {
        let Some(nri) = self.plugins() else { return Ok(None) };
        nri.create_container(&self.seen_pod(pod).await, container, spec).await.map(Some)
    }

    /// Making the container failed.
    pub(super) async fn dismiss_in_plugins(&self, pod: &Sandbox, container: &nri::Container) {
        let Some(nri) = self.plugins() else { return };
        let pod = self.seen_pod(pod).await;
        report("stop", &container.id, nri.stop_container(&pod, container).await.map(drop));
        report("remove", &container.id, nri.remove_container(&pod, container).await.map(drop));
    }

    pub(super) async fn created_in_plugins(&self, container: &Container, pod: &Sandbox) {
        let Some(nri) = self.plugins() else { return };
        let told = nri.post_create_container(&self.seen_pod(pod).await, &self.seen(container).await).await;
        report("post-create", &container.id, told);
    }

    pub(super) async fn start_in_plugins(&self, container: &Container, pod: &Sandbox) -> Result<()> {
        let Some(nri) = self.plugins() else { return Ok(()) };
        nri.start_container(&self.seen_pod(pod).await, &self.seen(container).await).await
    }

    pub(super) async fn started_in_plugins(&self, container: &Container) {
        let Some(nri) = self.plugins() else { return };
        let told =
            nri.post_start_container(&self.pod_seen(container).await, &self.seen(container).await).await;
        report("post-start", &container.id, told);
    }

    pub(super) async fn update_in_plugins(
        &self,
        container: &Container,
        pod: &Sandbox,
        resources: &mut Value,
    ) -> Result<Changes> {
        let Some(nri) = self.plugins() else { return Ok(Changes::default()) };
        nri.update_container(&self.seen_pod(pod).await, &self.seen(container).await, resources).await
    }

    pub(super) async fn updated_in_plugins(&self, container: &Container, pod: &Sandbox) {
        let Some(nri) = self.plugins() else { return };
        let told = nri.post_update_container(&self.seen_pod(pod).await, &self.seen(container).await).await;
        report("post-update", &container.id, told);
    }

    /// The container has ended.
    pub(super) async fn stopped_in_plugins(self: &Arc<Self>, container: &Container) {
        let Some(nri) = self.plugins() else { return };
        match nri.stop_container(&self.pod_seen(container).await, &self.seen(container).await).await {
            Ok(changes) => self.carry_out_later(changes),
            Err(error) => report("stop", &container.id, Err(error)),
        }
    }

    /// The container is about to go.
    pub(super) async fn removed_in_plugins(self: &Arc<Self>, container: &Container) {
        let Some(nri) = self.plugins() else { return };
        match nri.remove_container(&self.pod_seen(container).await, &self.seen(container).await).await {
            Ok(changes) => self.carry_out_later(changes),
            Err(error) => report("remove", &container.id, Err(error)),
        }
    }

    /// Carries out what plugins want of other containers, for callers who hold the lock of one.
    pub(super) fn carry_out_later(self: &Arc<Self>, changes: Changes) {
        if changes != Changes::default() {
            let cri = self.clone();
            self.work.spawn(async move { cri.carry_out(changes).await });
        }
    }

    pub(super) async fn carry_out(self: &Arc<Self>, changes: Changes) {
        self.carry_out_updates(changes.updates).await;
        self.carry_out_evictions(changes.evictions).await;
    }

    /// Changes containers as plugins want; answers what could not be done although it matters.
    pub(crate) async fn carry_out_updates(&self, updates: Vec<Update>) -> Vec<Update> {
        let mut failed = Vec::new();
        for update in updates {
            if let Err(error) = self.carry_out_update(&update).await {
                report("update", &update.container_id, Err(error));
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }

    async fn carry_out_update(&self, update: &Update) -> Result<()> {
        let container = self.state.containers.get(&update.container_id)?;
        let _guard = container.lock.lock().await;
        self.still_there(&container)?;
        if container.phase() == Phase::Exited {
            return Err(Error::precondition(format!("container {} has ended", container.id)));
        }
        self.change(&container, Labels::new(), async |current| {
            let mut wanted = current.clone();
            merge(&mut wanted, &update.resources);
            Ok(wanted)
        })
        .await
    }

    /// Stops containers as plugins want; answers those that could not be stopped.
    pub(crate) async fn carry_out_evictions(self: &Arc<Self>, evictions: Vec<Eviction>) -> Vec<Eviction> {
        let mut failed = Vec::new();
        for eviction in evictions {
            let stopped = match self.state.containers.get(&eviction.container_id) {
                Ok(container) => {
                    tracing::info!(id = %container.id, reason = %eviction.reason, "a plugin evicts a container");
                    stop_at_once(self, &container).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = stopped {
                report("evict", &eviction.container_id, Err(error));
                failed.push(eviction);
            }
        }
        failed
    }

    /// All containers that have not stopped, as plugins see them.
    pub(crate) async fn seen_containers(&self) -> Vec<nri::Container> {
        let mut seen = Vec::new();
        for container in self.state.containers.all() {
            if container.phase() != Phase::Exited && !container.removing() {
                seen.push(self.seen(&container).await);
            }
        }
        seen
    }
}

/// Takes in what `changes` says, object by object.
fn merge(into: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        if !changes.is_null() {
            *into = changes.clone();
        }
        return;
    };
    for (key, value) in changes {
        let place = spec::json::object(into, &[]).entry(key.clone()).or_insert(Value::Null);
        merge(place, value);
    }
}

fn report(what: &str, id: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(id, error = %error.chain(), "plugins of the node resource interface: {what}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let mut resources = json!({"cpu": {"shares": 2, "quota": 5}, "unified": {"a": "b"}});
        merge(&mut resources, &json!({"cpu": {"shares": 9}, "memory": {"limit": 7}, "unified": null}));
        assert_eq!(
            resources,
            json!({"cpu": {"shares": 9, "quota": 5}, "memory": {"limit": 7}, "unified": {"a": "b"}})
        );
    }
}
