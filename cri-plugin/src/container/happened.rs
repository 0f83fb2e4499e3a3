//! What happened to containers, told to those who follow, with the pod as it is then.

use windlass_api::cri;
use windlass_core::Result;

use super::now;
use crate::cri::Cri;
use crate::events::Follow;
use crate::state::Container;

impl Cri {
    /// Follows events from now on.
    pub fn get_container_events(&self, _: cri::GetEventsRequest) -> Result<Follow> {
        self.events.follow()
    }

    /// Tells of a container. Nothing is made where nobody listens.
    pub(super) async fn tell(&self, container: &Container, kind: cri::ContainerEventType) {
        if self.events.wanted() {
            let pod = self.state.sandboxes.get(&container.record.sandbox_id).ok();
            self.events.tell(cri::ContainerEventResponse {
                container_id: container.id.clone(),
                container_event_type: kind.into(),
                created_at: now(),
                pod_sandbox_status: pod.map(|pod| crate::sandbox::wire_status(&pod)),
                containers_statuses: self.statuses_of(&container.record.sandbox_id).await,
            });
        }
    }

    /// The statuses of a pod's containers.
    pub(crate) async fn statuses_of(&self, sandbox: &str) -> Vec<cri::ContainerStatus> {
        self.state
            .containers_of(sandbox)
            .iter()
            .map(|container| super::wire_status(self, container))
            .collect()
    }
}
