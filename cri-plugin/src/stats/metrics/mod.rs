//! `ListMetricDescriptors` and `ListPodSandboxMetrics`: what cAdvisor would tell Prometheus, by its names.
//!
//! - `descriptors`: what there is. `container`: a container's values.

mod container;
mod descriptors;

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use windlass_api::cri;
use windlass_core::Result;

use self::container::{Machine, Space};
use self::descriptors::{ALL, Descriptor, Kind};
use super::collect::TakenPod;
use super::figures::{Detail, value};
use super::network::Interface;
use crate::cri::Cri;
use crate::service::chunked;
use crate::state::record::nanos;

/// Labels of every metric, before its own.
const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

impl Cri {
    pub async fn list_metric_descriptors(
        self: &Arc<Self>,
        _: cri::ListMetricDescriptorsRequest,
    ) -> Result<cri::ListMetricDescriptorsResponse> {
        let descriptors = ALL.iter().map(|descriptor| cri::MetricDescriptor {
            name: descriptor.name.to_owned(),
            help: descriptor.help.to_owned(),
            label_keys: LABELS.iter().chain(descriptor.labels).map(|key| (*key).to_owned()).collect(),
        });
        Ok(cri::ListMetricDescriptorsResponse { descriptors: descriptors.collect() })
    }

    pub async fn list_pod_sandbox_metrics(
        self: &Arc<Self>,
        _: cri::ListPodSandboxMetricsRequest,
    ) -> Result<cri::ListPodSandboxMetricsResponse> {
        Ok(cri::ListPodSandboxMetricsResponse { pod_metrics: self.metrics().await? })
    }

    pub async fn stream_pod_sandbox_metrics(
        self: &Arc<Self>,
        _: cri::StreamPodSandboxMetricsRequest,
    ) -> Result<BoxStream<'static, Result<cri::StreamPodSandboxMetricsResponse>>> {
        let metrics = self.metrics().await?;
        Ok(chunked(metrics, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    /// Of all pods that are ready.
    async fn metrics(self: &Arc<Self>) -> Result<Vec<cri::PodSandboxMetrics>> {
        self.measure_layers();
        let pods = self.take_pods(self.fitting_pods(None), Detail::Everything).await?;
        let snapshotters =
            pods.iter().flat_map(|pod| &pod.containers).map(|c| c.container.record.snapshotter.as_str());
        let places: HashMap<_, _> =
            snapshotters.filter_map(|id| Some((id.to_owned(), self.images.place(id)?.to_owned()))).collect();
        let machine = tokio::task::spawn_blocking(move || Machine::look(places)).await;
        let machine =
            machine.map_err(|e| windlass_core::Error::internal("look at file systems").with_source(e))?;
        Ok(pods.iter().map(|pod| metrics_of(pod, &machine)).collect())
    }
}

fn metrics_of(pod: &TakenPod, machine: &Machine) -> cri::PodSandboxMetrics {
    let metadata = pod.sandbox.config().metadata.as_ref();
    let (name, namespace) = metadata.map_or(("", ""), |m| (m.name.as_str(), m.namespace.as_str()));
    let mut own =
        Values::new([name, namespace, "", &pod.sandbox.id, ""], nanos(std::time::SystemTime::now()));
    for interface in pod.interfaces.iter().flatten() {
        network(&mut own, interface);
    }
    let containers = pod.containers.iter().filter_map(|taken| {
        let reading = taken.reading.as_ref()?;
        let container = &taken.container;
        let config = container.config();
        let image = config.image.as_ref().map_or("", |image| {
            if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image }
        });
        let called = config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
        let mut values = Values::new([name, namespace, called, &container.id, image], reading.at);
        container::tell(&mut values, taken, reading, machine);
        Some(cri::ContainerMetrics { container_id: container.id.clone(), metrics: values.metrics })
    });
    cri::PodSandboxMetrics {
        pod_sandbox_id: pod.sandbox.id.clone(),
        container_metrics: containers.collect(),
        metrics: own.metrics,
    }
}

fn network(values: &mut Values<'_>, interface: &Interface) {
    use descriptors::*;
    let own = [interface.name.as_str()];
    let (received, sent) = (&interface.received, &interface.sent);
    values.put(&NETWORK_RECEIVE_BYTES, &own, received.bytes);
    values.put(&NETWORK_RECEIVE_PACKETS, &own, received.packets);
    values.put(&NETWORK_RECEIVE_DROPPED, &own, received.dropped);
    values.put(&NETWORK_RECEIVE_ERRORS, &own, received.errors);
    values.put(&NETWORK_TRANSMIT_BYTES, &own, sent.bytes);
    values.put(&NETWORK_TRANSMIT_PACKETS, &own, sent.packets);
    values.put(&NETWORK_TRANSMIT_DROPPED, &own, sent.dropped);
    values.put(&NETWORK_TRANSMIT_ERRORS, &own, sent.errors);
}

/// Values of one container or pod, all read at the same time.
struct Values<'a> {
    labels: [&'a str; LABELS.len()],
    at: i64,
    metrics: Vec<cri::Metric>,
}

impl<'a> Values<'a> {
    fn new(labels: [&'a str; LABELS.len()], at: i64) -> Self {
        Self { labels, at, metrics: Vec::with_capacity(56) }
    }

    /// `own`: values of the labels that the metric has beside those of all.
    fn put(&mut self, metric: &Descriptor, own: &[&str], number: u64) {
        debug_assert_eq!(metric.labels.len(), own.len(), "{}", metric.name);
        let kind = match metric.kind {
            Kind::Counter => cri::MetricType::Counter,
            Kind::Gauge => cri::MetricType::Gauge,
        };
        self.metrics.push(cri::Metric {
            name: metric.name.to_owned(),
            timestamp: self.at,
            metric_type: kind.into(),
            label_values: self.labels.iter().chain(own).map(|label| (*label).to_owned()).collect(),
            value: value(number),
        });
    }

    /// What is not known is not told.
    fn put_known(&mut self, metric: &Descriptor, own: &[&str], number: Option<u64>) {
        if let Some(number) = number {
            self.put(metric, own, number);
        }
    }
}

/// Kept here so that a container's file of values needs to know no file systems.
impl Machine {
    fn space(&self, snapshotter: &str) -> Option<&Space> {
        self.spaces.get(snapshotter)
    }
}
