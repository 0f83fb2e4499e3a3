//! Paths that are hidden or made read-only. What is not there needs neither.

use super::Root;
use crate::error::{Context, Result};
use crate::sys::mount::{
    self, Attr, FsContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use crate::sys::{errno, file};
use std::os::fd::OwnedFd;

fn find(root: &Root, path: &str) -> Result<Option<OwnedFd>> {
    match root.resolve(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(errno(&e), libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(e) => Err(e).at("open", path),
    }
}

pub fn read_only(root: &Root, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let tree = mount::clone_tree(&target, "", true).at("clone", path)?;
        let attr = Attr { set: MOUNT_ATTR_RDONLY, ..Attr::default() };
        mount::set_attr(&tree, attr, false).at("make read-only", path)?;
        mount::attach(&tree, &target).at("mount read-only", path)?;
    }
    Ok(())
}

/// Directories get an empty read-only tmpfs (one for all of them), files get `/dev/null`.
pub fn hide(root: &Root, paths: &[String]) -> Result<()> {
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let stat = file::fstat(&target).at("stat", path)?;
        let mask = if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            let null = match &mut null {
                Some(fd) => fd,
                none => none.insert(device_null(root)?),
            };
            mount::clone_tree(null, "", false).at("clone for mask", path)?
        } else if let Some(first) = &empty {
            // Before Linux 6.15 only an attached mount can be cloned: the first mask serves.
            mount::clone_tree(first, "", false).at("clone for mask", path)?
        } else {
            let first = empty_directory().at("make empty directory for", path)?;
            mount::attach(&first, target).at("mask", path)?;
            empty = Some(first);
            continue;
        };
        mount::attach(mask, target).at("mask", path)?;
    }
    Ok(())
}

fn empty_directory() -> std::io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.string("source", "tmpfs")?;
    context.string("mode", "755")?;
    context.string("nr_blocks", "1")?;
    context.string("nr_inodes", "1")?;
    context.create()?;
    context.mount(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
}

/// The container's `/dev/null`, when it is one.
fn device_null(root: &Root) -> Result<OwnedFd> {
    let path = "/dev/null";
    let fd = root.resolve(path).at("open", path)?;
    let stat = file::fstat(&fd).at("stat", path)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Err(crate::error::Error::Spec("/dev/null in the container is not the null device".into()));
    }
    Ok(fd)
}
