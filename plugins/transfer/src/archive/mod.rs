//! Image archives: tar, read and written as a stream, and what is in them.

pub mod reader;
pub mod writer;
