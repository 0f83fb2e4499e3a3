//! Core's stores over a gRPC channel, so that the suites of core run through the services.

pub mod content;
pub mod records;
pub mod snapshots;

use tonic::{Request, Status};
use windlass_core::{Context, Error, FieldMask};

/// A request on behalf of `cx`.
pub fn on<T>(cx: &Context, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", cx.namespace.parse().expect("a namespace is ASCII"));
    if let Some(lease) = &cx.lease {
        headers.insert("containerd-lease", lease.parse().expect("a lease is ASCII"));
    }
    request
}

pub fn failed(status: Status) -> Error {
    windlass_api::status::from_grpc(status)
}

pub fn mask(fields: &FieldMask) -> Option<prost_types::FieldMask> {
    (!fields.is_all()).then(|| prost_types::FieldMask { paths: fields.0.clone() })
}

pub fn time(stamp: Option<prost_types::Timestamp>) -> std::time::SystemTime {
    windlass_api::convert::time::from_wire(stamp).expect("a time in range").expect("a time")
}
