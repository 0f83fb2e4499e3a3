//! The local content store: blobs by digest in files, ingests beside them.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>          a blob, mode 0400
//! <root>/ingest/<sha256 of ref>/data      what has been written
//!                              /ref      the reference; its time is when the ingest began
//!                              /total    bytes expected, where known
//! <root>/unsynced/<algorithm>-<hex>       names a blob that its caller was to sync and that may be torn after a crash
//! ```
//!
//! It knows no namespaces and no labels: those are the metadata's.

mod blob;
mod error;
mod ingest;
mod plugin;
mod store;
mod writer;

pub use store::Store;
