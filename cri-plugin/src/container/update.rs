//! Other resources for a container: in its specification first, which is the truth; then in its task; then to be seen.
//! Where the runtime refuses, the specification is put back.

use std::sync::Arc;

use serde_json::Value;
use windlass_api::cri;
use windlass_core::{Any, Error, FieldMask, Labels, Result, container};

use crate::cri::Cri;
use crate::spec;
use crate::state::record::{self, ContainerStatus};
use crate::state::{Container, Phase};
use crate::step;

/// Type of the resources in a specification.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Cri {
    pub async fn update_container_resources(
        self: &Arc<Self>,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<cri::UpdateContainerResourcesResponse> {
        let container = self.container(&request.container_id)?;
        let cri = self.clone();
        self.finish(async move {
            let _hold = cri.hold_plugins().await;
            let asked = request.linux.unwrap_or_default();
            let updated = cri.update(&container, asked, request.annotations).await;
            updated.map_err(|error| error.context(format!("update resources of container {}", container.id)))
        })
        .await?;
        Ok(cri::UpdateContainerResourcesResponse {})
    }

    async fn update(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: cri::LinuxContainerResources,
        annotations: Labels,
    ) -> Result<()> {
        let guard = container.lock.lock().await;
        self.still_there(container)?;
        let sandbox = self.state.sandboxes.get(&container.record.sandbox_id)?;
        let handler = self.handler(&sandbox.record.handler)?;
        let settings = self.settings(&handler);
        let mut changes = Default::default();
        self.change(container, annotations, async |current| {
            let mut wanted = spec::resources(&self.host, settings, &asked, current)?;
            changes = self.update_in_plugins(container, &sandbox, &mut wanted).await?;
            Ok(wanted)
        })
        .await?;
        self.updated_in_plugins(container, &sandbox).await;
        // Other containers are changed under their own locks.
        drop(guard);
        self.carry_out(changes).await;
        Ok(())
    }

    /// Changes the resources of a container whose lock the caller holds: `change` makes OCI's `LinuxResources` out of the
    /// present ones.
    pub(super) async fn change(
        &self,
        container: &Container,
        annotations: Labels,
        change: impl AsyncFnOnce(&Value) -> Result<Value>,
    ) -> Result<()> {
        let old = self.database.containers().get(&self.cx, &container.id).await?;
        let unreadable = || Error::data_loss("the container has no readable specification");
        let any = old.spec.clone().ok_or_else(unreadable)?;
        let mut spec: Value = serde_json::from_slice(&any.value).map_err(|e| unreadable().with_source(e))?;
        let current = spec.pointer("/linux/resources").cloned().unwrap_or(Value::Null);
        let resources = change(&current).await?;
        spec::json::object(&mut spec, &["linux"]).insert("resources".into(), resources.clone());
        let mut status = container.status().clone();
        status.resources = Some(spec::resources_status(&spec));
        let new = Any { type_url: any.type_url.clone(), value: bytes(&spec)?.into() };
        self.put_spec(&old, new, &status).await?;
        step!("container.update.written");
        if container.phase() == Phase::Running {
            let resources = Any { type_url: RESOURCES.to_owned(), value: bytes(&resources)?.into() };
            match self.tasks.update(&self.cx, &container.id, resources, annotations).await {
                // It has ended meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let before = container.status().clone();
                    if let Err(left) = self.put_spec(&old, any, &before).await {
                        tracing::error!(
                            id = %container.id, error = %left.chain(),
                            "resources that the runtime refused stay in the specification"
                        );
                    }
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        container.set_status(status);
        Ok(())
    }

    /// Writes specification and status in one.
    pub(super) async fn put_spec(
        &self,
        record: &container::Container,
        spec: Any,
        status: &ContainerStatus,
    ) -> Result<()> {
        let mut changed = record.clone();
        changed.spec = Some(spec);
        changed.extensions.insert(record::STATUS.to_owned(), record::encode(status, "ContainerStatus"));
        let fields = FieldMask(vec!["spec".to_owned(), format!("extensions.{}", record::STATUS)]);
        self.database.containers().update(&self.cx, changed, &fields).await.map(drop)
    }
}

/// A specification, or a part of one, as it is written down.
pub(super) fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("a specification as JSON").with_source(e))
}
