//! `/dev`: the devices every container has, those of the configuration, and the usual symlinks.

use super::{Kind, Plan, Root, clean};
use crate::error::{Context, Error, Result};
use crate::spec::{Device, Spec};
use crate::sys::{errno, file, mount};
use std::path::Path;

const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Not when `/dev` is somebody else's directory, bound into the container.
pub fn needed(spec: &Spec) -> bool {
    !spec.mounts.iter().any(|m| {
        clean(&m.destination) == Path::new("dev")
            && (m.fstype == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind"))
    })
}

pub fn make(plan: &Plan<'_>, root: &Root) -> Result<()> {
    let configured = &plan.spec.linux.devices;
    for (path, major, minor) in DEFAULT {
        if !configured.iter().any(|d| d.path == path) {
            let device = Device {
                path: path.into(),
                kind: "c".into(),
                major: major.into(),
                minor: minor.into(),
                file_mode: Some(0o666),
                uid: None,
                gid: None,
            };
            node(root, &device, plan.user_namespace)?;
        }
    }
    for device in configured {
        // The terminal multiplexer is devpts' own, by the symlink below.
        if clean(&device.path) != Path::new("dev/ptmx") {
            node(root, device, plan.user_namespace)?;
        }
    }
    link(root, "pts/ptmx", "/dev/ptmx")?;
    for (target, path) in LINKS {
        link(root, target, path)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(root, "/proc/kcore", "/dev/core")?;
    }
    Ok(())
}

fn link(root: &Root, target: &str, path: &str) -> Result<()> {
    let (dir, name) = root.parent(path)?;
    match file::symlinkat(target, &dir, &name) {
        Err(e) if errno(&e) == libc::EEXIST && path == "/dev/ptmx" => {
            // A stray node of the image would reach the host's terminals.
            file::unlinkat(&dir, &name).at("remove", path)?;
            file::symlinkat(target, &dir, &name).at("create symlink", path)
        }
        Err(e) if errno(&e) == libc::EEXIST => Ok(()),
        other => other.at("create symlink", path),
    }
}

fn node(root: &Root, device: &Device, bind: bool) -> Result<()> {
    let kind = match device.kind.as_str() {
        "c" | "u" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        "p" => libc::S_IFIFO,
        other => return Err(Error::Spec(format!("device {}: unknown type {other:?}", device.path))),
    };
    let number = |n: i64| {
        u32::try_from(n)
            .map_err(|_| Error::Spec(format!("device {}: number {n} is out of range", device.path)))
    };
    let rdev =
        if kind == libc::S_IFIFO { 0 } else { libc::makedev(number(device.major)?, number(device.minor)?) };
    let (dir, name) = root.parent(&device.path)?;
    let path = &device.path;
    if bind {
        return bind_node(root, device);
    }
    let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    match file::mknodat(&dir, &name, kind | mode, rdev) {
        Ok(()) => {}
        Err(e) if errno(&e) == libc::EEXIST => {
            let stat = file::fstatat(&dir, &name, libc::AT_SYMLINK_NOFOLLOW).at("stat", path)?;
            if stat.st_mode & libc::S_IFMT != kind || stat.st_rdev != rdev {
                // An image may bring a file of that name; the device takes its place, as the specification wants it.
                file::unlinkat(&dir, &name).at("remove", path)?;
                file::mknodat(&dir, &name, kind | mode, rdev).at("make device", path)?;
            }
        }
        Err(e) if errno(&e) == libc::EPERM => return bind_node(root, device),
        Err(e) => return Err(e).at("make device", path),
    }
    if (uid, gid) != (0, 0) {
        file::fchownat(&dir, &name, uid, gid, libc::AT_SYMLINK_NOFOLLOW).at("chown device", path)?;
    }
    Ok(())
}

/// The host's device of the same path, where nodes cannot be made.
fn bind_node(root: &Root, device: &Device) -> Result<()> {
    let path = &device.path;
    let tree = mount::clone_tree(file::cwd(), path, false).at("open host device", path)?;
    let stat = file::fstat(&tree).at("stat host device", path)?;
    if device.kind != "p" && stat.st_rdev != libc::makedev(device.major as u32, device.minor as u32) {
        return Err(Error::Unsupported(format!(
            "device {path} cannot be made in a user namespace, and the host's {path} is another device"
        )));
    }
    let target = root.ensure(path, Kind::File)?;
    mount::attach(tree, target).at("bind device", path)
}
