//! What a pod's verbose status says, JSON with the names that tools read.

use std::sync::Arc;

use serde_json::{Value, json};
use windlass_core::task;
use windlass_network::namespaces::is_namespace;

use crate::cri::Cri;
use crate::state::Sandbox;

/// All of it.
pub async fn verbose(plugin: &Arc<Cri>, sandbox: &Sandbox) -> Value {
    let status = sandbox.status().clone();
    let handler = plugin.handler(&sandbox.record.handler).ok();
    let process = if sandbox.record.pause {
        match plugin.tasks.state(&plugin.cx, &sandbox.id, "").await {
            Ok(state) => word(state.status).to_owned(),
            Err(_) => "deleted".to_owned(),
        }
    } else if sandbox.is_ready() {
        // There is none to be anything; the pod is what it stands for.
        "running".to_owned()
    } else {
        "deleted".to_owned()
    };
    let spec =
        plugin.database.containers().get(&plugin.cx, &sandbox.id).await.ok().and_then(|record| record.spec);
    let spec: Value = spec.and_then(|spec| serde_json::from_slice(&spec.value).ok()).unwrap_or(Value::Null);
    let network: Value = serde_json::from_slice(&status.network).unwrap_or(Value::Null);
    let path = plugin.namespaces_dir(&sandbox.id).join("net");
    let mut info = json!({
        "pid": status.pid,
        "processStatus": process,
        "netNamespaceClosed": sandbox.record.network && !is_namespace(&path),
        "image": "",
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": sandbox.record.handler,
        "runtimeType": handler.map_or("", |handler| &handler.config.runtime_type),
        "runtimeOptions": handler.map(|handler| &handler.config.options),
        "config": sandbox.config(),
        "runtimeSpec": spec,
        "cniResult": network,
        "sandboxMetadata": {
            "ID": sandbox.id,
            "Name": sandbox.name,
            "Config": sandbox.config(),
            "NetNSPath": if sandbox.record.network { path.to_string_lossy() } else { "".into() },
            "IP": status.ips.first(),
            "AdditionalIPs": status.ips.get(1..),
            "RuntimeHandler": sandbox.record.handler,
            "CNIResult": network,
        },
    });
    for (key, resources) in [("overhead", &status.overhead), ("resources", &status.resources)] {
        if let Some(resources) = resources {
            info[key] = json!({ "linux": resources });
        }
    }
    info
}

fn word(status: task::Status) -> &'static str {
    match status {
        task::Status::Created => "created",
        task::Status::Running => "running",
        task::Status::Stopped => "stopped",
        task::Status::Paused => "paused",
        task::Status::Pausing => "pausing",
        task::Status::Unknown => "unknown",
    }
}
