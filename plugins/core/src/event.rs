//! Events: what happened, told to whoever subscribed.

use std::borrow::Cow;
use std::time::SystemTime;

use futures::stream::BoxStream;

use crate::filter::{Fields, label};
use crate::mount::Mount;
use crate::task::Io;
use crate::{Any, Context, Labels, Result};

/// What happened. The events that windlass makes or reads are spelled out; any other is carried as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    ContainerCreate {
        id: String,
        image: String,
        runtime: crate::container::Runtime,
    },
    ContainerUpdate {
        id: String,
        image: String,
        labels: Labels,
        snapshot_key: String,
    },
    ContainerDelete {
        id: String,
    },
    ContentCreate {
        digest: crate::Digest,
        size: u64,
    },
    ContentDelete {
        digest: crate::Digest,
    },
    ImageCreate {
        name: String,
        labels: Labels,
    },
    ImageUpdate {
        name: String,
        labels: Labels,
    },
    ImageDelete {
        name: String,
    },
    NamespaceCreate {
        name: String,
        labels: Labels,
    },
    NamespaceUpdate {
        name: String,
        labels: Labels,
    },
    NamespaceDelete {
        name: String,
    },
    SnapshotPrepare {
        key: String,
        parent: String,
        snapshotter: String,
    },
    SnapshotCommit {
        key: String,
        name: String,
        snapshotter: String,
    },
    SnapshotRemove {
        key: String,
        snapshotter: String,
    },
    TaskCreate {
        container_id: String,
        bundle: String,
        rootfs: Vec<Mount>,
        io: Io,
        checkpoint: String,
        pid: u32,
    },
    TaskStart {
        container_id: String,
        pid: u32,
    },
    TaskExit {
        container_id: String,
        id: String,
        pid: u32,
        exit_status: u32,
        exited_at: SystemTime,
    },
    TaskDelete {
        container_id: String,
        id: String,
        pid: u32,
        exit_status: u32,
        exited_at: SystemTime,
    },
    TaskOom {
        container_id: String,
    },
    TaskExecAdded {
        container_id: String,
        exec_id: String,
    },
    TaskExecStarted {
        container_id: String,
        exec_id: String,
        pid: u32,
    },
    TaskPaused {
        container_id: String,
    },
    TaskResumed {
        container_id: String,
    },
    TaskCheckpointed {
        container_id: String,
        checkpoint: String,
    },
    SandboxCreate {
        id: String,
    },
    SandboxStart {
        id: String,
    },
    SandboxExit {
        id: String,
        exit_status: u32,
        exited_at: SystemTime,
    },
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

/// The fields that containerd's generated messages answer: text and labels, an empty one being absent. Numbers and
/// times cannot be filtered by, neither here nor there.
impl Fields for Event {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text: &str = match (self, path) {
            (Self::ContainerCreate { runtime, .. }, ["runtime", "name", ..]) => &runtime.name,
            (
                Self::ContainerUpdate { labels, .. }
                | Self::ImageCreate { labels, .. }
                | Self::ImageUpdate { labels, .. }
                | Self::NamespaceCreate { labels, .. }
                | Self::NamespaceUpdate { labels, .. },
                ["labels", key @ ..],
            ) => return label(labels, key),
            (Self::TaskCreate { io, .. }, ["io", name, ..]) => match *name {
                "stdin" => &io.stdin,
                "stdout" => &io.stdout,
                "stderr" => &io.stderr,
                "terminal" => return Some(Cow::Borrowed(if io.terminal { "true" } else { "false" })),
                _ => return None,
            },
            (_, [name, ..]) => self.text(name)?,
            (_, []) => return None,
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }
}

impl Event {
    /// A text field of the event's message by its protobuf name.
    fn text(&self, name: &str) -> Option<&str> {
        Some(match (self, name) {
            (
                Self::ContainerCreate { id, .. }
                | Self::ContainerUpdate { id, .. }
                | Self::ContainerDelete { id },
                "id",
            ) => id,
            (Self::ContainerCreate { image, .. } | Self::ContainerUpdate { image, .. }, "image") => image,
            (Self::ContainerUpdate { snapshot_key, .. }, "snapshot_key") => snapshot_key,
            (Self::ContentCreate { digest, .. } | Self::ContentDelete { digest }, "digest") => {
                digest.as_str()
            }
            (
                Self::ImageCreate { name, .. }
                | Self::ImageUpdate { name, .. }
                | Self::ImageDelete { name }
                | Self::NamespaceCreate { name, .. }
                | Self::NamespaceUpdate { name, .. }
                | Self::NamespaceDelete { name }
                | Self::SnapshotCommit { name, .. },
                "name",
            ) => name,
            (
                Self::SnapshotPrepare { key, .. }
                | Self::SnapshotCommit { key, .. }
                | Self::SnapshotRemove { key, .. },
                "key",
            ) => key,
            (Self::SnapshotPrepare { parent, .. }, "parent") => parent,
            (
                Self::SnapshotPrepare { snapshotter, .. }
                | Self::SnapshotCommit { snapshotter, .. }
                | Self::SnapshotRemove { snapshotter, .. },
                "snapshotter",
            ) => snapshotter,
            (Self::TaskCreate { bundle, .. }, "bundle") => bundle,
            (
                Self::TaskCreate { checkpoint, .. } | Self::TaskCheckpointed { checkpoint, .. },
                "checkpoint",
            ) => checkpoint,
            (Self::TaskExit { id, .. } | Self::TaskDelete { id, .. }, "id") => id,
            (Self::TaskExecAdded { exec_id, .. } | Self::TaskExecStarted { exec_id, .. }, "exec_id") => {
                exec_id
            }
            (
                Self::TaskCreate { container_id, .. }
                | Self::TaskStart { container_id, .. }
                | Self::TaskExit { container_id, .. }
                | Self::TaskDelete { container_id, .. }
                | Self::TaskOom { container_id }
                | Self::TaskExecAdded { container_id, .. }
                | Self::TaskExecStarted { container_id, .. }
                | Self::TaskPaused { container_id }
                | Self::TaskResumed { container_id }
                | Self::TaskCheckpointed { container_id, .. },
                "container_id",
            ) => container_id,
            (
                Self::SandboxCreate { id } | Self::SandboxStart { id } | Self::SandboxExit { id, .. },
                "sandbox_id",
            ) => id,
            _ => return None,
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

impl Fields for Envelope {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text = match path {
            ["namespace", ..] => &self.namespace,
            ["topic", ..] => &self.topic,
            ["event", rest @ ..] => return self.event.field(rest),
            _ => return None,
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text.as_str()))
    }
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
    /// Ends every subscription, after what is queued, without an error. Later events reach nobody.
    fn close(&self) {}
}
