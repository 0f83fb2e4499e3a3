//! Moves images between registries, archives and the image store, and keeps the streams that clients open for it.
//!
//! - [`registry`]: the one registry client. It knows hosts, credentials, retries and ranges, and nothing of images.
//! - [`archive`]: image archives, read and written as streams.
//! - [`local`]: the transferrer: pull, push, import, export, tag. A pull reads each byte once: network, digest,
//!   content store and snapshot in one pass.
//! - [`streaming`]: streams by namespace and id.
//!
//! No wire types in here: the adapters between streams and bytes stand beside the gRPC services.

pub mod archive;
mod config;
mod document;
pub mod local;
mod locks;
mod media;
mod plugin;
mod progress;
mod reference;
pub mod registry;
mod select;
pub mod streaming;

pub use config::Config;
pub use reference::Spec;

/// A named step of a long operation: a test can stop or kill the process exactly there.
macro_rules! step {
    ($name:literal) => {
        fail::fail_point!($name);
    };
}
pub(crate) use step;
