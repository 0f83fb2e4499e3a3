//! Wire types: our `.proto` files, what is generated from them, and the little that both ends of a socket share.
//!
//! Two worlds that never mix: [`shim`] (rust-protobuf, ttrpc) is what the daemon and shims say to each other; everything
//! else is prost and gRPC. A message that exists in both is two Rust types; bytes are the bridge.

#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "grpc")]
pub use grpc::*;
#[cfg(feature = "grpc")]
mod redact;

#[cfg(feature = "ttrpc")]
pub mod shim;
