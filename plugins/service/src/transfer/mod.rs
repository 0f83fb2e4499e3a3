//! `containerd.services.transfer.v1.Transfer`: sources and destinations out of their wire types, progress into its stream.

mod endpoint;
mod progress;
mod streams;

use std::sync::Arc;

use tonic::Request;
use windlass_api::services::transfer as wire;
use windlass_api::status;
use windlass_core::transfer::{NoProgress, ProgressSink, Transferrer};
use windlass_core::{Result, kinds, stream};

use crate::edge::{Answer, answer, context, required, serve};

struct Edge {
    transferrer: Arc<dyn Transferrer>,
    streams: Arc<dyn stream::Manager>,
}

#[tonic::async_trait]
impl wire::transfer_server::Transfer for Edge {
    /// A client that goes away cancels its transfer; what has been fetched stays and can be resumed.
    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let endpoints = async {
            let source = required("transfer source", request.source)?;
            let destination = required("transfer destination", request.destination)?;
            let source = endpoint::source(&cx, &self.streams, source).await?;
            Result::<_>::Ok((source, endpoint::destination(&cx, &self.streams, destination).await?))
        };
        let (source, destination) = endpoints.await.map_err(status::grpc)?;
        let name = request.options.map(|o| o.progress_stream).filter(|name| !name.is_empty());
        let progress = match name {
            Some(name) => {
                Some(progress::Progress::new(self.streams.get(&cx, &name).await.map_err(status::grpc)?))
            }
            None => None,
        };
        let sink: Arc<dyn ProgressSink> = match &progress {
            Some(progress) => progress.sink(),
            None => Arc::new(NoProgress),
        };
        let result = self.transferrer.transfer(&cx, source, destination, sink).await;
        if let Some(progress) = progress {
            progress.finish().await;
        }
        answer(result.map(|_| ()))
    }
}

serve!(
    TransferPlugin,
    "transfer",
    wire::transfer_server::TransferServer,
    [kinds::Transfer, kinds::Streaming],
    |ctx| {
        Ok(Edge { transferrer: ctx.single::<kinds::Transfer>()?, streams: ctx.single::<kinds::Streaming>()? })
    }
);
