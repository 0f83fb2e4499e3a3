//! `containerd.services.diff.v1.Diff`

use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tonic::Request;
use windlass_api::convert::{any, descriptor, mount, time};
use windlass_api::services::diff as wire;
use windlass_core::diff::{ApplyOptions, CompareOptions, Differ};
use windlass_core::{Class, Descriptor, Error, Result, kinds};

use crate::edge::{Answer, context, finish, serve};

/// Keys of containerd's `io.containerd.service.v1.diff-service`; under that name they are taken too.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Config {
    /// Ids of differs in the order in which they are asked.
    default: Vec<String>,
    /// Sync the file system after every layer that is applied.
    sync_fs: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { default: vec!["walking".into()], sync_fs: false }
    }
}

struct Edge {
    differs: Arc<[Arc<dyn Differ>]>,
    sync: bool,
}

/// Asks one differ after the other until one knows the media type.
async fn first<F, T>(differs: &[Arc<dyn Differ>], ask: impl Fn(Arc<dyn Differ>) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut last = Error::unimplemented("no differ is configured");
    for differ in differs {
        match ask(differ.clone()).await {
            Err(error) if error.is(Class::Unimplemented) => last = error,
            result => return result,
        }
    }
    Err(last)
}

fn mounts(all: Vec<windlass_api::types::Mount>) -> Vec<windlass_core::mount::Mount> {
    all.into_iter().map(mount::from_wire).collect()
}

#[tonic::async_trait]
impl wire::diff_server::Diff for Edge {
    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Answer<wire::ApplyResponse> {
        let (cx, differs, sync) = (context(&request)?, self.differs.clone(), self.sync);
        finish(async move {
            let request = request.into_inner();
            let layer = descriptor::required("diff", request.diff)?;
            let mounts = mounts(request.mounts);
            let options = ApplyOptions {
                payloads: request.payloads.into_iter().map(|(k, v)| (k, any::from_wire(v))).collect(),
                sync: request.sync_fs || sync,
            };
            let applied: Descriptor = first(&differs, |differ| {
                let (cx, layer, mounts, options) = (&cx, &layer, &mounts, options.clone());
                async move { differ.apply(cx, layer, mounts, options).await }
            })
            .await?;
            Ok(wire::ApplyResponse { applied: Some(descriptor::to_wire(&applied)) })
        })
        .await
    }

    async fn diff(&self, request: Request<wire::DiffRequest>) -> Answer<wire::DiffResponse> {
        let (cx, differs) = (context(&request)?, self.differs.clone());
        finish(async move {
            let request = request.into_inner();
            let (lower, upper) = (mounts(request.left), mounts(request.right));
            let options = CompareOptions {
                media_type: request.media_type,
                reference: request.r#ref,
                labels: request.labels,
                source_date_epoch: time::from_wire(request.source_date_epoch)?,
            };
            let made: Descriptor = first(&differs, |differ| {
                let (cx, lower, upper, options) = (&cx, &lower, &upper, options.clone());
                async move { differ.compare(cx, lower, upper, options).await }
            })
            .await?;
            Ok(wire::DiffResponse { diff: Some(descriptor::to_wire(&made)) })
        })
        .await
    }
}

serve!(
    Diff,
    "diff",
    wire::diff_server::DiffServer,
    [kinds::Differ],
    |ctx| {
        let config: Config = ctx.config()?;
        let differs: Result<Vec<_>> = config.default.iter().map(|id| ctx.get::<kinds::Differ>(id)).collect();
        Ok(Edge { differs: differs?.into(), sync: config.sync_fs })
    },
    Config
);
