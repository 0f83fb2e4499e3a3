//! The container's file system: built by the child in its own mount namespace, from handles, never from names that an
//! image could redirect.

mod copy_up;
mod devices;
mod groups;
mod mask;
mod mounts;
mod options;
mod pivot;
mod root;

pub use mounts::{Sources, open_sources};
pub use options::Options;
pub use pivot::{enter, finish};
pub use root::{Kind, Root, clean};

use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::spec::Spec;
use crate::sys::mount::{self, Attr};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What the construction needs to know.
pub struct Plan<'a> {
    pub spec: &'a Spec,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub cgroup: &'a Cgroup,
    /// Bind sources that only the caller could open.
    pub sources: Sources,
    /// The child is in a user namespace: devices are bound, not made.
    pub user_namespace: bool,
}

/// What has to be done once everything is in place.
#[derive(Default)]
pub struct Pending {
    /// Mounts to be made read-only after others have been put into them.
    pub read_only: Vec<(OwnedFd, String)>,
}

/// How mounts of the host and the container's root reach each other.
fn propagation(spec: &Spec) -> Result<(u64, bool)> {
    match spec.linux.rootfs_propagation.as_str() {
        "" => Ok((libc::MS_SLAVE, true)),
        name => options::propagation(name)
            .ok_or_else(|| Error::Spec(format!("rootfsPropagation {name:?} is not a propagation type"))),
    }
}

/// Puts everything below the rootfs. `grouped` is called when the control groups must be there: before the first cgroup
/// mount, or at the end.
pub fn build(plan: &mut Plan<'_>, grouped: &mut dyn FnMut() -> Result<()>) -> Result<(Root, Pending)> {
    let (kind, recursive) = propagation(plan.spec)?;
    let slash = crate::sys::file::open("/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open", "/")?;
    let attr = Attr { propagation: kind, ..Attr::default() };
    mount::set_attr(&slash, attr, recursive).at("set propagation of", "/")?;
    if (kind, recursive) != (libc::MS_SLAVE, true) && (kind, recursive) != (libc::MS_PRIVATE, true) {
        pivot::make_parent_private(plan.rootfs)?;
    }
    let root = own_mount(plan.rootfs)?;
    let mut pending = Pending::default();
    let mut waited = false;
    let spec = plan.spec;
    for (at, mount) in spec.mounts.iter().enumerate() {
        if matches!(mount.fstype.as_str(), "cgroup" | "cgroup2") && !waited {
            grouped()?;
            waited = true;
        }
        mounts::add(plan, &root, at, mount, &mut pending)?;
    }
    if devices::needed(spec) {
        devices::make(plan, &root)?;
    }
    if !waited {
        grouped()?;
    }
    Ok((root, pending))
}

/// Makes the rootfs a mount of its own; its handle is the root of all lookups.
fn own_mount(rootfs: &Path) -> Result<Root> {
    let below = Root::open(rootfs)?;
    let tree = mount::clone_tree(&below, "", true).at("clone rootfs", rootfs)?;
    mount::attach(&tree, &below).at("mount rootfs", rootfs)?;
    Ok(Root::from_fd(tree))
}
