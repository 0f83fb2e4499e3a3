//! `PodSandboxStats` and its like.

use std::sync::Arc;

use futures::stream::BoxStream;
use windlass_api::cri;
use windlass_core::{Error, Result};

use super::collect::{Reading, TakenPod};
use super::figures::{Detail, Figures, value};
use super::network;
use crate::cri::Cri;
use crate::service::chunked;
use crate::state::Sandbox;

impl Cri {
    /// *Not found*; *unavailable* for a pod that is not ready.
    pub async fn pod_sandbox_stats(
        self: &Arc<Self>,
        request: cri::PodSandboxStatsRequest,
    ) -> Result<cri::PodSandboxStatsResponse> {
        let sandbox =
            self.state.sandboxes.get(&request.pod_sandbox_id).map_err(|error| error.context("pod"))?;
        if !sandbox.is_ready() {
            return Err(Error::unavailable(format!("pod {} is not ready: it has no figures", sandbox.id)));
        }
        let stats = self.pod_stats_of(vec![sandbox]).await?;
        Ok(cri::PodSandboxStatsResponse { stats: stats.into_iter().next() })
    }

    pub async fn list_pod_sandbox_stats(
        self: &Arc<Self>,
        request: cri::ListPodSandboxStatsRequest,
    ) -> Result<cri::ListPodSandboxStatsResponse> {
        let stats = self.pod_stats_of(self.fitting_pods(request.filter.as_ref())).await?;
        Ok(cri::ListPodSandboxStatsResponse { stats })
    }

    pub async fn stream_pod_sandbox_stats(
        self: &Arc<Self>,
        request: cri::StreamPodSandboxStatsRequest,
    ) -> Result<BoxStream<'static, Result<cri::StreamPodSandboxStatsResponse>>> {
        let stats = self.pod_stats_of(self.fitting_pods(request.filter.as_ref())).await?;
        Ok(chunked(stats, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn pod_stats_of(self: &Arc<Self>, pods: Vec<Arc<Sandbox>>) -> Result<Vec<cri::PodSandboxStats>> {
        self.measure_layers();
        let taken = self.take_pods(pods, Detail::Usual).await?;
        Ok(taken.iter().map(|pod| self.pod_wire(pod)).collect())
    }

    /// All pods that are ready and that a filter lets through.
    pub(super) fn fitting_pods(&self, filter: Option<&cri::PodSandboxStatsFilter>) -> Vec<Arc<Sandbox>> {
        let none = cri::PodSandboxStatsFilter::default();
        let filter = filter.unwrap_or(&none);
        let mut found: Vec<_> = match filter.id.as_str() {
            "" => self.state.sandboxes.all(),
            id => self.state.sandboxes.get(id).into_iter().collect(),
        };
        found.retain(|pod| {
            let labels = &pod.config().labels;
            pod.is_ready() && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        found
    }

    /// A pod's figures as CRI tells them.
    fn pod_wire(&self, pod: &TakenPod) -> cri::PodSandboxStats {
        let config = pod.sandbox.config();
        let containers: Vec<_> = pod.containers.iter().map(|taken| self.container_wire(taken)).collect();
        let sum = pod.reading.is_none().then(|| sum(pod));
        let reading = pod.reading.as_ref().or(sum.as_ref()).expect("one of the two is there");
        let (figures, at) = (&reading.figures, reading.at);
        let processes =
            pod.containers.iter().filter_map(|taken| taken.reading.as_ref()?.figures.pids.as_ref());
        let processes: u64 = processes.map(|pids| pids.current).sum();
        let rate = figures.cpu.as_ref().and_then(|cpu| {
            let own = pod.sandbox.kept.rate(reading.when, cpu.usage, self.window(), None);
            own.or_else(|| rates(&containers))
        });
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: pod.sandbox.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: figures.cpu_usage(at, rate),
                memory: figures.memory_usage(at),
                network: pod.interfaces.as_ref().and_then(|interfaces| network::usage(interfaces, at)),
                process: Some(cri::ProcessUsage { timestamp: at, process_count: value(processes) }),
                io: figures.io_usage(at),
                containers,
            }),
            windows: None,
        }
    }
}

/// What the containers of a pod use together.
fn sum(pod: &TakenPod) -> Reading {
    let mut figures = Figures::default();
    for reading in pod.containers.iter().filter_map(|taken| taken.reading.as_ref()) {
        figures.add(&reading.figures);
    }
    Reading::now(figures)
}

/// The rates of all containers that run, added up; `None` where one has none yet.
fn rates(containers: &[cri::ContainerStats]) -> Option<u64> {
    let running = || containers.iter().filter_map(|container| container.cpu.as_ref());
    running().next()?;
    running().map(|cpu| cpu.usage_nano_cores.as_ref().map(|rate| rate.value)).sum()
}
