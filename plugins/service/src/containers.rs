//! `containerd.services.containers.v1.Containers`

use std::sync::Arc;

use futures::StreamExt;
use tonic::Request;
use windlass_api::convert::{any, runtime, time};
use windlass_api::services::containers as wire;
use windlass_core::container::{Container, Store};
use windlass_core::{Result, kinds};

use crate::edge::{
    Answer, Stream, answer, context, database, filters, finish, mask, required, serve, stream,
};

struct Edge {
    store: Arc<dyn Store>,
}

fn to_wire(container: Container) -> wire::Container {
    wire::Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: Some(runtime::to_wire(container.runtime)),
        spec: container.spec.map(any::to_wire),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(time::to_wire(container.created_at)),
        updated_at: Some(time::to_wire(container.updated_at)),
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any::to_wire(v))).collect(),
        sandbox: container.sandbox_id,
    }
}

fn from_wire(container: wire::Container) -> Result<Container> {
    Ok(Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: container.runtime.map(runtime::from_wire).unwrap_or_default(),
        spec: container.spec.map(any::from_wire),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: time::from_wire(container.created_at)?.unwrap_or_else(time::zero),
        updated_at: time::from_wire(container.updated_at)?.unwrap_or_else(time::zero),
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any::from_wire(v))).collect(),
        sandbox_id: container.sandbox,
    })
}

#[tonic::async_trait]
impl wire::containers_server::Containers for Edge {
    async fn get(&self, request: Request<wire::GetContainerRequest>) -> Answer<wire::GetContainerResponse> {
        let cx = context(&request)?;
        let found = self.store.get(&cx, &request.into_inner().id).await;
        answer(found.map(|c| wire::GetContainerResponse { container: Some(to_wire(c)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let all = self.store.list(&cx, &filters(&request.into_inner().filters)?).await?;
                Ok(wire::ListContainersResponse { containers: all.into_iter().map(to_wire).collect() })
            }
            .await,
        )
    }

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<Stream<wire::ListContainerMessage>> {
        let containers = self.list(request).await?.into_inner().containers;
        let messages = containers.into_iter().map(|c| Ok(wire::ListContainerMessage { container: Some(c) }));
        stream(futures::stream::iter(messages).boxed())
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Answer<wire::CreateContainerResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let container = from_wire(required("container", request.into_inner().container)?)?;
            let created = store.create(&cx, container).await?;
            Ok(wire::CreateContainerResponse { container: Some(to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Answer<wire::UpdateContainerResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let request = request.into_inner();
            let container = from_wire(required("container", request.container)?)?;
            let updated = store.update(&cx, container, &mask(request.update_mask)).await?;
            Ok(wire::UpdateContainerResponse { container: Some(to_wire(updated)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteContainerRequest>) -> Answer<()> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move { store.delete(&cx, &request.into_inner().id).await }).await
    }
}

serve!(Containers, "containers", wire::containers_server::ContainersServer, [kinds::Metadata], |ctx| {
    Ok(Edge { store: database(ctx)?.containers() })
});
