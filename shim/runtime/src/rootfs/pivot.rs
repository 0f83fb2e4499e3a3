//! Changing over to the new root, and the last touches from inside.

use super::{Pending, Root};
use crate::error::{Context, Error, Result};
use crate::spec::Spec;
use crate::sys::mount::{self, Attr, MOUNT_ATTR_RDONLY};
use crate::sys::{errno, file};
use std::path::Path;

/// `pivot_root` wants the mount that holds the rootfs not to be shared. Which one that is shows by trying: only a mount
/// point takes the change.
pub fn make_parent_private(rootfs: &Path) -> Result<()> {
    let mut at = Some(rootfs);
    while let Some(path) = at {
        match mount::mount(None, path, None, libc::MS_PRIVATE, None) {
            Ok(()) => return Ok(()),
            Err(e) if errno(&e) == libc::EINVAL => at = path.parent(),
            Err(e) => return Err(e).at("make private", path),
        }
    }
    Err(Error::Path {
        op: "find the mount of",
        path: rootfs.into(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Makes the rootfs the root of this mount namespace.
pub fn enter(spec: &Spec, root: &Root, rootfs: &Path, no_pivot: bool) -> Result<()> {
    if no_pivot {
        move_root(root, rootfs)?;
    } else {
        let old = file::open("/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open", "/")?;
        mount::fchdir(root).at("chdir", rootfs)?;
        mount::pivot_root_here().at("pivot_root", rootfs)?;
        // The old root lies on top of the new one now; taking it off must not reach the host.
        mount::fchdir(&old).at("chdir", "old root")?;
        if !spec.linux.rootfs_propagation.is_empty() {
            let attr = Attr { propagation: libc::MS_SLAVE, ..Attr::default() };
            mount::set_attr(&old, attr, true).at("set propagation of", "old root")?;
        }
        mount::umount(Path::new("."), libc::MNT_DETACH).at("unmount", "old root")?;
    }
    mount::chdir("/").at("chdir", "/")?;
    if !spec.linux.rootfs_propagation.is_empty() {
        let (kind, recursive) = super::propagation(spec)?;
        if kind != libc::MS_PRIVATE {
            let attr = Attr { propagation: kind, ..Attr::default() };
            let slash = file::open("/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open", "/")?;
            mount::set_attr(slash, attr, recursive).at("set propagation of", "/")?;
        }
    }
    Ok(())
}

/// For a host that runs from its initramfs, whose root cannot be pivoted. Host mounts stay below the new root, so at
/// least its full views of `/proc` and `/sys` are taken away first: they would let a user namespace inside mount its own.
fn move_root(root: &Root, rootfs: &Path) -> Result<()> {
    mount::fchdir(root).at("chdir", rootfs)?;
    for path in ["/proc", "/sys"] {
        match mount::umount(Path::new(path), libc::MNT_DETACH) {
            Err(e) if !matches!(errno(&e), libc::EINVAL | libc::ENOENT | libc::EPERM) => {
                return Err(e).at("unmount", path);
            }
            _ => {}
        }
    }
    mount::mount(Some(rootfs), Path::new("/"), None, libc::MS_MOVE, None).at("move to /", rootfs)?;
    mount::chroot_here().at("chroot", rootfs)
}

/// From inside: read-only what was put off, the root itself, and what is to be masked.
pub fn finish(spec: &Spec, pending: Pending) -> Result<()> {
    let read_only = Attr { set: MOUNT_ATTR_RDONLY, ..Attr::default() };
    for (mount, destination) in pending.read_only {
        mount::set_attr(mount, read_only, false).at("make read-only", destination)?;
    }
    let root = Root::open(Path::new("/"))?;
    super::mask::read_only(&root, &spec.linux.readonly_paths)?;
    super::mask::hide(&root, &spec.linux.masked_paths)?;
    if spec.root.as_ref().is_some_and(|r| r.readonly) {
        mount::set_attr(&root, read_only, false).at("make read-only", "/")?;
    }
    Ok(())
}
