//! `grpc.health.v1.Health`: whoever gets an answer knows that the daemon serves.

use std::sync::Arc;

use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::health_reporter;
use windlass_api::kinds::{GrpcKind, GrpcService};
use windlass_core::Result;
use windlass_core::registry::{InitContext, Plugin, Registration};

use crate::edge::Served;

struct Healthcheck;

fn served<H: Health>(server: HealthServer<H>) -> Arc<dyn GrpcService> {
    Arc::new(Served { server })
}

impl Plugin for Healthcheck {
    type Kind = GrpcKind;
    const ID: &'static str = "healthcheck";

    fn init(_: &InitContext) -> Result<Arc<dyn GrpcService>> {
        // The empty name, which stands for the whole server, serves from the start.
        Ok(served(health_reporter().1))
    }
}

inventory::submit! { Registration::of::<Healthcheck>() }
