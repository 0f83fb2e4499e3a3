//! `containerd.services.sandbox.v1.Store`, and `Controller`, whose calls answer *unimplemented* until a sandbox
//! controller is there.

use std::sync::Arc;

use tonic::Request;
use windlass_api::convert::{any, time};
use windlass_api::services::sandbox as wire;
use windlass_api::types;
use windlass_core::container::Runtime;
use windlass_core::sandbox::{Sandbox, Store};
use windlass_core::{FieldMask, Result, kinds};

use crate::edge::{Answer, answer, context, database, filters, finish, required, serve};

struct Edge {
    store: Arc<dyn Store>,
}

fn to_wire(sandbox: Sandbox) -> types::Sandbox {
    let runtime = types::sandbox::Runtime {
        name: sandbox.runtime.name,
        options: sandbox.runtime.options.map(any::to_wire),
    };
    types::Sandbox {
        sandbox_id: sandbox.id,
        runtime: Some(runtime),
        spec: sandbox.spec.map(any::to_wire),
        labels: sandbox.labels,
        created_at: Some(time::to_wire(sandbox.created_at)),
        updated_at: Some(time::to_wire(sandbox.updated_at)),
        extensions: sandbox.extensions.into_iter().map(|(k, v)| (k, any::to_wire(v))).collect(),
        sandboxer: sandbox.sandboxer,
    }
}

fn from_wire(sandbox: types::Sandbox) -> Result<Sandbox> {
    let runtime = sandbox.runtime.unwrap_or_default();
    Ok(Sandbox {
        id: sandbox.sandbox_id,
        labels: sandbox.labels,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any::from_wire) },
        spec: sandbox.spec.map(any::from_wire),
        sandboxer: sandbox.sandboxer,
        created_at: time::from_wire(sandbox.created_at)?.unwrap_or_else(time::zero),
        updated_at: time::from_wire(sandbox.updated_at)?.unwrap_or_else(time::zero),
        extensions: sandbox.extensions.into_iter().map(|(k, v)| (k, any::from_wire(v))).collect(),
    })
}

#[tonic::async_trait]
impl wire::store_server::Store for Edge {
    async fn create(&self, request: Request<wire::StoreCreateRequest>) -> Answer<wire::StoreCreateResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let sandbox = from_wire(required("sandbox", request.into_inner().sandbox)?)?;
            Ok(wire::StoreCreateResponse { sandbox: Some(to_wire(store.create(&cx, sandbox).await?)) })
        })
        .await
    }

    async fn update(&self, request: Request<wire::StoreUpdateRequest>) -> Answer<wire::StoreUpdateResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let request = request.into_inner();
            let sandbox = from_wire(required("sandbox", request.sandbox)?)?;
            let updated = store.update(&cx, sandbox, &FieldMask(request.fields)).await?;
            Ok(wire::StoreUpdateResponse { sandbox: Some(to_wire(updated)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::StoreDeleteRequest>) -> Answer<wire::StoreDeleteResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            store.delete(&cx, &request.into_inner().sandbox_id).await?;
            Ok(wire::StoreDeleteResponse {})
        })
        .await
    }

    async fn list(&self, request: Request<wire::StoreListRequest>) -> Answer<wire::StoreListResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let all = self.store.list(&cx, &filters(&request.into_inner().filters)?).await?;
                Ok(wire::StoreListResponse { list: all.into_iter().map(to_wire).collect() })
            }
            .await,
        )
    }

    async fn get(&self, request: Request<wire::StoreGetRequest>) -> Answer<wire::StoreGetResponse> {
        let cx = context(&request)?;
        let found = self.store.get(&cx, &request.into_inner().sandbox_id).await;
        answer(found.map(|s| wire::StoreGetResponse { sandbox: Some(to_wire(s)) }))
    }
}

serve!(SandboxStore, "sandboxes", wire::store_server::StoreServer, [kinds::Metadata], |ctx| {
    Ok(Edge { store: database(ctx)?.sandboxes() })
});

/// Every method has its default, which answers *unimplemented*.
struct Controller;

impl wire::controller_server::Controller for Controller {}

serve!(SandboxController, "sandbox-controllers", wire::controller_server::ControllerServer, [], |_| Ok(
    Controller
));
