//! What a pod is, on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use windlass_api::cri;
use windlass_core::Result;

use super::{info, namespaces};
use crate::cri::Cri;
use crate::state::Sandbox;
use crate::state::record::nanos;

impl Cri {
    pub async fn pod_sandbox_status(
        self: &Arc<Self>,
        request: cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse> {
        let sandbox = self.state.sandboxes.get(&request.pod_sandbox_id).map_err(|e| e.context("pod"))?;
        let info = if request.verbose {
            BTreeMap::from([("info".to_owned(), info::verbose(self, &sandbox).await.to_string())])
        } else {
            BTreeMap::new()
        };
        Ok(cri::PodSandboxStatusResponse {
            status: Some(wire(&sandbox)),
            info,
            containers_statuses: self.statuses_of(&sandbox.id).await,
            timestamp: nanos(SystemTime::now()),
        })
    }
}

/// Whether it can be used.
pub(super) fn state(sandbox: &Sandbox) -> cri::PodSandboxState {
    if sandbox.is_ready() {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    }
}

/// A pod's status.
pub fn wire(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let config = sandbox.config();
    let mut ips = sandbox.status().ips.clone().into_iter();
    // Once it is taken down, the addresses are somebody else's.
    if sandbox.status().down {
        ips = Vec::new().into_iter();
    }
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: config.metadata.clone(),
        state: state(sandbox).into(),
        created_at: sandbox.record.created_at,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(namespaces(config)) }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.handler.clone(),
    }
}
