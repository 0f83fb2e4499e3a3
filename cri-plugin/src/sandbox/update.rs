//! A pod's resources change: the kubelet has changed the pod's cgroup, plugins and the record are told.

use std::sync::Arc;

use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::cri::Cri;

impl Cri {
    pub async fn update_pod_sandbox_resources(
        self: &Arc<Self>,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<cri::UpdatePodSandboxResourcesResponse> {
        let sandbox = self.state.sandboxes.get(&request.pod_sandbox_id).map_err(|e| e.context("pod"))?;
        let cri = self.clone();
        self.finish(async move {
            let _lock = sandbox.lock.lock().await;
            let _hold = cri.hold_plugins().await;
            if !sandbox.is_ready() {
                return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
            }
            cri.update_pod_in_plugins(&sandbox, request.overhead.as_ref(), request.resources.as_ref())
                .await?;
            cri.set_pod_status(&sandbox, |status| {
                if request.overhead.is_some() {
                    status.overhead = request.overhead;
                }
                if request.resources.is_some() {
                    status.resources = request.resources;
                }
            })
            .await?;
            cri.pod_updated_in_plugins(&sandbox).await;
            Ok(cri::UpdatePodSandboxResourcesResponse {})
        })
        .await
    }
}
