//! Containers listed, from memory alone.

use std::sync::Arc;

use windlass_api::cri;

use crate::cri::Cri;
use crate::state::{Container, Phase};

/// The state as a word for people.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Exited => "exited",
    }
}

/// The state as CRI has it.
pub(super) fn state(phase: Phase) -> cri::ContainerState {
    match phase {
        Phase::Created => cri::ContainerState::ContainerCreated,
        Phase::Running => cri::ContainerState::ContainerRunning,
        Phase::Exited => cri::ContainerState::ContainerExited,
    }
}

/// A container as lists show it.
fn wire(container: &Container) -> cri::Container {
    let (record, config) = (&container.record, container.config());
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        state: state(container.phase()).into(),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    }
}

impl Cri {
    pub async fn list_containers(&self, request: cri::ListContainersRequest) -> cri::ListContainersResponse {
        cri::ListContainersResponse { containers: self.containers(request.filter.as_ref()) }
    }

    /// All containers that a filter lets through, the older ones first.
    pub fn containers(&self, filter: Option<&cri::ContainerFilter>) -> Vec<cri::Container> {
        let mut found: Vec<_> = match filter {
            None => self.state.containers.all(),
            Some(filter) => self.filtered(filter),
        };
        found.sort_by_key(|container| container.record.created_at);
        found.iter().map(|container| wire(container)).collect()
    }

    fn filtered(&self, filter: &cri::ContainerFilter) -> Vec<Arc<Container>> {
        let candidates = if filter.id.is_empty() {
            self.state.containers.all()
        } else {
            self.state.containers.get(&filter.id).into_iter().collect()
        };
        let pod = match filter.pod_sandbox_id.as_str() {
            "" => None,
            // An id that names no pod is that of containers whose pod has gone.
            id => Some(self.state.sandboxes.get(id).map_or_else(|_| id.to_owned(), |pod| pod.id.clone())),
        };
        let fits = |container: &Arc<Container>| {
            let labels = &container.config().labels;
            pod.as_ref().is_none_or(|pod| *pod == container.record.sandbox_id)
                && filter
                    .state
                    .as_ref()
                    .is_none_or(|wanted| wanted.state == i32::from(state(container.phase())))
                && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        candidates.into_iter().filter(fits).collect()
    }
}
