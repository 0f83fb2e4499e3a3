//! An OCI runtime as a library, made for a small single-threaded caller (the shim).
//!
//! [`Container::create`] makes the process with one `clone3`, builds its root file system, and leaves it
//! waiting at the start barrier; [`Container::start`] lets it run its program. The caller stays the parent of
//! everything that is created or exec'd, and reaps it (by `SIGCHLD` or by pidfd). Nothing here starts a thread,
//! a shell or a second copy of the binary.
//!
//! The caller must be single-threaded: the child of `clone3` runs ordinary Rust code that allocates. Linux 5.14 or
//! later is needed (`mount_setattr`, `openat2`, `close_range`, `cgroup.kill`).
//!
//! - `create`, `exec`, `container`: the caller's side
//! - `child`: what runs in the new process
//! - `rootfs`, `namespaces`, `user_namespace`, `caps`, `seccomp`, `cgroup`, `resctrl`: one kernel facility each
//! - `spec`: the configuration; `sys`: system calls without policy

mod caps;
mod cgroup;
mod child;
mod container;
mod create;
mod error;
mod exec;
mod hooks;
pub mod metrics;
mod namespaces;
mod options;
mod resctrl;
mod rootfs;
mod seccomp;
mod spec;
mod state;
mod sys;
mod user_namespace;

pub use cgroup::{BusError, OomEvents};
pub use container::{Child, Container, Status};
pub use error::{Error, ErrorKind, Result};
pub use metrics::Metrics;
pub use options::{CreateOptions, ExecOptions, OomScore, Stdio};
pub use spec::IdMapping;
pub use user_namespace::with_mappings as id_mapped_namespace;
