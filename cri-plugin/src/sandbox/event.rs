//! What happens to pods, for `GetContainerEvents`: a pod is told of like a container with the pod's id.

use std::time::SystemTime;

use windlass_api::cri;

use super::status;
use crate::cri::Cri;
use crate::state::Sandbox;
use crate::state::record::nanos;

impl Cri {
    /// Tells whoever follows; nothing is made where nobody does.
    pub(crate) async fn tell_pod(&self, sandbox: &Sandbox, kind: cri::ContainerEventType) {
        if !self.events.wanted() {
            return;
        }
        self.events.tell(cri::ContainerEventResponse {
            container_id: sandbox.id.clone(),
            container_event_type: kind.into(),
            created_at: nanos(SystemTime::now()),
            pod_sandbox_status: Some(status::wire(sandbox)),
            containers_statuses: self.statuses_of(&sandbox.id).await,
        });
    }
}
