//! Older files into the newest version, as containerd does it.
//!
//! Version 1 (or none) named plugins without their type; 2 had one CRI plugin for everything; 3 had listeners at the top
//! level, which are plugins in 4.

use super::document::Document;
use super::{SERVER_DEBUG, SERVER_GRPC, SERVER_METRICS, SERVER_TCP, SERVER_TTRPC, VERSION};

const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";

/// Keys of the old CRI plugin that belong to its image part.
const IMAGES: &[&str] = &[
    "registry",
    "image_decryption",
    "max_concurrent_downloads",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "stats_collect_period",
];
/// Keys that stay with the old name.
const STREAMING: &[&str] = &[
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
];
/// Keys below `containerd` that belong to the image part.
const UNPACKING: &[&str] = &["snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"];

/// The version that a file says it has; a file that says nothing is of the first.
pub fn version(document: &Document) -> i64 {
    document.get(&["version"]).and_then(toml::Value::as_integer).unwrap_or(0)
}

/// Brings a document to the newest version.
pub fn migrate(document: &mut Document) {
    let from = version(document);
    if from < 2 {
        name_plugins(document);
    }
    if from < VERSION {
        rename_plugins(document);
        split_cri(document);
        move_listeners(document);
    }
    // One plugin here, two there: the keys are taken under both names.
    document.rename(
        &["plugins", "io.containerd.service.v1.diff-service"],
        &["plugins", "io.containerd.grpc.v1.diff"],
    );
    document.table.insert("version".into(), toml::Value::Integer(VERSION));
}

/// Full URIs for the short names of version 1.
fn name_plugins(document: &mut Document) {
    let full = |short: &str| -> String {
        let full = match short {
            "cri" => CRI,
            "cgroups" => "io.containerd.monitor.v1.cgroups",
            "linux" => "io.containerd.runtime.v1.linux",
            "scheduler" => "io.containerd.gc.v1.scheduler",
            "bolt" => "io.containerd.metadata.v1.bolt",
            "task" => "io.containerd.runtime.v2.task",
            "opt" => "io.containerd.internal.v1.opt",
            "restart" => "io.containerd.internal.v1.restart",
            "tracing" => "io.containerd.internal.v1.tracing",
            "otlp" => "io.containerd.tracing.processor.v1.otlp",
            "aufs" | "btrfs" | "devmapper" | "native" | "overlayfs" | "zfs" => {
                return format!("io.containerd.snapshotter.v1.{short}");
            }
            _ if short.ends_with("-service") => return format!("io.containerd.service.v1.{short}"),
            _ => return format!("io.containerd.grpc.v1.{short}"),
        };
        full.to_owned()
    };
    let short: Vec<String> = plugins(document).into_iter().filter(|uri| !uri.contains('.')).collect();
    for name in short {
        document.rename(&["plugins", &name], &["plugins", &full(&name)]);
    }
    for list in ["disabled_plugins", "required_plugins"] {
        for uri in document.table.get_mut(list).and_then(toml::Value::as_array_mut).into_iter().flatten() {
            if let Some(name) = uri.as_str().filter(|uri| !uri.contains('.')) {
                *uri = toml::Value::String(full(name));
            }
        }
    }
}

