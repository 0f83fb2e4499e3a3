//! The plugins of a full build: none is forgotten, none is in error.

use windlass_tests::Daemon;

/// Type and id of every plugin.
const PLUGINS: &[(&str, &str)] = &[
    ("io.containerd.content.v1", "content"),
    ("io.containerd.differ.v1", "walking"),
    ("io.containerd.event.v1", "exchange"),
    ("io.containerd.gc.v1", "scheduler"),
    ("io.containerd.grpc.v1", "containers"),
    ("io.containerd.grpc.v1", "content"),
    ("io.containerd.grpc.v1", "diff"),
    ("io.containerd.grpc.v1", "events"),
    ("io.containerd.grpc.v1", "healthcheck"),
    ("io.containerd.grpc.v1", "images"),
    ("io.containerd.grpc.v1", "introspection"),
    ("io.containerd.grpc.v1", "leases"),
    ("io.containerd.grpc.v1", "mounts"),
    ("io.containerd.grpc.v1", "namespaces"),
    ("io.containerd.grpc.v1", "sandbox-controllers"),
    ("io.containerd.grpc.v1", "sandboxes"),
    ("io.containerd.grpc.v1", "snapshots"),
    ("io.containerd.grpc.v1", "streaming"),
    ("io.containerd.grpc.v1", "tasks"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.grpc.v1", "version"),
    ("io.containerd.lease.v1", "manager"),
    ("io.containerd.metadata.v1", "bolt"),
    ("io.containerd.runtime.v2", "task"),
    ("io.containerd.shim.v1", "manager"),
    ("io.containerd.snapshotter.v1", "native"),
    ("io.containerd.snapshotter.v1", "overlayfs"),
    ("io.containerd.streaming.v1", "manager"),
    ("io.containerd.transfer.v1", "local"),
    ("io.containerd.ttrpc.v1", "events"),
    ("io.windlass.metastore.v1", "default"),
];

/// The Kubernetes runtime interface, and what only its pods use.
const CRI: &[(&str, &str)] = &[
    ("io.containerd.cri.v1", "images"),
    ("io.containerd.cri.v1", "runtime"),
    ("io.containerd.grpc.v1", "cri"),
    ("io.containerd.nri.v1", "nri"),
    ("io.containerd.service.v1", "tasks-service"),
];

/// The plugins that are listed are these, and each has started.
fn assert_plugins(daemon: &Daemon, expected: &[(&str, &str)]) {
    let shown = daemon.windlass(&["plugins", "ls"]).ok();
    let rows: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    for (kind, id) in expected {
        let row = rows.iter().find(|row| row.first() == Some(kind) && row.get(1) == Some(id));
        let row = row.unwrap_or_else(|| panic!("{kind}.{id} is missing:\n{shown}"));
        assert_eq!(row.last(), Some(&"ok"), "{kind}.{id}");
    }
    assert_eq!(rows.len(), expected.len(), "a plugin came: say so in this list:\n{shown}");
}

#[test]
fn every_built_in_plugin_starts() {
    let daemon = Daemon::builder().start();
    assert_plugins(&daemon, &[PLUGINS, CRI].concat());
}

#[test]
fn the_daemon_is_complete_without_cri() {
    let disabled: Vec<_> = CRI.iter().map(|(kind, id)| format!("{kind}.{id}")).collect();
    let daemon = Daemon::builder().config(&format!("disabled_plugins = {disabled:?}\n")).start();
    assert_plugins(&daemon, PLUGINS);
}
