//! Figures of containers and pods.

use std::sync::Arc;

use futures::stream::BoxStream;
use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::cri::Cri;

impl Cri {
    pub async fn container_stats(self: &Arc<Self>, _: cri::ContainerStatsRequest) -> Result<cri::ContainerStatsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn list_container_stats(self: &Arc<Self>, _: cri::ListContainerStatsRequest) -> Result<cri::ListContainerStatsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn stream_container_stats(self: &Arc<Self>, _: cri::StreamContainerStatsRequest) -> Result<BoxStream<'static, Result<cri::StreamContainerStatsResponse>>> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn pod_sandbox_stats(self: &Arc<Self>, _: cri::PodSandboxStatsRequest) -> Result<cri::PodSandboxStatsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn list_pod_sandbox_stats(self: &Arc<Self>, _: cri::ListPodSandboxStatsRequest) -> Result<cri::ListPodSandboxStatsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn stream_pod_sandbox_stats(self: &Arc<Self>, _: cri::StreamPodSandboxStatsRequest) -> Result<BoxStream<'static, Result<cri::StreamPodSandboxStatsResponse>>> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn list_metric_descriptors(self: &Arc<Self>, _: cri::ListMetricDescriptorsRequest) -> Result<cri::ListMetricDescriptorsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn list_pod_sandbox_metrics(self: &Arc<Self>, _: cri::ListPodSandboxMetricsRequest) -> Result<cri::ListPodSandboxMetricsResponse> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
    pub async fn stream_pod_sandbox_metrics(self: &Arc<Self>, _: cri::StreamPodSandboxMetricsRequest) -> Result<BoxStream<'static, Result<cri::StreamPodSandboxMetricsResponse>>> {
        Err(Error::unimplemented("figures are not taken by this build"))
    }
}
