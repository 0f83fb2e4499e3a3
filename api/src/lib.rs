//! Wire types: our `.proto` files, what is generated from them, and the little that both ends of a socket share.
//!
//! Two worlds that never mix: [`shim`] (rust-protobuf, ttrpc) is what the daemon and shims say to each other;
//! everything else is prost and gRPC. A message that exists in both is two Rust types; core's plain types lie between.
//!
//! - [`services`], [`types`], [`transfer`], [`events`], [`runc`], [`cri`], …: generated, named after the packages.
//! - [`status`]: core's errors to and from both kinds of status. Nowhere else is a code chosen.
//! - [`convert`]: core's plain types to and from both worlds, where client and server need the same.
//! - [`connect`], [`scope`]: a channel to a daemon, and the headers that every call carries.
//! - [`nri`]: what plugins that follow and adjust containers speak.
//! - [`kinds`]: what a plugin is that serves RPCs.
//! - [`reflection`]: the descriptors, served.

#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "grpc")]
pub use grpc::*;
/// For generated code: what Go's encoding/json leaves out.
#[cfg(feature = "cri")]
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
#[cfg(feature = "grpc")]
pub mod connect;
#[cfg(feature = "grpc")]
pub use connect::{MAX_MESSAGE, connect};
#[cfg(feature = "grpc")]
mod redact;

#[cfg(feature = "ttrpc")]
pub mod shim;

#[cfg(feature = "nri")]
pub mod nri;

#[cfg(feature = "core")]
pub mod convert;
#[cfg(feature = "core")]
pub mod kinds;
#[cfg(feature = "core")]
pub mod scope;
#[cfg(feature = "core")]
pub mod status;

#[cfg(feature = "reflection")]
pub mod reflection;
