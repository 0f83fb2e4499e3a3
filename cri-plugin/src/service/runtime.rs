//! `runtime.v1.RuntimeService`: one line per call.

use std::sync::Arc;

use tonic::Request;
use windlass_api::cri;
use windlass_api::cri::runtime_service_server::RuntimeService;

use super::{Answer, Stream, answer, chunked, followed, streamed};
use crate::cri::Cri;

/// Serves `runtime.v1.RuntimeService`.
pub struct RuntimeEdge(pub Arc<Cri>);

#[tonic::async_trait]
impl RuntimeService for RuntimeEdge {
    async fn version(&self, request: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(self.0.version(request.into_inner()).await)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        answer(self.0.run_pod_sandbox(request.into_inner()).await)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        answer(self.0.stop_pod_sandbox(request.into_inner()).await)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        answer(self.0.remove_pod_sandbox(request.into_inner()).await)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        answer(self.0.pod_sandbox_status(request.into_inner()).await)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        answer(self.0.list_pod_sandbox(request.into_inner()).await)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Stream<cri::StreamPodSandboxesResponse>> {
        streamed(self.0.stream_pod_sandboxes(request.into_inner()).await)
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        answer(self.0.create_container(request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        answer(self.0.start_container(request.into_inner()).await)
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        answer(self.0.stop_container(request.into_inner()).await)
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        answer(self.0.remove_container(request.into_inner()).await)
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        answer(Ok(self.0.list_containers(request.into_inner()).await))
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Stream<cri::StreamContainersResponse>> {
        let containers = self.0.containers(request.into_inner().filter.as_ref());
        streamed(Ok(chunked(containers, |containers| cri::StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        answer(self.0.container_status(request.into_inner()).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        answer(self.0.update_container_resources(request.into_inner()).await)
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        answer(self.0.reopen_container_log(request.into_inner()).await)
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        answer(self.0.exec_sync(request.into_inner()).await)
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        answer(self.0.exec(request.into_inner()).await)
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        answer(self.0.attach(request.into_inner()).await)
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        answer(self.0.port_forward(request.into_inner()).await)
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        answer(self.0.container_stats(request.into_inner()).await)
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        answer(self.0.list_container_stats(request.into_inner()).await)
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Stream<cri::StreamContainerStatsResponse>> {
        streamed(self.0.stream_container_stats(request.into_inner()).await)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        answer(self.0.pod_sandbox_stats(request.into_inner()).await)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        answer(self.0.list_pod_sandbox_stats(request.into_inner()).await)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Stream<cri::StreamPodSandboxStatsResponse>> {
        streamed(self.0.stream_pod_sandbox_stats(request.into_inner()).await)
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        answer(self.0.update_runtime_config(request.into_inner()).await)
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        answer(self.0.status(request.into_inner()).await)
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        answer(self.0.checkpoint_container(request.into_inner()).await)
    }

    async fn get_container_events(
        &self,
        request: Request<cri::GetEventsRequest>,
    ) -> Answer<Stream<cri::ContainerEventResponse>> {
        streamed(self.0.get_container_events(request.into_inner()).map(followed))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        answer(self.0.list_metric_descriptors(request.into_inner()).await)
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        answer(self.0.list_pod_sandbox_metrics(request.into_inner()).await)
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Stream<cri::StreamPodSandboxMetricsResponse>> {
        streamed(self.0.stream_pod_sandbox_metrics(request.into_inner()).await)
    }

    async fn runtime_config(
        &self,
        request: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        answer(self.0.runtime_config(request.into_inner()).await)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        answer(self.0.update_pod_sandbox_resources(request.into_inner()).await)
    }
}
