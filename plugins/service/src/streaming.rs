//! `containerd.services.streaming.v1.Streaming`: clients open streams here, transfers take them from the manager.

use std::sync::Arc;

use futures::StreamExt;
use prost::Message;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use windlass_api::convert::any;
use windlass_api::services::streaming as wire;
use windlass_api::status;
use windlass_core::stream::{Manager, Stream};
use windlass_core::{Any, Class, Context, Error, Result, kinds};

use crate::edge::{self, Answer, context, serve};

/// Messages that wait in either direction; a sender beyond waits, and the stream's own credit bounds the bytes.
const QUEUE: usize = 8;

struct Edge {
    manager: Arc<dyn Manager>,
}

/// The daemon's end of a client's stream.
struct Pipe {
    incoming: Mutex<mpsc::Receiver<Any>>,
    outgoing: std::sync::Mutex<Option<mpsc::Sender<Any>>>,
}

#[async_trait::async_trait]
impl Stream for Pipe {
    async fn send(&self, message: Any) -> Result<()> {
        let sender = self.outgoing.lock().expect("the lock is held for a clone").clone();
        let gone = || Error::unavailable("the stream's client has gone");
        sender.ok_or_else(gone)?.send(message).await.map_err(|_| gone())
    }

    async fn receive(&self) -> Result<Option<Any>> {
        Ok(self.incoming.lock().await.recv().await)
    }

    async fn close(&self) {
        self.outgoing.lock().expect("the lock is held for a move").take();
    }
}

/// The id that the first message of a stream names.
async fn init(requests: &mut Streaming<prost_types::Any>) -> Result<String> {
    let first = requests.message().await.map_err(status::from_grpc)?;
    let first = first.ok_or_else(|| Error::invalid("a stream must begin with its id"))?;
    if any::name(&first.type_url) != "containerd.services.streaming.v1.StreamInit" {
        return Err(Error::invalid(format!(
            "a stream must begin with its id, not with {:?}",
            first.type_url
        )));
    }
    let init = wire::StreamInit::decode(first.value.as_slice())
        .map_err(|source| Error::invalid("first message of a stream").with_source(source))?;
    if init.id.is_empty() {
        return Err(Error::invalid("stream id must not be empty"));
    }
    Ok(init.id)
}

/// Passes what the client sends on. A client that is done sending may still read.
async fn pump(mut requests: Streaming<prost_types::Any>, sender: mpsc::Sender<Any>) {
    while let Ok(Some(message)) = requests.message().await {
        if sender.send(any::from_wire(message)).await.is_err() {
            return;
        }
    }
}

/// Forgets a stream whose answers nobody reads any more: its client has gone, or it has ended.
struct Forget {
    cx: Context,
    id: String,
    manager: Arc<dyn Manager>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let (cx, id, manager) = (self.cx.clone(), std::mem::take(&mut self.id), self.manager.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { manager.remove(&cx, &id).await });
        }
    }
}

#[tonic::async_trait]
impl wire::streaming_server::Streaming for Edge {
    async fn stream(
        &self,
        request: Request<Streaming<prost_types::Any>>,
    ) -> Answer<edge::Stream<prost_types::Any>> {
        let cx = context(&request)?;
        let mut requests = request.into_inner();
        let id = init(&mut requests).await.map_err(status::grpc)?;
        let (sender, incoming) = mpsc::channel(QUEUE);
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let pipe =
            Pipe { incoming: Mutex::new(incoming), outgoing: std::sync::Mutex::new(Some(outgoing.clone())) };
        self.manager.register(&cx, &id, Arc::new(pipe)).await.map_err(status::grpc)?;
        // The acknowledgement: clients wait for it before they name the stream in a request.
        let acknowledged =
            outgoing.send(Any { type_url: "google.protobuf.Empty".into(), ..Any::default() }).await;
        acknowledged
            .map_err(|_| status::grpc(Error::new(Class::Canceled, "the stream's client has gone")))?;
        // The pipe alone keeps the answers open: they end when the transfer has let go of it.
        drop(outgoing);
        tokio::spawn(pump(requests, sender));
        let forget = Forget { cx, id, manager: self.manager.clone() };
        edge::stream(ReceiverStream::new(answers).map(move |message| {
            let _ = &forget;
            Ok(any::to_wire(message))
        }))
    }
}

serve!(StreamingPlugin, "streaming", wire::streaming_server::StreamingServer, [kinds::Streaming], |ctx| {
    Ok(Edge { manager: ctx.single::<kinds::Streaming>()? })
});
