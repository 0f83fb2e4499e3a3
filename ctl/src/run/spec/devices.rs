//! Devices of this machine, given to a container.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FileType, major, minor};
use serde_json::{Value, json};

use super::Options;

/// Directories of /dev that hold no devices of the machine.
const LEFT_OUT: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Deepest directory of /dev.
const DEPTH: usize = 8;

/// A device node as the specification writes it; `None` where the path is something else.
fn node(host: &Path, container: &str) -> Result<Option<Value>> {
    let stat = rustix::fs::stat(host).with_context(|| format!("device {}", host.display()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return Ok(None),
    };
    Ok(Some(json!({
        "path": container,
        "type": kind,
        "major": major(stat.st_rdev),
        "minor": minor(stat.st_rdev),
        "fileMode": stat.st_mode & 0o7777,
        "uid": stat.st_uid,
        "gid": stat.st_gid,
    })))
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<Value>) -> Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let name = name.to_string_lossy();
        if kind.is_dir() {
            if depth < DEPTH && !LEFT_OUT.contains(&name.as_ref()) {
                walk(&path, depth + 1, found)?;
            }
        } else if !kind.is_symlink() && name != "console" {
            // Devices come and go.
            if let Ok(Some(device)) = node(&path, &path.to_string_lossy()) {
                found.push(device);
            }
        }
    }
    Ok(())
}

/// One `--device`: `/dev/x[:/dev/y][:rwm]`.
fn given(text: &str) -> Result<(Value, Value)> {
    let mut parts: Vec<_> = text.split(':').collect();
    let is_access = |p: &str| !p.is_empty() && p.chars().all(|c| "rwm".contains(c));
    let access =
        if parts.len() > 1 && parts.last().is_some_and(|p| is_access(p)) { parts.pop() } else { None };
    let (host, container) = match parts.as_slice() {
        [host] => (*host, *host),
        [host, container] => (*host, *container),
        _ => bail!("device {text:?} is not /dev/x[:/dev/y][:rwm]"),
    };
    ensure!(container.starts_with('/') && host.starts_with('/'), "device {text:?}: paths must be absolute");
    let Some(device) = node(Path::new(host), container)? else { bail!("{host} is not a device") };
    let rule = json!({"allow": true, "type": device["type"], "major": device["major"], "minor": device["minor"],
        "access": access.unwrap_or("rwm")});
    Ok((device, rule))
}

/// Device nodes, and the rules of the device cgroup.
pub fn all(options: &Options) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut devices = Vec::new();
    let mut rules = vec![json!({"allow": options.privileged, "access": "rwm"})];
    if options.privileged {
        walk(Path::new("/dev"), 0, &mut devices)?;
    }
    for text in &options.device {
        let (device, rule) = given(text)?;
        devices.retain(|d| d["path"] != device["path"]);
        devices.push(device);
        rules.push(rule);
    }
    Ok((devices, rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_described() {
        let (device, rule) = given("/dev/null:/dev/nothing:rw").unwrap();
        assert_eq!(
            (&device["path"], &device["type"], &device["major"]),
            (&json!("/dev/nothing"), &json!("c"), &json!(1))
        );
        assert_eq!(rule["access"], "rw");
        assert_eq!(given("/dev/zero:r").unwrap().1["access"], "r");
        for bad in ["/etc/passwd", "/no/such", "null", "/dev/null:x", "/dev/null:/a:/b:rw"] {
            assert!(given(bad).is_err(), "{bad}");
        }
    }
}
