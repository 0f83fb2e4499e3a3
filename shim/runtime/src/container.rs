//! A container from creation to deletion, as its owner sees it.

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::options::{CreateOptions, ExecOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A process that was added to a container.
#[derive(Debug)]
pub struct Child {
    /// As the caller's pid namespace names it. The caller is its parent and reaps it.
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The master of its terminal, when one was asked for with [`crate::Stdio::Terminal`].
    pub terminal: Option<OwnedFd>,
    /// What could not be done exactly as asked, in words for a log.
    pub warnings: Vec<String>,
}

/// What a container does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

/// Tells of processes of the group that the kernel killed for want of memory. Becomes readable (poll) when there may be
/// news; then call [`OomEvents::drain`].
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomEvents {
    /// Takes what is pending without blocking; true when an OOM kill happened since the last call.
    pub fn drain(&mut self) -> Result<bool> {
        let _ = &self.fd;
        Err(pending())
    }
}

/// A created, running or stopped container.
#[derive(Debug)]
pub struct Container {
    id: String,
    pid: u32,
    pidfd: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    warnings: Vec<String>,
}

fn pending() -> Error {
    Error::Unsupported("not built yet".into())
}

impl Container {
    /// Makes the container up to the start barrier. On error nothing is left: no process, group, mount or state.
    pub fn create(_options: CreateOptions<'_>) -> Result<Container> {
        Err(pending())
    }

    /// Finds a container again by its state, after the process that created it has gone. It can be asked for its
    /// status, killed and deleted; one that was not started has ended together with its creator.
    pub fn load(_root: &Path, _id: &str) -> Result<Container> {
        Err(pending())
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The init process in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable when init has exited; absent when it had already gone at [`Container::load`].
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }

    /// The master of init's terminal; the first call gets it.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// What could not be done exactly as asked, in words for a log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Runs the program. Returns when the kernel has taken it, or with the reason why not; then init has ended.
    pub fn start(&mut self) -> Result<()> {
        Err(pending())
    }

    /// Runs one more process. Returns when its program runs.
    pub fn exec(&mut self, _options: ExecOptions<'_>) -> Result<Child> {
        Err(pending())
    }

    /// Signals init, or with `all` every process of the group. `Error::Finished` when init has gone.
    pub fn kill(&self, _signal: i32, _all: bool) -> Result<()> {
        Err(pending())
    }

    pub fn pause(&self) -> Result<()> {
        Err(pending())
    }

    pub fn resume(&self) -> Result<()> {
        Err(pending())
    }

    /// Sets limits anew; `resources` is the OCI `linux.resources` object as JSON, absent fields stay as they are.
    pub fn update(&self, _resources: &[u8]) -> Result<()> {
        Err(pending())
    }

    pub fn stats(&self) -> Result<Metrics> {
        Err(pending())
    }

    /// All processes of the group and the groups below it.
    pub fn pids(&self) -> Result<Vec<u32>> {
        Err(pending())
    }

    pub fn status(&self) -> Result<Status> {
        Err(pending())
    }

    /// A descriptor that tells of OOM kills; to be taken after create.
    pub fn oom_events(&self) -> Result<OomEvents> {
        Err(pending())
    }

    /// Kills what is left, removes the groups and the state, and runs the poststop hooks. Init is reaped if the
    /// caller has not done so. Without `force` a running container is an error.
    pub fn delete(&mut self, _force: bool) -> Result<()> {
        Err(pending())
    }
}
