//! Pods that fit a filter, in one answer or as a stream.

use std::sync::Arc;

use futures::stream::BoxStream;
use windlass_api::cri;
use windlass_core::Result;

use super::status;
use crate::cri::Cri;
use crate::service::chunked;
use crate::state::Sandbox;

impl Cri {
    pub async fn list_pod_sandbox(
        self: &Arc<Self>,
        request: cri::ListPodSandboxRequest,
    ) -> Result<cri::ListPodSandboxResponse> {
        Ok(cri::ListPodSandboxResponse { items: self.pods(request.filter.as_ref()) })
    }

    pub async fn stream_pod_sandboxes(
        self: &Arc<Self>,
        request: cri::StreamPodSandboxesRequest,
    ) -> Result<BoxStream<'static, Result<cri::StreamPodSandboxesResponse>>> {
        let pods = self.pods(request.filter.as_ref());
        Ok(chunked(pods, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    fn pods(&self, filter: Option<&cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let fitting = |sandbox: &Arc<Sandbox>| filter.is_none_or(|filter| fits(sandbox, filter));
        self.state.sandboxes.all().iter().filter(|s| fitting(s)).map(|s| wire(s)).collect()
    }
}

fn fits(sandbox: &Sandbox, filter: &cri::PodSandboxFilter) -> bool {
    let labels = &sandbox.config().labels;
    sandbox.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == i32::from(status::state(sandbox)))
        && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn wire(sandbox: &Sandbox) -> cri::PodSandbox {
    let config = sandbox.config();
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata.clone(),
        state: status::state(sandbox).into(),
        created_at: sandbox.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.handler.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::record::{SandboxPhase, SandboxRecord, SandboxStatus};

    #[test]
    fn filters_are_joined() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let config = cri::PodSandboxConfig { labels: labels.clone(), ..Default::default() };
        let record = SandboxRecord { config: Some(config), ..Default::default() };
        let status = SandboxStatus { phase: SandboxPhase::Ready.into(), ..Default::default() };
        let sandbox = Sandbox::new("abcd".into(), record, status);
        let ready = |state: cri::PodSandboxState| Some(cri::PodSandboxStateValue { state: state.into() });
        let filter =
            |id: &str, state, label_selector| cri::PodSandboxFilter { id: id.into(), state, label_selector };
        let is = cri::PodSandboxState::SandboxReady;
        assert!(fits(&sandbox, &filter("", None, BTreeMap::new())));
        assert!(fits(&sandbox, &filter("abc", ready(is), labels.clone())));
        assert!(!fits(&sandbox, &filter("b", None, BTreeMap::new())));
        assert!(!fits(&sandbox, &filter("", ready(cri::PodSandboxState::SandboxNotready), BTreeMap::new())));
        let other = BTreeMap::from([("app".to_owned(), "db".to_owned())]);
        assert!(!fits(&sandbox, &filter("", None, other)));
    }
}
