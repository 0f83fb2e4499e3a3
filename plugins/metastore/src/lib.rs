//! The key-value engines under the records: sled (the default) and redb, behind core's [`MetaStore`].
//!
//! Both run under the same writer: one thread takes the bodies that wait, runs them over one state, and makes all their
//! changes durable with one sync ([`writer`]). An engine only reads, and commits a finished set of changes
//! ([`engine::Engine`]); it knows neither transactions nor threads.
//!
//! What an engine's directory holds belongs to it alone. Nothing here knows what the keys mean.

mod engine;
mod error;
mod open;
mod plugin;
mod redb;
mod sled;
mod transaction;
mod writer;

pub use error::Error;
pub use open::{Choice, Options, open};
pub use plugin::Config;
use windlass_core::metastore::MetaStore;
