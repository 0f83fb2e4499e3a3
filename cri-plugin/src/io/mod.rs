//! Standard streams of CRI containers and execs: fifos, the container's log, attached clients.
//!
//! A shim owns a process's streams and reaches them through fifos that are made here. The daemon copies what comes out of
//! them to the log that the kubelet named and to the clients that are attached. It may die at any byte of this: the shim
//! keeps the fifos open, and whoever reattaches loses no line and writes none twice.
//!
//! - `fifo`: the private directory, making and opening fifos.
//! - `line`, `stamp`: the log's format, without any I/O.
//! - `spool`: what came out of a fifo and is not in the log yet; `journal`: how far the log has taken it.
//! - `log`: the log file; `recover`: what a daemon that died left half written.
//! - `clients`: attached clients, each with a bounded queue; `pump`: the task per stream that drives all of it.
//! - `container`: [`ContainerIo`]; `exec`: [`ExecIo`], and [`Collector`] for ExecSync.
//!
//! Nothing here calls a shim: closing a process's input is the caller's [`CloseStdin`]. Nothing here decides what happens
//! to a process whose client has gone.

mod clients;
mod container;
mod exec;
mod fifo;
mod journal;
mod line;
mod log;
mod pump;
mod recover;
mod spool;
mod stamp;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use windlass_core::Result;

pub use self::container::ContainerIo;
#[cfg(test)]
use self::exec::Collected;
pub use self::exec::{Ended, ExecIo};
pub use self::log::open as open_log;

/// A client's end of the streams; what is `None` is not attached. Without a client for it, a stream still flows.
#[derive(Default)]
pub struct AttachStreams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

/// Tells the shim to close a process's input (`Tasks::close_io`). Called at most once, when the client's input has ended
/// and ends the process's; also where the future that was to call it has been dropped.
pub type CloseStdin = Box<dyn FnOnce() -> BoxFuture<'static, Result<()>> + Send>;

/// The two output streams by the names that the log gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        }
    }
}
