//! Containers: their lives, one file per step, each a method of [`Cri`](crate::cri::Cri) named after its call.
//!
//! - `plan`: what one is going to be. `create`: reserved, written down, given a snapshot, visible; `volumes`, `copy`: what an image declares; `users`: who
//!   an image knows.
//! - `start`, `monitor`: a task made and started, its end awaited and written down.
//! - `stop`, `remove`: ended, and gone. `restore`: all of them after a restart.
//! - `exec`, `stream`: processes beside the container's own, and clients attached to either. `checkpoint`: its state in a
//!   file, and a container made of that.
//! - `list`, `status`, `update`, `logs`, `happened`: told, changed, and told of.
//! - `nri`: how plugins of the node resource interface see it.
//!
//! A container's lock is held over every change, calls to its shim included; it is never held while a stop waits. Its
//! record is written before a change is visible: what is in memory is never newer than what is on disk.

mod checkpoint;
mod copy;
mod create;
mod exec;
mod happened;
mod list;
mod logs;
mod monitor;
mod nri;
mod plan;
mod remove;
mod restore;
mod start;
mod status;
mod stop;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod update;
mod users;
mod volumes;

use std::sync::Arc;

use windlass_api::cri;
use windlass_core::{Error, FieldMask, Result};

use crate::cri::Cri;
use crate::state::Container;
use crate::state::record::{self, ContainerStatus};

pub use remove::remove_stopped;
pub use status::wire as wire_status;
pub use stop::stop_at_once;
pub use stream::Streaming;
pub use users::Users;

/// Exit code of a container that could not be started.
const START_FAILED: i32 = 128;
/// Exit code of a container whose end nobody saw.
const UNKNOWN: i32 = 255;
/// Exit code of what was killed.
const KILLED: i32 = 137;

/// Reasons, as the kubelet knows them.
mod reason {
    pub const COMPLETED: &str = "Completed";
    pub const ERROR: &str = "Error";
    pub const OOM: &str = "OOMKilled";
    pub const START: &str = "StartError";
    pub const UNKNOWN: &str = "Unknown";
}

/// Present time in nanoseconds since 1970.
fn now() -> i64 {
    record::nanos(std::time::SystemTime::now())
}

/// `name_pod_namespace_uid_attempt`, unique among containers.
fn name(container: &cri::ContainerMetadata, pod: &cri::PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}_{}", container.name, pod.name, pod.namespace, pod.uid, container.attempt)
}

impl Cri {
    /// Writes a status down; nobody sees it yet.
    async fn write_status(&self, container: &Container, status: &ContainerStatus) -> Result<()> {
        let mut changed = windlass_core::container::Container {
            id: container.id.clone(),
            labels: Default::default(),
            image: String::new(),
            runtime: Default::default(),
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: std::time::UNIX_EPOCH,
            updated_at: std::time::UNIX_EPOCH,
            extensions: Default::default(),
            sandbox_id: String::new(),
        };
        changed.extensions.insert(record::STATUS.to_owned(), record::encode(status, "ContainerStatus"));
        let fields = FieldMask(vec![format!("extensions.{}", record::STATUS)]);
        match self.database.containers().update(&self.cx, changed, &fields).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(format!("write the status of container {}", container.id))),
        }
    }

    /// The container of an id or prefix.
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.state.containers.get(id).map_err(|error| error.context("container"))
    }

    /// The container of an id or prefix, which runs.
    fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.phase() {
            crate::state::Phase::Running => Ok(container),
            phase => Err(Error::precondition(format!(
                "container {} is {}, it must be running",
                container.id,
                list::word(phase)
            ))),
        }
    }
}
