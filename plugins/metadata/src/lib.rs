//! The metadata database: the records of all namespaces over a [`MetaStore`](windlass_core::metastore::MetaStore), the
//! namespaced views of the raw content store and snapshotters, and the collector.
//!
//! - [`keys`]: how a record's key is made; no name can collide with another.
//! - [`record`]: the records' binary form, its version, and migrations.
//! - [`db`]: transactions, what every mutation does besides ([`db::Tx`]), and what is shared by the stores.
//! - [`container`], [`image`], [`lease`], [`namespace`], [`sandbox`]: records that are nothing but records.
//! - [`content`], [`snapshot`]: records with data behind them in another plugin. Data is made first, its record second;
//!   a record goes first, its data with the next collection.
//! - [`collect`]: mark and sweep.
//!
//! Events of images, containers, content, snapshots and namespaces are published here, after the commit, and nowhere
//! else. No task, mount or file of a snapshot is ever touched here.

mod collect;
mod container;
mod content;
mod db;
mod image;
mod keys;
mod lease;
mod locks;
mod namespace;
mod plugin;
mod record;
mod sandbox;
mod snapshot;

pub use db::{Database, Options, Policy};
pub use plugin::Config;
