//! What a container is told to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use windlass_api::cri;
use windlass_core::container::Runtime;
use windlass_core::{Error, Result};

use super::{list, reason};
use crate::cri::Cri;
use crate::spec;
use crate::state::record::ContainerStatus;
use crate::state::{Container, Phase};

impl Cri {
    pub async fn container_status(
        self: &Arc<Self>,
        request: cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse> {
        let container = self.container(&request.container_id)?;
        let status = Some(wire(self, &container));
        let info = if request.verbose { self.info(&container).await? } else { BTreeMap::new() };
        Ok(cri::ContainerStatusResponse { status, info })
    }

    /// What `crictl inspect` shows beside the status.
    async fn info(&self, container: &Container) -> Result<BTreeMap<String, String>> {
        let record = self.database.containers().get(&self.cx, &container.id).await?;
        let spec = record.spec.as_ref().map_or(Ok(Value::Null), |spec| serde_json::from_slice(&spec.value));
        let unreadable =
            |e| Error::data_loss(format!("specification of container {}", container.id)).with_source(e);
        let config = serde_json::to_value(container.config())
            .map_err(|e| Error::internal("configuration as JSON").with_source(e))?;
        let info = json!({
            "sandboxID": record.sandbox_id,
            "pid": container.status().pid,
            "removing": container.removing(),
            "snapshotKey": record.snapshot_key,
            "snapshotter": record.snapshotter,
            "runtimeType": record.runtime.name,
            "runtimeOptions": options(&record.runtime),
            "config": config,
            "runtimeSpec": spec.map_err(unreadable)?,
        });
        Ok(BTreeMap::from([("info".to_owned(), info.to_string())]))
    }
}

/// The status as clients see it.
pub fn wire(plugin: &Cri, container: &Container) -> cri::ContainerStatus {
    let (record, config) = (&container.record, container.config());
    let (mut image, mut image_ref) = (config.image.clone(), record.image_id.clone());
    if let Some(known) = plugin.images.resolve(&record.image_id) {
        if let Some(name) = known.names.first() {
            image = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
        }
        if let Some(digest) = known.digests.first() {
            image_ref = digest.clone();
        }
    }
    let status = container.status().clone();
    let phase = status.phase();
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        state: list::state(phase).into(),
        created_at: record.created_at,
        started_at: if phase == Phase::Created { 0 } else { status.started_at },
        finished_at: if phase == Phase::Exited { status.finished_at } else { 0 },
        exit_code: status.exit_code,
        image,
        image_ref,
        image_id: record.image_id.clone(),
        reason: told_reason(&status),
        message: status.message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: status.resources,
        user: record.user.clone(),
        stop_signal: spec::signal_to_cri(record.stop_signal).into(),
    }
}

/// A reason is told of every end, also of one that has none of its own.
fn told_reason(status: &ContainerStatus) -> String {
    if status.phase() != Phase::Exited || !status.reason.is_empty() {
        return status.reason.clone();
    }
    if status.exit_code == 0 { reason::COMPLETED } else { reason::ERROR }.to_owned()
}

/// The options of a runtime of ours, by the names that configuration has for them.
fn options(runtime: &Runtime) -> Value {
    let Some(any) = &runtime.options else { return Value::Null };
    let Ok(options) = windlass_api::convert::any::unpack::<windlass_api::runc::Options>(any) else {
        return json!({ "type_url": any.type_url });
    };
    let mut shown = serde_json::Map::new();
    for (key, value) in [
        ("binary_name", &options.binary_name),
        ("root", &options.root),
        ("shim_cgroup", &options.shim_cgroup),
        ("criu_image_path", &options.criu_image_path),
        ("criu_work_path", &options.criu_work_path),
    ] {
        if !value.is_empty() {
            shown.insert(key.to_owned(), value.as_str().into());
        }
    }
    for (key, value) in [
        ("systemd_cgroup", options.systemd_cgroup),
        ("no_pivot_root", options.no_pivot_root),
        ("no_new_keyring", options.no_new_keyring),
    ] {
        if value {
            shown.insert(key.to_owned(), true.into());
        }
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_reason() {
        let mut status = ContainerStatus::default();
        assert_eq!(told_reason(&status), "");
        status.finished_at = 1;
        assert_eq!(told_reason(&status), "Completed");
        status.exit_code = 3;
        assert_eq!(told_reason(&status), "Error");
        status.reason = reason::OOM.into();
        assert_eq!(told_reason(&status), "OOMKilled");
    }
}
