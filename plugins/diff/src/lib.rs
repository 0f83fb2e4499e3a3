//! The walking differ: applies layers to mounts and makes layers of what mounts differ in.
//!
//! A layer is read once: decompressed, hashed, taken apart and written in one pass, by two threads that share a bounded
//! ring of buffers. Nothing is kept in memory that grows with a layer, but for the names of its directories (bounded).

mod apply;
mod compare;
mod decompress;
mod differ;
mod error;
mod media;
mod pipe;
mod plugin;
mod tar;
mod xattr;

pub use decompress::Limit;
pub use differ::Walking;
