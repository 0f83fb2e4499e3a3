//! The one seam between a container of the shim and the OCI runtime that makes it: embedded, or a program with runc's
//! command line.
//!
//! One value belongs to one container. A runtime only starts, changes and removes processes; streams, exits, events and
//! the root file system are the shim's.

mod criu_log;
mod embedded;
mod external;
mod features;
mod helper;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

pub use criu_log::reason as criu_reason;
use embedded::Embedded;
use external::External;
pub use external::{Restore, features};
pub use features::embedded_features;

use crate::error::{Code, Error, Result};
use crate::io::Child;
use crate::options::Options;
use crate::reaper::Reaper;

/// A process that a runtime started.
pub struct Launched {
    pub pid: u32,
    /// The master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
}

/// What checkpoints are to hold; from `CheckpointOptions`.
#[derive(Debug, Default)]
pub struct Checkpoint {
    pub image: String,
    pub work: String,
    pub leave_running: bool,
    pub open_tcp: bool,
    pub external_sockets: bool,
    pub terminal: bool,
    pub file_locks: bool,
    pub empty_namespaces: Vec<String>,
}

pub enum Runtime {
    Embedded(Box<Embedded>),
    External(Box<External>),
}

impl Runtime {
    /// The runtime that the options name, for the container of that id.
    /// `hooks`: the container has some.
    pub fn new(
        id: &str,
        bundle: &Path,
        namespace: &str,
        options: &Options,
        hooks: bool,
        reaper: &Rc<Reaper>,
    ) -> Result<Runtime> {
        if options.binary_name.is_empty() {
            let root = options.embedded_root(namespace, bundle);
            return Ok(Runtime::Embedded(Box::new(Embedded::new(id, bundle, root, options, hooks))));
        }
        let root = options.state_root(namespace);
        External::new(id, bundle, root, options, reaper).map(|runtime| Runtime::External(Box::new(runtime)))
    }

    /// Makes the container; its process waits for [`Runtime::start`].
    pub async fn create(&self, child: Child) -> Result<Launched> {
        match self {
            Runtime::Embedded(runtime) => runtime.create(child).await,
            Runtime::External(runtime) => runtime.create(child).await,
        }
    }

    pub async fn restore(&self, restore: &Restore, child: Child) -> Result<Launched> {
        match self {
            Runtime::Embedded(_) => Err(no_checkpoints("restore")),
            Runtime::External(runtime) => runtime.restore(restore, child).await,
        }
    }

    pub async fn start(&self) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.start().await,
            Runtime::External(runtime) => runtime.start().await,
        }
    }

    /// Runs one more process; `process` is the OCI object as JSON.
    pub async fn exec(&self, exec_id: &str, process: &[u8], child: Child) -> Result<Launched> {
        match self {
            Runtime::Embedded(runtime) => runtime.exec(process, child),
            Runtime::External(runtime) => runtime.exec(exec_id, process, child).await,
        }
    }

    pub async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.kill(signal, all),
            Runtime::External(runtime) => runtime.kill(signal, all).await,
        }
    }

    pub async fn pause(&self) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.pause(),
            Runtime::External(runtime) => runtime.simple("pause").await,
        }
    }

    pub async fn resume(&self) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.resume(),
            Runtime::External(runtime) => runtime.simple("resume").await,
        }
    }

    /// `resources` is the OCI `linux.resources` object as JSON.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.update(resources),
            Runtime::External(runtime) => runtime.update(resources).await,
        }
    }

    pub async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<()> {
        match self {
            Runtime::Embedded(_) => Err(no_checkpoints("checkpoint")),
            Runtime::External(runtime) => runtime.checkpoint(checkpoint).await,
        }
    }

    /// Removes the container; with `force` even if it runs. One that is gone already is fine.
    pub async fn delete(&self, force: bool) -> Result<()> {
        match self {
            Runtime::Embedded(runtime) => runtime.delete(force).await,
            Runtime::External(runtime) => runtime.delete(force).await,
        }
    }
}

fn no_checkpoints(what: &str) -> Error {
    Error::class(
        Code::Unimplemented,
        format!(
            "{what} needs an external runtime with CRIU, such as runc; set it as the runtime option BinaryName"
        ),
    )
}
