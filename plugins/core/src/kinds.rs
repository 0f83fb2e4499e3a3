//! The plugin kinds: containerd's type strings and what an instance of each is.

use crate::registry::Kind;
use crate::{content, diff, event, gc, lease, metadata, metastore, nri, snapshot, stream, task, transfer};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $string:literal : $instance:ty;)*) => { $(
        $(#[$doc])*
        pub struct $name;
        impl Kind for $name {
            const NAME: &'static str = $string;
            type Instance = $instance;
        }
    )* };
}

kinds! {
    /// Raw content stores, without namespaces.
    Content = "io.containerd.content.v1": dyn content::Store;
    /// Raw snapshotters, without namespaces.
    Snapshot = "io.containerd.snapshotter.v1": dyn snapshot::Snapshotter;
    /// The metadata database: id `bolt`, as clients know it.
    Metadata = "io.containerd.metadata.v1": dyn metadata::Database;
    /// The key-value engine under the records.
    MetaStore = "io.windlass.metastore.v1": dyn metastore::MetaStore;
    Differ = "io.containerd.differ.v1": dyn diff::Differ;
    Gc = "io.containerd.gc.v1": dyn gc::Scheduler;
    Event = "io.containerd.event.v1": dyn event::Exchange;
    Lease = "io.containerd.lease.v1": dyn lease::Manager;
    /// Plugins that follow and adjust pods and containers: id `nri`.
    Nri = "io.containerd.nri.v1": dyn nri::Nri;
    Streaming = "io.containerd.streaming.v1": dyn stream::Manager;
    Transfer = "io.containerd.transfer.v1": dyn transfer::Transferrer;
    /// Task managers: id `task`.
    Runtime = "io.containerd.runtime.v2": dyn task::Tasks;
}
