//! From CRI's words to an OCI runtime specification, as JSON: base specifications and vendors' files have fields that
//! nobody here knows, and they must come through.
//!
//! - [`container`], [`pause`]: the specification of a container, and of a pod's own process. [`exec`]: of what is run
//!   in a container later. [`resources`], [`resources_status`]: limits, when they change and when they are told.
//! - [`Host`]: facts about this machine. [`Settings`]: what configuration says. [`Pod`], [`Image`], [`Volume`]: what the
//!   caller has made ready. [`Rootfs`]: where users are looked up.
//! - [`sysctls`]: for a pod whose namespaces are held without a process, whoever makes them has to set these.
//!
//! Nothing here changes state, but for host paths of mounts that are missing and made, SELinux labels, and AppArmor's
//! default profile. All of it may block on the file system: callers run it on a thread that may.

mod annotations;
mod apparmor;
mod caps;
pub mod cdi;
mod container;
mod devices;
mod error;
mod host;
mod image;
pub mod json;
mod mounts;
mod namespaces;
mod passwd;
mod pause;
mod process;
mod propagation;
mod resources;
mod rootfs;
mod seccomp;
mod selinux;
mod settings;
mod signal;
mod sysctl;
mod user;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use annotations::matches;
pub use container::{block_io, container, rdt};
pub use host::Host;
pub use image::Image;
pub use namespaces::{IdMap, Mappings};
pub use pause::pause;
pub use process::exec;
pub use resources::{cgroups_path, resources, resources_status};
pub use rootfs::{Empty, Rootfs, Tree};
pub use settings::Settings;
pub use signal::to_cri as signal_to_cri;
pub use sysctl::sysctls;
use windlass_api::cri;

/// The version of the runtime specification that is written: crun before 1.9 takes no other, and later ones only add.
const VERSION: &str = "1.0.2";
/// Where the root file system lies in a bundle.
const ROOT: &str = "rootfs";

/// A pod that is there, as its containers need to know it.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    pub id: &'a str,
    pub config: &'a cri::PodSandboxConfig,
    /// Holds `hostname`, `hosts` and `resolv.conf`, each if it is there.
    pub dir: &'a Path,
    /// The pod's own /dev/shm, a mount.
    pub shm: Option<&'a Path>,
    /// Files of the pod's namespaces; none: the host's.
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub user: Option<PathBuf>,
    /// The maps of `user`, as [`Mappings::of_pod`] reads them.
    pub userns: Option<Mappings>,
    /// The process whose pid namespace the pod's containers share.
    pub pid: Option<u32>,
    /// `cgroup_parent` as the kubelet gives it.
    pub cgroup_parent: String,
}

/// A directory that is mounted in a container: a volume that the image defines, or an image
/// that a mount of the request asks for, which is found by its container path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub host_path: PathBuf,
    pub container_path: String,
}
