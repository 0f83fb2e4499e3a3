//! `ContainerStats` and its like.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::stream::BoxStream;
use windlass_api::cri;
use windlass_core::Result;

use super::collect::Taken;
use super::figures::Detail;
use super::rate::Window;
use crate::config;
use crate::cri::Cri;
use crate::service::chunked;
use crate::state::Container;
use crate::state::record::{nanos, time};

/// How long a sample is good for where the configuration says nothing; containerd's.
const KEPT_FOR: Duration = Duration::from_secs(120);

impl Cri {
    /// *Not found*. Of a container that does not run, only what it has written is told.
    pub async fn container_stats(
        self: &Arc<Self>,
        request: cri::ContainerStatsRequest,
    ) -> Result<cri::ContainerStatsResponse> {
        let found =
            self.state.containers.get(&request.container_id).map_err(|error| error.context("container"))?;
        let stats = self.stats_of(vec![found]).await?;
        Ok(cri::ContainerStatsResponse { stats: stats.into_iter().next() })
    }

    pub async fn list_container_stats(
        self: &Arc<Self>,
        request: cri::ListContainerStatsRequest,
    ) -> Result<cri::ListContainerStatsResponse> {
        let stats = self.stats_of(self.fitting(request.filter.as_ref())).await?;
        Ok(cri::ListContainerStatsResponse { stats })
    }

    pub async fn stream_container_stats(
        self: &Arc<Self>,
        request: cri::StreamContainerStatsRequest,
    ) -> Result<BoxStream<'static, Result<cri::StreamContainerStatsResponse>>> {
        let stats = self.stats_of(self.fitting(request.filter.as_ref())).await?;
        Ok(chunked(stats, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
    }

    async fn stats_of(self: &Arc<Self>, containers: Vec<Arc<Container>>) -> Result<Vec<cri::ContainerStats>> {
        self.measure_layers();
        let taken = self.take(containers, Detail::Usual).await?;
        Ok(taken.iter().map(|taken| self.container_wire(taken)).collect())
    }

    /// All containers that a filter lets through, the older ones first.
    fn fitting(&self, filter: Option<&cri::ContainerStatsFilter>) -> Vec<Arc<Container>> {
        let none = cri::ContainerStatsFilter::default();
        let filter = filter.unwrap_or(&none);
        let mut found: Vec<_> = match filter.id.as_str() {
            "" => self.state.containers.all(),
            id => self.state.containers.get(id).into_iter().collect(),
        };
        if !filter.pod_sandbox_id.is_empty() {
            let pod = self.state.sandboxes.get(&filter.pod_sandbox_id);
            // An id that names no pod is that of containers whose pod has gone.
            let pod = pod.map_or_else(|_| filter.pod_sandbox_id.clone(), |pod| pod.id.clone());
            found.retain(|container| container.record.sandbox_id == pod);
        }
        found.retain(|container| {
            let labels = &container.config().labels;
            filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        found.sort_by_key(|container| container.record.created_at);
        found
    }

    /// A container's figures as CRI tells them.
    pub(super) fn container_wire(&self, taken: &Taken) -> cri::ContainerStats {
        let container = &taken.container;
        let config = container.config();
        let now = nanos(SystemTime::now());
        let mut stats = cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            writable_layer: self.layer(container, now),
            ..Default::default()
        };
        if let Some(reading) = &taken.reading {
            let (figures, at) = (&reading.figures, reading.at);
            stats.cpu = figures.cpu_usage(at, self.rate_of(taken));
            stats.memory = figures.memory_usage(at);
            stats.swap = figures.swap_usage(at);
            stats.io = figures.io_usage(at);
        }
        stats
    }

    /// The CPU that a container uses now, in nanoseconds per second. What began a short while ago has used nothing before,
    /// so that its first figures have a rate.
    fn rate_of(&self, taken: &Taken) -> Option<u64> {
        let reading = taken.reading.as_ref()?;
        let window = self.window();
        let began = began(reading.when, taken.container.status().started_at, window.most);
        taken.container.kept.rate(reading.when, reading.figures.cpu.as_ref()?.usage, window, began)
    }

    /// How far the samples of rates are apart.
    pub(super) fn window(&self) -> Window {
        let least = self.config.stats_period();
        let kept = config::duration(&self.config.stats_retention_period).ok().filter(|kept| !kept.is_zero());
        Window { least, most: kept.unwrap_or(KEPT_FOR).max(least * 2) }
    }
}

/// When something began, on the clock of samples; `None` for what began too long ago.
fn began(now: Instant, started_at: i64, most: Duration) -> Option<Instant> {
    let age = SystemTime::now().duration_since(time(started_at)).ok()?;
    if age > most { None } else { now.checked_sub(age) }
}
