//! `containerd.services.events.v1.Events`, and over ttrpc `containerd.services.events.ttrpc.v1.Events` for shims.

use std::sync::Arc;

use futures::StreamExt;
use tonic::Request;
use windlass_api::convert::{any, event};
use windlass_api::kinds::{TtrpcKind, TtrpcService, TtrpcServices};
use windlass_api::services::events as wire;
use windlass_api::shim::forward;
use windlass_api::{status, types};
use windlass_core::event::{Envelope, Exchange};
use windlass_core::registry::{InitContext, Kind, Plugin, Registration};
use windlass_core::{Result, kinds};

use crate::edge::{Answer, Stream, answer, context, required, serve, stream};

struct Edge {
    exchange: Arc<dyn Exchange>,
}

#[tonic::async_trait]
impl wire::events_server::Events for Edge {
    async fn publish(&self, request: Request<wire::PublishRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let published = required("event", request.event).and_then(|message| {
            self.exchange.forward(Envelope {
                timestamp: std::time::SystemTime::now(),
                namespace: cx.namespace,
                topic: request.topic,
                event: event::from_any(any::from_wire(message)),
            })
        });
        answer(published)
    }

    async fn forward(&self, request: Request<wire::ForwardRequest>) -> Answer<()> {
        let envelope = required("envelope", request.into_inner().envelope).and_then(event::from_wire);
        answer(envelope.and_then(|e| self.exchange.forward(e)))
    }

    async fn subscribe(&self, request: Request<wire::SubscribeRequest>) -> Answer<Stream<types::Envelope>> {
        let events = self.exchange.subscribe(&request.into_inner().filters).map_err(status::grpc)?;
        stream(events.map(|e| e.map(|e| event::to_wire(e.as_ref().clone()))))
    }
}

serve!(Events, "events", wire::events_server::EventsServer, [kinds::Event], |ctx| {
    Ok(Edge { exchange: ctx.single::<kinds::Event>()? })
});

/// What shims forward their events to.
struct Forward {
    exchange: Arc<dyn Exchange>,
}

#[async_trait::async_trait]
impl forward::Events for Forward {
    async fn forward(
        &self,
        _: &ttrpc::r#async::TtrpcContext,
        request: forward::ForwardRequest,
    ) -> ttrpc::Result<protobuf::well_known_types::empty::Empty> {
        let envelope = request.envelope.into_option();
        let forwarded =
            required("envelope", envelope).and_then(event::from_shim).and_then(|e| self.exchange.forward(e));
        forwarded.map(|()| Default::default()).map_err(status::ttrpc)
    }
}

struct Served(Arc<dyn Exchange>);

impl TtrpcService for Served {
    fn services(&self) -> TtrpcServices {
        forward::create_events(Arc::new(Forward { exchange: self.0.clone() }))
    }
}

struct TtrpcEvents;

impl Plugin for TtrpcEvents {
    type Kind = TtrpcKind;
    const ID: &'static str = "events";
    const REQUIRES: &'static [&'static str] = &[<kinds::Event as Kind>::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn TtrpcService>> {
        Ok(Arc::new(Served(ctx.single::<kinds::Event>()?)))
    }
}

inventory::submit! { Registration::of::<TtrpcEvents>() }
