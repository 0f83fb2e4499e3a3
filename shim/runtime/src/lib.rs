//! An OCI runtime as a library, made for a small single-threaded caller (the shim).
//!
//! [`Container::create`] makes the process with one `clone3`, builds its root file system, and leaves it
//! waiting at the start barrier; [`Container::start`] lets it run its program. The caller stays the parent of
//! everything that is created or exec'd, and reaps it (by `SIGCHLD` or by pidfd). Nothing here starts a thread,
//! a shell or a second copy of the binary.
//!
//! The caller must be single-threaded: the child of `clone3` runs ordinary Rust code that allocates.

mod container;
mod error;
pub mod metrics;
mod options;

pub use container::{Child, Container, OomEvents, Status};
pub use error::{Error, ErrorKind, Result};
pub use metrics::Metrics;
pub use options::{CreateOptions, ExecOptions, OomScore, Stdio};
