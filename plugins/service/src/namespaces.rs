//! `containerd.services.namespaces.v1.Namespaces`

use std::sync::Arc;

use tonic::Request;
use windlass_api::services::namespaces as wire;
use windlass_core::kinds;
use windlass_core::namespace::{Namespace, Store};

use crate::edge::{Answer, answer, database, finish, mask, required, serve};

struct Edge {
    store: Arc<dyn Store>,
}

fn to_wire(namespace: Namespace) -> wire::Namespace {
    wire::Namespace { name: namespace.name, labels: namespace.labels }
}

fn from_wire(namespace: wire::Namespace) -> Namespace {
    Namespace { name: namespace.name, labels: namespace.labels }
}

#[tonic::async_trait]
impl wire::namespaces_server::Namespaces for Edge {
    async fn get(&self, request: Request<wire::GetNamespaceRequest>) -> Answer<wire::GetNamespaceResponse> {
        let found = self.store.get(&request.into_inner().name).await;
        answer(found.map(|n| wire::GetNamespaceResponse { namespace: Some(to_wire(n)) }))
    }

    async fn list(&self, _: Request<wire::ListNamespacesRequest>) -> Answer<wire::ListNamespacesResponse> {
        let all = self.store.list().await;
        answer(
            all.map(|all| wire::ListNamespacesResponse {
                namespaces: all.into_iter().map(to_wire).collect(),
            }),
        )
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Answer<wire::CreateNamespaceResponse> {
        let store = self.store.clone();
        finish(async move {
            let namespace = required("namespace", request.into_inner().namespace)?;
            let created = store.create(from_wire(namespace)).await?;
            Ok(wire::CreateNamespaceResponse { namespace: Some(to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Answer<wire::UpdateNamespaceResponse> {
        let store = self.store.clone();
        finish(async move {
            let request = request.into_inner();
            let namespace = required("namespace", request.namespace)?;
            let updated = store.update(from_wire(namespace), &mask(request.update_mask)).await?;
            Ok(wire::UpdateNamespaceResponse { namespace: Some(to_wire(updated)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteNamespaceRequest>) -> Answer<()> {
        let store = self.store.clone();
        finish(async move { store.delete(&request.into_inner().name).await }).await
    }
}

serve!(Namespaces, "namespaces", wire::namespaces_server::NamespacesServer, [kinds::Metadata], |ctx| {
    Ok(Edge { store: database(ctx)?.namespaces() })
});
