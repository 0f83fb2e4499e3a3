//! The plugins that are built in: a list, and nothing else.
//!
//! A crate that is only a dependency registers nothing, because nothing of it is linked. A dependency that is forgotten
//! here does not compile.

#![deny(unused_crate_dependencies)]

use windlass_content as _;
#[cfg(feature = "cri")]
use windlass_cri as _;
use windlass_diff as _;
use windlass_event as _;
use windlass_gc as _;
use windlass_metadata as _;
use windlass_metastore as _;
use windlass_runtime as _;
use windlass_service as _;
use windlass_snapshotter as _;
use windlass_transfer as _;

#[cfg(test)]
mod tests {
    use windlass_core::registry::{Graph, Registration};

    /// Every plugin of a full build, by URI.
    const PLUGINS: &[&str] = &[
        "io.containerd.content.v1.content",
        "io.containerd.differ.v1.walking",
        "io.containerd.event.v1.exchange",
        "io.containerd.gc.v1.scheduler",
        "io.containerd.grpc.v1.containers",
        "io.containerd.grpc.v1.content",
        "io.containerd.grpc.v1.diff",
        "io.containerd.grpc.v1.events",
        "io.containerd.grpc.v1.healthcheck",
        "io.containerd.grpc.v1.images",
        "io.containerd.grpc.v1.introspection",
        "io.containerd.grpc.v1.leases",
        "io.containerd.grpc.v1.mounts",
        "io.containerd.grpc.v1.namespaces",
        "io.containerd.grpc.v1.sandbox-controllers",
        "io.containerd.grpc.v1.sandboxes",
        "io.containerd.grpc.v1.snapshots",
        "io.containerd.grpc.v1.streaming",
        "io.containerd.grpc.v1.tasks",
        "io.containerd.grpc.v1.transfer",
        "io.containerd.grpc.v1.version",
        "io.containerd.lease.v1.manager",
        "io.containerd.metadata.v1.bolt",
        "io.containerd.runtime.v2.task",
        "io.containerd.shim.v1.manager",
        "io.containerd.snapshotter.v1.native",
        "io.containerd.snapshotter.v1.overlayfs",
        "io.containerd.streaming.v1.manager",
        "io.containerd.transfer.v1.local",
        "io.containerd.ttrpc.v1.events",
        "io.windlass.metastore.v1.default",
    ];

    #[test]
    fn the_list_is_what_is_linked() {
        let mut found: Vec<String> = inventory::iter::<Registration>.into_iter().map(Registration::uri).collect();
        found.sort();
        let mut want: Vec<String> = PLUGINS.iter().map(|p| (*p).to_owned()).collect();
        want.retain(|uri| cfg!(feature = "cri") || !uri.contains("cri"));
        want.sort();
        assert_eq!(found, want, "a plugin came or went: say so in this list");
    }

    #[test]
    fn no_plugins_require_each_other() {
        Graph::order(inventory::iter::<Registration>.into_iter().collect()).unwrap();
    }
}
