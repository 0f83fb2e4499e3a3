//! Core's plain types to and from the wire, where client and server need the same.
//!
//! One module per type; `to_wire` and `from_wire` for gRPC's messages, `to_shim` and `from_shim` for ttrpc's. What comes
//! from the wire is checked: a value that core cannot hold is *invalid argument*.

pub mod any;
#[cfg(feature = "grpc")]
pub mod descriptor;
#[cfg(feature = "grpc")]
pub mod event;
pub mod mount;
pub mod platform;
#[cfg(feature = "grpc")]
pub mod runtime;
pub mod task;
pub mod time;
