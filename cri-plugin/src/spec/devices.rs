//! Device nodes: those that a container asks for, and all of the host's for the privileged.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass_api::cri;

use super::error::{Error, Result, invalid};
use super::json::{list, object};
use super::mounts::{clean, host_path};
use super::settings::Settings;

/// Directories of `/dev` that hold what is a container's own.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
const MAX_DEPTH: usize = 8;
const MAX_DEVICES: usize = 16384;

/// A node as it is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: String,
    /// `c`, `b` or `p`.
    pub kind: &'static str,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Node {
    /// The node at a path, without following a link; `None` for what is no node.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let meta = fs::symlink_metadata(path)?;
        let kind = match meta.file_type() {
            t if t.is_char_device() => "c",
            t if t.is_block_device() => "b",
            t if t.is_fifo() => "p",
            _ => return Ok(None),
        };
        Ok(Some(Self {
            path: path.to_string_lossy().into_owned(),
            kind,
            major: rustix::fs::major(meta.rdev()),
            minor: rustix::fs::minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        }))
    }

    fn to_json(&self) -> Value {
        json!({"path": self.path, "type": self.kind, "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid})
    }
}

/// Adds what the container asks for, each with the access that goes with it.
pub fn apply(spec: &mut Value, settings: &Settings, config: &cri::ContainerConfig) -> Result<()> {
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let id = |v: Option<&cri::Int64Value>| v.and_then(|v| u32::try_from(v.value).ok()).filter(|&id| id != 0);
    let owner = settings.config.device_ownership_from_security_context.then(|| {
        (
            id(security.and_then(|s| s.run_as_user.as_ref())),
            id(security.and_then(|s| s.run_as_group.as_ref())),
        )
    });
    for device in &config.devices {
        let access = &device.permissions;
        if !access.chars().all(|c| "rwm".contains(c)) {
            return invalid(format!(
                "device {}: permissions {access:?} are not of r, w and m",
                device.host_path
            ));
        }
        let path = host_path(&device.host_path)?;
        let inside = match device.container_path.as_str() {
            "" => None,
            path => Some(PathBuf::from(clean(path))),
        };
        for mut node in nodes(&path, inside.as_deref())? {
            if let Some((uid, gid)) = owner {
                node.uid = uid.unwrap_or(node.uid);
                node.gid = gid.unwrap_or(node.gid);
            }
            add(spec, node.to_json(), &node.path);
            allow(spec, node.kind, node.major, node.minor, access);
        }
    }
    Ok(())
}

/// Puts a device into the list, in the place of one at the same path.
pub fn add(spec: &mut Value, device: Value, path: &str) {
    let devices = list(object(spec, &["linux"]), "devices");
    devices.retain(|d| d["path"] != path);
    devices.push(device);
}

/// A rule that lets a device be used. FIFOs need none.
pub fn allow(spec: &mut Value, kind: &str, major: u32, minor: u32, access: &str) {
    if matches!(kind, "c" | "b" | "u") && !access.is_empty() {
        list(object(spec, &["linux", "resources"]), "devices")
            .push(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}));
    }
}

/// The host's devices, all of them, and leave to use whatever there is.
pub fn privileged(spec: &mut Value, settings: &Settings) -> Result<()> {
    if !settings.runtime.privileged_without_host_devices {
        for node in nodes(Path::new("/dev"), None)? {
            add(spec, node.to_json(), &node.path);
        }
    } else if !settings.runtime.privileged_without_host_devices_all_devices_allowed {
        return Ok(());
    }
    object(spec, &["linux", "resources"]).insert("devices".into(), json!([{"allow": true, "access": "rwm"}]));
    Ok(())
}

/// The node at a path, or all below a directory; inside they are under another path if one is given.
fn nodes(path: &Path, inside: Option<&Path>) -> Result<Vec<Node>> {
    let mut found = Vec::new();
    if fs::metadata(path).map_err(Error::io("look at device", path))?.is_dir() {
        walk(path, inside, 0, &mut found)?;
        return Ok(found);
    }
    match Node::read(path).map_err(Error::io("look at device", path))? {
        Some(mut node) => {
            if let Some(inside) = inside {
                node.path = inside.to_string_lossy().into_owned();
            }
            Ok(vec![node])
        }
        None => invalid(format!("{} is not a device", path.display())),
    }
}

fn walk(directory: &Path, inside: Option<&Path>, depth: usize, found: &mut Vec<Node>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("list devices in", directory))? {
        let entry = entry.map_err(Error::io("list devices in", directory))?;
        let (name, path) = (entry.file_name(), entry.path());
        let inside = inside.map(|i| i.join(&name));
        // Devices come and go while they are listed.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth < MAX_DEPTH && !OWN.iter().any(|own| name == *own) {
                walk(&path, inside.as_deref(), depth + 1, found)?;
            }
            continue;
        }
        if name == "console" {
            continue;
        }
        let mut node = match Node::read(&path) {
            Ok(Some(node)) if node.kind != "p" => node,
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("look at device", path)(e)),
        };
        if let Some(inside) = inside {
            node.path = inside.to_string_lossy().into_owned();
        }
        if found.len() == MAX_DEVICES {
            return invalid(format!("{}: too many devices", directory.display()));
        }
        found.push(node);
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests/devices.rs"]
mod tests;
