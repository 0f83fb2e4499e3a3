//! `containerd.services.leases.v1.Leases`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tonic::Request;
use windlass_api::convert::time;
use windlass_api::services::leases as wire;
use windlass_core::lease::{Lease, Manager, Resource};
use windlass_core::{Digest, gc, kinds};

use crate::edge::{Answer, answer, context, filters, finish, required, serve};

struct Edge {
    manager: Arc<dyn Manager>,
    scheduler: Arc<dyn gc::Scheduler>,
}

fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease { id: lease.id, created_at: Some(time::to_wire(lease.created_at)), labels: lease.labels }
}

fn from_resource(resource: wire::Resource) -> Resource {
    Resource { id: resource.id, kind: resource.r#type }
}

/// An id for a lease whose maker names none: time and a part that no other has.
fn generated_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed =
        format!("{}-{}-{}", std::process::id(), now.as_nanos(), COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{}-{}", now.subsec_nanos(), &Digest::of(seed.as_bytes()).encoded()[..8])
}

#[tonic::async_trait]
impl wire::leases_server::Leases for Edge {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Answer<wire::CreateResponse> {
        let (cx, manager) = (context(&request)?, self.manager.clone());
        finish(async move {
            let request = request.into_inner();
            let id = if request.id.is_empty() { generated_id() } else { request.id };
            let lease = manager.create(&cx, &id, request.labels).await?;
            Ok(wire::CreateResponse { lease: Some(to_wire(lease)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Answer<()> {
        let (cx, manager, scheduler) = (context(&request)?, self.manager.clone(), self.scheduler.clone());
        finish(async move {
            let request = request.into_inner();
            manager.delete(&cx, &request.id).await?;
            if request.sync {
                scheduler.collect_now().await?;
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let all = self.manager.list(&cx, &filters(&request.into_inner().filters)?).await?;
                Ok(wire::ListResponse { leases: all.into_iter().map(to_wire).collect() })
            }
            .await,
        )
    }

    async fn add_resource(&self, request: Request<wire::AddResourceRequest>) -> Answer<()> {
        let (cx, manager) = (context(&request)?, self.manager.clone());
        finish(async move {
            let request = request.into_inner();
            let resource = from_resource(required("resource", request.resource)?);
            manager.add_resource(&cx, &request.id, resource).await
        })
        .await
    }

    async fn delete_resource(&self, request: Request<wire::DeleteResourceRequest>) -> Answer<()> {
        let (cx, manager) = (context(&request)?, self.manager.clone());
        finish(async move {
            let request = request.into_inner();
            let resource = from_resource(required("resource", request.resource)?);
            manager.delete_resource(&cx, &request.id, resource).await
        })
        .await
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Answer<wire::ListResourcesResponse> {
        let cx = context(&request)?;
        let all = self.manager.list_resources(&cx, &request.into_inner().id).await;
        answer(all.map(|all| wire::ListResourcesResponse {
            resources: all.into_iter().map(|r| wire::Resource { id: r.id, r#type: r.kind }).collect(),
        }))
    }
}

serve!(Leases, "leases", wire::leases_server::LeasesServer, [kinds::Lease, kinds::Gc], |ctx| {
    Ok(Edge { manager: ctx.single::<kinds::Lease>()?, scheduler: ctx.single::<kinds::Gc>()? })
});
