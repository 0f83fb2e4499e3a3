//! Tasks over shims of runtime v2: starts shims, finds them again after a restart, speaks ttrpc with them, and clears
//! up after those that died.
//!
//! A task is a bundle (a directory under `state`), a shim that serves it, and one connection. What runs belongs to the
//! shim: the daemon may end at any moment and finds everything again in the bundle.
//!
//! - [`launch`]: the shim's binary and its three uses, `start`, `delete` and `-info`; `resolve` finds it.
//! - `bundle`: the directory. `bootstrap`: what is said to `start` and what it answers.
//! - `features`: whether the runtime can do what is asked of it.
//! - `connection`, `shim`: one connection and the calls over it, each with a time limit.
//! - `task`, `tasks`, `create`, `end`: the life of a task; `restore`: after a restart; `exits`: who has ended how.
//! - `log`: what shims write to their log.
//!
//! No lock is held while a shim is called, but for a task's own while it is deleted. No fork, mount or unlink runs on a
//! worker of the async runtime.

mod bootstrap;
mod bundle;
mod config;
mod connection;
mod create;
mod end;
mod error;
mod exits;
mod features;
pub mod launch;
mod log;
mod plugin;
mod pool;
mod process;
mod resolve;
mod restore;
mod shim;
mod task;
mod tasks;

pub use config::{Limits, Settings};
pub use launch::Launcher;
pub use plugin::Shims;
pub use tasks::{Manager, Place};

/// A named step: a test may stop, fail or kill the process here.
macro_rules! step {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| Err($crate::error::Error::Injected($name)));
    };
}
pub(crate) use step;
