//! The nouns of windlass: their traits, plain types, contracts and errors, and the plugin registry.
//!
//! Nothing here knows protobuf, gRPC, a configuration file or an implementation. Implementations depend on this
//! crate and never on each other; wire types are made from these types at the rim (`api`, `service`).
//!
//! Where to look: one module per noun, the contract on its trait; [`registry`] finds, orders, starts and closes
//! plugins; [`kinds`] lists the plugin kinds and what an instance of each is.

mod blocking;
pub mod capability;
pub mod container;
pub mod content;
pub mod context;
pub mod diff;
pub mod digest;
pub mod duration;
pub mod error;
pub mod event;
pub mod fieldmask;
pub mod filter;
pub mod gc;
pub mod image;
pub mod kinds;
pub mod lease;
pub mod metadata;
pub mod metastore;
pub mod mount;
pub mod namespace;
pub mod nri;
pub mod platform;
pub mod registry;
pub mod sandbox;
pub mod snapshot;
pub mod stream;
pub mod task;
#[cfg(feature = "testsuite")]
pub mod testsuite;
pub mod transfer;
pub mod tree;
pub mod types;
pub mod validate;

pub use blocking::blocking;
pub use context::Context;
pub use digest::{Descriptor, Digest};
pub use error::{Class, Error, Result};
pub use fieldmask::FieldMask;
pub use filter::Filters;
pub use types::{Any, Labels};
