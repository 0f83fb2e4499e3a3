//! Snapshotters whose layers are directories: overlayfs and native (plain copies).
//!
//! ```text
//! <root>/snapshots/<number>/fs      the files: of the layer alone (overlayfs) or of all (native)
//! <root>/snapshots/<number>/work    overlayfs' scratch directory, of active snapshots
//! ```
//!
//! Both share one form of records in the metadata engine ([`storage`]) and one way with directories ([`dirs`]): a number
//! is never used twice, a directory is made before its record and removed after it, and what no record names is
//! rubbish. A user's tree is never renamed.

mod adopt;
mod copy;
mod dirs;
mod error;
mod host;
mod layered;
mod native;
mod overlay;
mod plugin;
mod record;
mod storage;

pub use native::Native;
pub use overlay::{Options, Overlay};
