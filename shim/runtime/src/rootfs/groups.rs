//! Control groups seen from inside: the container's own with a cgroup namespace, else the host's.

use super::mounts::{create_plain, forbidden};
use super::{Kind, Options, Plan, Root};
use crate::cgroup::{Cgroup, hierarchies};
use crate::error::{Context, Result};
use crate::spec::{Mount, NamespaceKind};
use crate::sys::mount::{
    self, Attr, FsContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use crate::sys::{errno, file};
use std::os::fd::OwnedFd;
use std::path::Path;

const SAFE: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Type `cgroup` means whatever this machine has.
pub fn mount(plan: &Plan<'_>, root: &Root, mount: &Mount, options: &Options) -> Result<()> {
    match plan.cgroup {
        Cgroup::V1(_) => mount_v1(plan, root, mount, options),
        Cgroup::V2(_) => mount_v2(plan, root, mount, options),
    }
}

pub fn mount_v2(plan: &Plan<'_>, root: &Root, mount: &Mount, options: &Options) -> Result<()> {
    let target = root.ensure(&mount.destination, Kind::Dir)?;
    let group = Mount { fstype: "cgroup2".into(), source: "cgroup".into(), ..mount.clone() };
    let detached = match create_plain(plan.spec, &group, options) {
        // In a user namespace without a cgroup namespace the host's view is bound.
        Err(error) if forbidden(&error) => bound_v2(plan, options, &mount.destination)?,
        other => other?,
    };
    mount::attach(&detached, &target).at("mount", &mount.destination)?;
    propagate(&detached, mount, options)
}

fn bound_v2(plan: &Plan<'_>, options: &Options, destination: &str) -> Result<OwnedFd> {
    let own = plan.spec.linux.namespace(NamespaceKind::Cgroup).is_some();
    let path = match (own, plan.cgroup.directories().into_iter().next(), &hierarchies()?.v2) {
        (true, Some((_, path)), _) => path,
        (_, _, Some(path)) => path.clone(),
        (_, _, None) => "/sys/fs/cgroup".into(),
    };
    let tree = mount::clone_tree(file::cwd(), &path, true).at("clone", &path)?;
    mount::set_attr(&tree, options.attr, true).at("set attributes of mount", destination)?;
    Ok(tree)
}

/// A tmpfs with a directory for each hierarchy, and symlinks for controllers that share one.
fn mount_v1(plan: &Plan<'_>, root: &Root, mount: &Mount, options: &Options) -> Result<()> {
    let destination = &mount.destination;
    let target = root.ensure(destination, Kind::Dir)?;
    let tmpfs = tmpfs().at("mount", destination)?;
    mount::attach(&tmpfs, &target).at("mount", destination)?;
    let own_namespace = plan.spec.linux.namespace(NamespaceKind::Cgroup).is_some();
    let read_only = options.attr.set & MOUNT_ATTR_RDONLY;
    let groups = plan.cgroup.directories();
    for hierarchy in &hierarchies()?.v1 {
        let Some(name) = hierarchy.mountpoint.file_name().and_then(|n| n.to_str()) else { continue };
        file::mkdirat(&tmpfs, name, 0o755).at("create", Path::new(destination).join(name))?;
        let at = file::openat(&tmpfs, name, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
            .at("open", Path::new(destination).join(name))?;
        let key = hierarchy.controllers.join(",");
        let detached = if own_namespace {
            hierarchy_mount(&key, SAFE | read_only).at("mount cgroup", name)?
        } else {
            let Some((_, path)) = groups.iter().find(|(k, _)| *k == key) else { continue };
            let tree = mount::clone_tree(file::cwd(), path, true).at("clone", path)?;
            let attr = Attr { set: SAFE | read_only, ..Attr::default() };
            mount::set_attr(&tree, attr, false).at("set attributes of mount", path)?;
            tree
        };
        mount::attach(&detached, &at).at("mount cgroup", name)?;
        propagate(&detached, mount, options)?;
        if name.contains(',') {
            for controller in name.split(',') {
                link(&tmpfs, name, controller).at("create symlink", controller)?;
            }
        }
    }
    if read_only != 0 {
        let attr = Attr { set: MOUNT_ATTR_RDONLY, ..Attr::default() };
        mount::set_attr(&tmpfs, attr, false).at("make read-only", destination)?;
    }
    propagate(&tmpfs, mount, options)
}

fn link(dir: &OwnedFd, target: &str, name: &str) -> std::io::Result<()> {
    match file::symlinkat(target, dir, name) {
        Err(e) if errno(&e) == libc::EEXIST => Ok(()),
        other => other,
    }
}

fn tmpfs() -> std::io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.string("source", "tmpfs")?;
    context.string("mode", "755")?;
    context.create()?;
    context.mount(SAFE)
}

/// A v1 hierarchy by its controllers; a named one by its name alone.
fn hierarchy_mount(controllers: &str, attributes: u64) -> std::io::Result<OwnedFd> {
    let context = FsContext::open("cgroup")?;
    context.string("source", "cgroup")?;
    match controllers.strip_prefix("name=") {
        Some(name) => {
            context.option("none")?;
            context.string("name", name)?;
        }
        None => controllers.split(',').try_for_each(|c| context.option(c))?,
    }
    context.create()?;
    context.mount(attributes)
}

fn propagate(at: &OwnedFd, mount: &Mount, options: &Options) -> Result<()> {
    for &(propagation, recursive) in &options.propagation {
        let attr = Attr { propagation, ..Attr::default() };
        mount::set_attr(at, attr, recursive).at("set propagation of", &mount.destination)?;
    }
    Ok(())
}
