//! The metadata database: records of all namespaces, and the namespaced views of content and snapshots.

use std::sync::Arc;

use crate::{container, content, gc, image, lease, namespace, sandbox, snapshot};

/// All stores over one database. Every mutation is one synced transaction before it is answered.
pub trait Database: gc::Collector {
    fn namespaces(&self) -> Arc<dyn namespace::Store>;
    fn containers(&self) -> Arc<dyn container::Store>;
    fn images(&self) -> Arc<dyn image::Store>;
    fn leases(&self) -> Arc<dyn lease::Manager>;
    fn sandboxes(&self) -> Arc<dyn sandbox::Store>;
    /// The content store as the namespaces see it.
    fn content(&self) -> Arc<dyn content::Store>;
    /// A snapshotter as the namespaces see it; `None` where no plugin has that id.
    fn snapshotter(&self, id: &str) -> Option<snapshot::Shared>;
    /// Ids of all snapshotters.
    fn snapshotters(&self) -> Vec<String>;
    /// The collector alone.
    fn collector(self: Arc<Self>) -> Arc<dyn gc::Collector>;
}
