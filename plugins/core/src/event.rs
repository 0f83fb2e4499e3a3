//! Events: what happened, told to whoever subscribed.

use std::time::SystemTime;

use futures::stream::BoxStream;

use crate::mount::Mount;
use crate::task::Io;
use crate::{Any, Context, Labels, Result};

/// What happened. The events that windlass makes or reads are spelled out; any other is carried as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    ContainerCreate { id: String, image: String, runtime: crate::container::Runtime },
    ContainerUpdate { id: String, image: String, labels: Labels, snapshot_key: String },
    ContainerDelete { id: String },
    ContentCreate { digest: crate::Digest, size: u64 },
    ContentDelete { digest: crate::Digest },
    ImageCreate { name: String, labels: Labels },
    ImageUpdate { name: String, labels: Labels },
    ImageDelete { name: String },
    NamespaceCreate { name: String, labels: Labels },
    NamespaceUpdate { name: String, labels: Labels },
    NamespaceDelete { name: String },
    SnapshotPrepare { key: String, parent: String, snapshotter: String },
    SnapshotCommit { key: String, name: String, snapshotter: String },
    SnapshotRemove { key: String, snapshotter: String },
    TaskCreate { container_id: String, bundle: String, rootfs: Vec<Mount>, io: Io, checkpoint: String, pid: u32 },
    TaskStart { container_id: String, pid: u32 },
    TaskExit { container_id: String, id: String, pid: u32, exit_status: u32, exited_at: SystemTime },
    TaskDelete { container_id: String, id: String, pid: u32, exit_status: u32, exited_at: SystemTime },
    TaskOom { container_id: String },
    TaskExecAdded { container_id: String, exec_id: String },
    TaskExecStarted { container_id: String, exec_id: String, pid: u32 },
    TaskPaused { container_id: String },
    TaskResumed { container_id: String },
    TaskCheckpointed { container_id: String, checkpoint: String },
    SandboxCreate { id: String },
    SandboxStart { id: String },
    SandboxExit { id: String, exit_status: u32, exited_at: SystemTime },
    Other(Any),
}

impl Event {
    /// The topic that containerd publishes this event under; `None` for [`Event::Other`], whose sender names it.
    pub fn topic(&self) -> Option<&'static str> {
        Some(match self {
            Self::ContainerCreate { .. } => "/containers/create",
            Self::ContainerUpdate { .. } => "/containers/update",
            Self::ContainerDelete { .. } => "/containers/delete",
            Self::ContentCreate { .. } => "/content/create",
            Self::ContentDelete { .. } => "/content/delete",
            Self::ImageCreate { .. } => "/images/create",
            Self::ImageUpdate { .. } => "/images/update",
            Self::ImageDelete { .. } => "/images/delete",
            Self::NamespaceCreate { .. } => "/namespaces/create",
            Self::NamespaceUpdate { .. } => "/namespaces/update",
            Self::NamespaceDelete { .. } => "/namespaces/delete",
            Self::SnapshotPrepare { .. } => "/snapshot/prepare",
            Self::SnapshotCommit { .. } => "/snapshot/commit",
            Self::SnapshotRemove { .. } => "/snapshot/remove",
            Self::TaskCreate { .. } => "/tasks/create",
            Self::TaskStart { .. } => "/tasks/start",
            Self::TaskExit { .. } => "/tasks/exit",
            Self::TaskDelete { .. } => "/tasks/delete",
            Self::TaskOom { .. } => "/tasks/oom",
            Self::TaskExecAdded { .. } => "/tasks/exec-added",
            Self::TaskExecStarted { .. } => "/tasks/exec-started",
            Self::TaskPaused { .. } => "/tasks/paused",
            Self::TaskResumed { .. } => "/tasks/resumed",
            Self::TaskCheckpointed { .. } => "/tasks/checkpointed",
            Self::SandboxCreate { .. } => "/sandboxes/create",
            Self::SandboxStart { .. } => "/sandboxes/start",
            Self::SandboxExit { .. } => "/sandboxes/exit",
            Self::Other(_) => return None,
        })
    }
}

/// An event with where and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub timestamp: SystemTime,
    pub namespace: String,
    pub topic: String,
    pub event: Event,
}

/// A running subscription. Ends with an error where the subscriber was too slow, without one at shutdown.
pub type Subscription = BoxStream<'static, Result<std::sync::Arc<Envelope>>>;

/// Passes events on.
///
/// Publishing never waits for a subscriber: each has a bounded queue and is cut off with *resource exhausted* when it
/// is full. Events of one publisher keep their order.
/// Filter fields: `namespace`, `topic`, `event.<field>` with the field names of the event's protobuf message
/// (`event.id`, `event.container_id`, …).
pub trait Exchange: Send + Sync {
    /// Publishes under the event's own topic, in the context's namespace, with the present time.
    fn publish(&self, cx: &Context, event: Event);
    /// Passes on an envelope that somebody else made. *Invalid argument* for a bad namespace, topic or no time.
    fn forward(&self, envelope: Envelope) -> Result<()>;
    /// Events from now on that match any of the filters, of all namespaces.
    fn subscribe(&self, filters: &[String]) -> Result<Subscription>;
}
