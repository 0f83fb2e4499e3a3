//! What a CDI device changes in a specification.

use std::path::Path;

use serde_json::{Value, json};

use super::file::{DeviceNode, Edits, Hook};
use crate::spec::devices::{self, Node};
use crate::spec::error::{Error, Result, invalid};
use crate::spec::json::{list, object, strings};
use crate::spec::mounts::clean;
use crate::spec::process::set_env;

pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

pub fn apply(spec: &mut Value, edits: &Edits) -> Result<()> {
    if !edits.env.is_empty() {
        let mut env = strings(spec, "/process/env");
        set_env(&mut env, edits.env.iter().cloned());
        object(spec, &["process"]).insert("env".into(), json!(env));
    }
    for node in &edits.device_nodes {
        device(spec, node)?;
    }
    for device in &edits.net_devices {
        object(spec, &["linux", "netDevices"])
            .insert(device.host_interface_name.clone(), json!({"name": device.name}));
    }
    mounts(spec, edits);
    for hook in &edits.hooks {
        list(object(spec, &["hooks"]), &hook.hook_name).push(hook.to_json());
    }
    if let Some(rdt) = &edits.intel_rdt {
        object(spec, &["linux"]).insert("intelRdt".into(), Value::Object(rdt.clone()));
    }
    let groups = list(object(spec, &["process", "user"]), "additionalGids");
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        let gid = json!(gid);
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    Ok(())
}

/// Later mounts take the place of earlier ones; parents come before what lies in them.
fn mounts(spec: &mut Value, edits: &Edits) {
    if edits.mounts.is_empty() {
        return;
    }
    let mounts = list(object(spec, &[]), "mounts");
    for mount in &edits.mounts {
        let inside = clean(&mount.container_path);
        mounts.retain(|m| m["destination"].as_str().map(clean).as_deref() != Some(inside.as_str()));
        let mut json = json!({"destination": inside, "source": mount.host_path, "options": mount.options});
        // A runtime takes a mount without a type for a bind only if an option says so.
        let bind = mount.options.iter().any(|o| matches!(o.as_str(), "bind" | "rbind"));
        match mount.kind.as_str() {
            "" if bind => json["type"] = "bind".into(),
            "" => {
                json["type"] = "bind".into();
                list(object(&mut json, &[]), "options").push("rbind".into());
            }
            kind => json["type"] = kind.into(),
        }
        mounts.push(json);
    }
    mounts.sort_by_key(|m| clean(m["destination"].as_str().unwrap_or_default()).matches('/').count());
}

fn device(spec: &mut Value, node: &DeviceNode) -> Result<()> {
    let path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let complete = node.kind == "p" || (!node.kind.is_empty() && node.major != 0);
    let found = Node::read(Path::new(path));
    let (mut kind, mut major, mut minor) = (node.kind.as_str(), node.major, node.minor);
    let mut mode = node.file_mode;
    match found {
        Ok(Some(host)) => {
            mode = mode.or(Some(host.mode));
            if !complete {
                if !kind.is_empty() && kind.replace('u', "c") != host.kind {
                    return invalid(format!("CDI device {path} is of type {}, not {kind}", host.kind));
                }
                (kind, major, minor) = (host.kind, host.major, host.minor);
            }
        }
        _ if complete => {}
        Ok(None) => return invalid(format!("CDI device {path} is not a device node")),
        Err(e) => return Err(Error::io("look at CDI device", path)(e)),
    }
    // The node belongs to whom the process runs as, unless the file says otherwise.
    let user = &spec["process"]["user"];
    let owner = |own: Option<u32>, key: &str| {
        own.map(Value::from).or_else(|| user[key].as_u64().filter(|&id| id != 0).map(Value::from))
    };
    let (uid, gid) = (owner(node.uid, "uid"), owner(node.gid, "gid"));
    let mut json = json!({"path": node.path, "type": kind, "major": major, "minor": minor});
    for (key, value) in [("fileMode", mode.map(Value::from)), ("uid", uid), ("gid", gid)] {
        if let Some(value) = value {
            json[key] = value;
        }
    }
    devices::add(spec, json, &node.path);
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    devices::allow(spec, kind, major, minor, access);
    Ok(())
}

impl Hook {
    fn to_json(&self) -> Value {
        let mut hook = json!({"path": self.path, "args": self.args, "env": self.env});
        if let Some(timeout) = self.timeout {
            hook["timeout"] = timeout.into();
        }
        hook
    }
}
