//! What end-to-end tests share: a daemon under a private root, an image, and `windlass` as a person types it.
//!
//! Everything that is started here is taken down when it is dropped, also when a test fails.

pub mod cri;
mod daemon;
mod image;
mod registry;
pub mod steps;

pub use daemon::{Builder, Daemon, Output};
pub use image::{IMAGE, VOLUME, archive, archive_with_volume};
pub use registry::Registry;