fn plugins(document: &Document) -> Vec<String> {
    let table = document.get(&["plugins"]).and_then(toml::Value::as_table);
    table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

fn rename_plugins(document: &mut Document) {
    for (old, new) in [
        ("io.containerd.monitor.v1.cgroups", "io.containerd.monitor.task.v1.cgroups"),
        ("io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"),
    ] {
        document.rename(&["plugins", old], &["plugins", new]);
    }
    let task = "io.containerd.runtime.v2.task";
    if let Some(toml::Value::Boolean(true)) = document.take(&["plugins", task, "sched_core"]) {
        let env = toml::Value::Array(vec!["SCHED_CORE=1".into()]);
        document.put(&["plugins", "io.containerd.shim.v1.manager", "env"], env);
    }
}

fn split_cri(document: &mut Document) {
    let Some(cri) = document.get(&["plugins", CRI]).and_then(toml::Value::as_table).cloned() else { return };
    document.rename(&["plugins", CRI, "sandbox_image"], &["plugins", CRI_IMAGES, "pinned_images", "sandbox"]);
    for key in IMAGES {
        document.rename(&["plugins", CRI, key], &["plugins", CRI_IMAGES, key]);
    }
    for key in UNPACKING {
        document.rename(&["plugins", CRI, "containerd", key], &["plugins", CRI_IMAGES, key]);
    }
    let runtimes = cri.get("containerd").and_then(|c| c.get("runtimes")).and_then(toml::Value::as_table);
    for (name, runtime) in runtimes.into_iter().flatten() {
        let snapshotter = runtime.get("snapshotter").and_then(toml::Value::as_str).filter(|s| !s.is_empty());
        if let Some(snapshotter) = snapshotter {
            let platform = [("snapshotter".to_owned(), toml::Value::from(snapshotter))].into_iter().collect();
            let path = ["plugins", CRI_IMAGES, "runtime_platforms", name];
            document.put(&path, toml::Value::Table(platform));
        }
    }
    // A single directory for CNI's programs became a list.
    if let Some(dir) = document.take(&["plugins", CRI, "cni", "bin_dir"]) {
        document.put(&["plugins", CRI_RUNTIME, "cni", "bin_dirs"], toml::Value::Array(vec![dir]));
    }
    for table in ["cni", "containerd"] {
        let inner = document.get(&["plugins", CRI, table]).and_then(toml::Value::as_table);
        for key in inner.map(|t| t.keys().cloned().collect::<Vec<_>>()).unwrap_or_default() {
            document.rename(&["plugins", CRI, table, &key], &["plugins", CRI_RUNTIME, table, &key]);
        }
        document.take(&["plugins", CRI, table]);
    }
    for key in cri.keys().filter(|k| !STREAMING.contains(&k.as_str())) {
        document.rename(&["plugins", CRI, key], &["plugins", CRI_RUNTIME, key]);
    }
}

/// `grpc`, `ttrpc`, `debug` and `metrics` become plugins of their own. A ttrpc socket that was not named lies beside the
/// gRPC socket, with its owner.
fn move_listeners(document: &mut Document) {
    let given = |document: &Document, section: &str, key: &str| {
        document.get(&[section, key]).is_some_and(|v| {
            !matches!(v, toml::Value::String(s) if s.is_empty()) && v.as_integer() != Some(0)
        })
    };
    let had_plugin = |document: &Document, uri: &str| document.get(&["plugins", uri]).is_some();
    let (grpc, tcp) = (had_plugin(document, SERVER_GRPC), had_plugin(document, SERVER_TCP));
    let (ttrpc, debug) = (had_plugin(document, SERVER_TTRPC), had_plugin(document, SERVER_DEBUG));
    if !ttrpc {
        for key in ["address", "uid", "gid"] {
            if given(document, "ttrpc", key) {
                document.rename(&["ttrpc", key], &["plugins", SERVER_TTRPC, key]);
            }
        }
        let grpc_address =
            document.get(&["grpc", "address"]).and_then(toml::Value::as_str).unwrap_or_default();
        if !grpc_address.is_empty() {
            let beside = format!("{grpc_address}.ttrpc");
            if document.get(&["plugins", SERVER_TTRPC, "address"]).is_none() {
                document.put(&["plugins", SERVER_TTRPC, "address"], beside.into());
                for key in ["uid", "gid"] {
                    if let Some(id) = document.get(&["grpc", key]).cloned() {
                        document.put(&["plugins", SERVER_TTRPC, key], id);
                    }
                }
            }
        }
    }
    document.take(&["ttrpc"]);
    for key in ["max_recv_message_size", "max_send_message_size"] {
        if !tcp && given(document, "grpc", "tcp_address") && given(document, "grpc", key) {
            let size = document.get(&["grpc", key]).cloned().unwrap_or(toml::Value::Integer(0));
            document.put(&["plugins", SERVER_TCP, key], size);
        }
    }
    for (old, new) in [
        ("tcp_address", "address"),
        ("tcp_tls_ca", "tls_ca"),
        ("tcp_tls_cert", "tls_cert"),
        ("tcp_tls_key", "tls_key"),
        ("tcp_tls_common_name", "tls_common_name"),
    ] {
        if !tcp && given(document, "grpc", old) {
            document.rename(&["grpc", old], &["plugins", SERVER_TCP, new]);
        }
    }
    for key in ["address", "uid", "gid", "max_recv_message_size", "max_send_message_size"] {
        if !grpc && given(document, "grpc", key) {
            document.rename(&["grpc", key], &["plugins", SERVER_GRPC, key]);
        }
    }
    document.take(&["grpc"]);
    for key in ["address", "uid", "gid"] {
        if !debug && given(document, "debug", key) {
            document.rename(&["debug", key], &["plugins", SERVER_DEBUG, key]);
        } else {
            document.take(&["debug", key]);
        }
    }
    if given(document, "metrics", "address") {
        document.rename(&["metrics", "address"], &["plugins", SERVER_METRICS, "address"]);
    }
    document.rename(&["metrics", "grpc_histogram"], &["plugins", super::GRPC_METRICS, "grpc_histogram"]);
    document.take(&["metrics"]);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn migrated(text: &str) -> Document {
        let mut document = Document::parse(Path::new("/c.toml"), text).unwrap();
        migrate(&mut document);
        document
    }

    fn expect(text: &str, want: &str) {
        let want: toml::Table = want.parse().unwrap();
        assert_eq!(migrated(text).table, want, "from {text}");
    }

    #[test]
    fn listeners_become_plugins() {
        expect(
            r#"
            version = 3
            [grpc]
              address = "/run/a.sock"
              gid = 7
              tcp_address = "127.0.0.1:9"
              tcp_tls_cert = "/cert"
              max_recv_message_size = 5
            [debug]
              address = "/run/d.sock"
              level = "debug"
            [metrics]
              address = ":1338"
              grpc_histogram = true
            "#,
            r#"
            version = 4
            [debug]
              level = "debug"
            [plugins."io.containerd.server.v1.grpc"]
              address = "/run/a.sock"
              gid = 7
              max_recv_message_size = 5
            [plugins."io.containerd.server.v1.grpc-tcp"]
              address = "127.0.0.1:9"
              tls_cert = "/cert"
              max_recv_message_size = 5
            [plugins."io.containerd.server.v1.ttrpc"]
              address = "/run/a.sock.ttrpc"
              gid = 7
            [plugins."io.containerd.server.v1.debug"]
              address = "/run/d.sock"
            [plugins."io.containerd.server.v1.metrics"]
              address = ":1338"
            [plugins."io.containerd.metrics.v1.grpc-prometheus"]
              grpc_histogram = true
            "#,
        );
    }

    #[test]
    fn a_named_ttrpc_socket_stays() {
        expect(
            "version = 2\n[grpc]\naddress = \"/a\"\n[ttrpc]\naddress = \"/t\"\n",
            "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/a\"\n\
             [plugins.\"io.containerd.server.v1.ttrpc\"]\naddress = \"/t\"\n",
        );
    }

    #[test]
    fn cri_is_split() {
        expect(
            r#"
            version = 2
            [plugins."io.containerd.grpc.v1.cri"]
              sandbox_image = "registry.k8s.io/pause:3.9"
              stream_server_port = "0"
              enable_selinux = true
              max_concurrent_downloads = 5
              [plugins."io.containerd.grpc.v1.cri".registry]
                config_path = "/etc/containerd/certs.d"
              [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "/opt/cni/bin"
                conf_dir = "/etc/cni"
              [plugins."io.containerd.grpc.v1.cri".containerd]
                snapshotter = "native"
                default_runtime_name = "nvidia"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
                  runtime_type = "io.containerd.runc.v2"
                  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
                    SystemdCgroup = true
            "#,
            r#"
            version = 4
            [plugins."io.containerd.grpc.v1.cri"]
              stream_server_port = "0"
            [plugins."io.containerd.cri.v1.images"]
              max_concurrent_downloads = 5
              snapshotter = "native"
              [plugins."io.containerd.cri.v1.images".pinned_images]
                sandbox = "registry.k8s.io/pause:3.9"
              [plugins."io.containerd.cri.v1.images".registry]
                config_path = "/etc/containerd/certs.d"
            [plugins."io.containerd.cri.v1.runtime"]
              enable_selinux = true
              [plugins."io.containerd.cri.v1.runtime".cni]
                bin_dirs = ["/opt/cni/bin"]
                conf_dir = "/etc/cni"
              [plugins."io.containerd.cri.v1.runtime".containerd]
                default_runtime_name = "nvidia"
                [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia]
                  runtime_type = "io.containerd.runc.v2"
                  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia.options]
                    SystemdCgroup = true
            "#,
        );
    }

    #[test]
    fn first_names_become_uris() {
        expect(
            "disabled_plugins = [\"cri\", \"btrfs\"]\n[plugins.scheduler]\npause_threshold = 0.5\n",
            "version = 4\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\"]\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\npause_threshold = 0.5\n",
        );
    }

    #[test]
    fn moved_plugins_are_renamed() {
        expect(
            "version = 2\n[plugins.\"io.containerd.monitor.v1.cgroups\"]\nno_prometheus = true\n\
             [plugins.\"io.containerd.runtime.v2.task\"]\nsched_core = true\n",
            "version = 4\n[plugins.\"io.containerd.monitor.task.v1.cgroups\"]\nno_prometheus = true\n\
             [plugins.\"io.containerd.runtime.v2.task\"]\n[plugins.\"io.containerd.shim.v1.manager\"]\nenv = [\"SCHED_CORE=1\"]\n",
        );
    }

    #[test]
    fn the_newest_is_left_alone() {
        let text = "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/a\"\n";
        expect(text, text);
    }
}
