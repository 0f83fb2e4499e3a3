//! Root file systems for containers with ids of their own: the image's files are seen through mounts that map owners.
//!
//! A bind is a mapped copy of its source. An overlay cannot be mapped itself, so its lower layers are, on a way to them
//! that is there only while it is mounted; its upper one belongs to the container already.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};
use windlass_oci_runtime::{IdMapping, id_mapped_namespace};

use super::options::Options;
use super::overlay as layers;
use crate::error::{Context, Error, Result};

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Ranges of ids in one list: as many as the kernel takes.
const RANGES: usize = 340;

/// How ids are mapped: `container:host:size`, several joined by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    pub uids: String,
    pub gids: String,
}

/// Mounts a mapped copy of `source`.
pub fn bind(options: &Options, maps: &Maps, source: &Path, target: &Path) -> Result<()> {
    attach(copy(source, options.recursive, maps)?, target)
}

/// Mounts an overlay whose lower layers are mapped.
pub fn overlay(options: &Options, maps: &Maps, target: &Path) -> Result<()> {
    let lowers = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let base = match lowers.contains(':') {
        true => layers::common_dir(lowers),
        false => Path::new(lowers).parent().and_then(Path::to_str).filter(|base| base.len() > 1),
    };
    let base = base
        .ok_or_else(|| Error::invalid("the layers of an overlay with mapped ids have no common directory"))?;
    let way = Way::make(target)?;
    attach(copy(Path::new(base), true, maps)?, &way.0)?;
    layers::mount(&through(options, base, &way.0), target)
}

fn attach(tree: OwnedFd, target: &Path) -> Result<()> {
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at("mount at", target)
}

/// A detached copy of a mount, with mapped ids.
fn copy(source: &Path, recursive: bool, maps: &Maps) -> Result<OwnedFd> {
    let namespace = id_mapped_namespace(&parse(&maps.uids)?, &parse(&maps.gids)?)
        .map_err(|error| Error::unknown(format!("map ids of {}: {}", source.display(), error.report())))?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags).at("copy mount", source)?;
    map(&tree, &namespace, recursive).at("map ids of", source)?;
    Ok(tree)
}

fn map(tree: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    /// What `mount_setattr(2)` takes: set, clear, propagation, user namespace.
    #[repr(C)]
    struct Attributes([u64; 4]);
    let attributes = Attributes([MOUNT_ATTR_IDMAP, 0, libc::MS_PRIVATE, namespace.as_raw_fd() as u64]);
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty literal, the attributes are of the size that is given and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn parse(list: &str) -> Result<Vec<IdMapping>> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(|number| number.parse::<u32>().ok());
        match (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()) {
            (Some(container_id), Some(host_id), Some(size), None) => {
                Some(IdMapping { container_id, host_id, size })
            }
            _ => None,
        }
    };
    let ranges: Option<Vec<IdMapping>> = list.split(',').take(RANGES + 1).map(range).collect();
    ranges
        .filter(|ranges| ranges.len() <= RANGES)
        .ok_or_else(|| Error::invalid(format!("id mapping {list:?} must be container:host:size")))
}

/// The same overlay over the layers as they are seen at `way`.
fn through(options: &Options, base: &str, way: &Path) -> Options {
    let mut options = options.clone();
    for option in &mut options.data {
        if let Some(lowers) = option.strip_prefix("lowerdir=") {
            let moved = lowers.split(':').map(|layer| format!("{}{}", way.display(), &layer[base.len()..]));
            *option = format!("lowerdir={}", moved.collect::<Vec<_>>().join(":"));
        }
    }
    options
}

/// A directory beside the root file system, gone with what is mounted on it. The overlay keeps its layers by itself.
struct Way(PathBuf);

impl Way {
    fn make(rootfs: &Path) -> Result<Self> {
        let way = Self(rootfs.with_file_name("layers"));
        // Of an earlier attempt that was cut off.
        way.clear();
        fs::DirBuilder::new().mode(0o700).create(&way.0).at("make directory", &way.0)?;
        Ok(way)
    }

    fn clear(&self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;
    use crate::mount::{Mount, mount_all, unmount_all};

    #[test]
    fn lists_are_parsed() {
        assert_eq!(parse("0:1000:1,1:5000:65535").unwrap().len(), 2);
        for wrong in ["", "0:1", "0:1:2:3", "a:1:2", "-1:0:1", "0:1:2,", "0:1:4294967296"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn owners_are_mapped_through_binds_and_overlays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["s/1/fs", "s/2/fs", "upper", "work", "rootfs", "one"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for (file, owner) in [("s/1/fs/a", 0), ("s/2/fs/b", 5), ("one/c", 7)] {
            fs::write(path(file), "").unwrap();
            chown(path(file), Some(owner), Some(owner)).unwrap();
        }
        chown(path("upper"), Some(1000), Some(2000)).unwrap();
        let map = ["uidmap=0:1000:100".to_owned(), "gidmap=0:2000:100".to_owned()];
        let overlay = |lowers: &[&str]| {
            let lowers: Vec<_> = lowers.iter().map(|lower| path(lower).display().to_string()).collect();
            let mut options = vec![
                format!("workdir={}", path("work").display()),
                format!("upperdir={}", path("upper").display()),
                format!("lowerdir={}", lowers.join(":")),
            ];
            options.extend(map.clone());
            Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
        };
        let owner = |file: &str| {
            let found = fs::metadata(path("rootfs").join(file)).unwrap();
            (found.uid(), found.gid())
        };
        mount_all(&[overlay(&["s/1/fs", "s/2/fs"])], &path("rootfs")).unwrap();
        assert_eq!((owner("a"), owner("b"), owner("")), ((1000, 2000), (1005, 2005), (1000, 2000)));
        unmount_all(&path("rootfs")).unwrap();
        mount_all(&[overlay(&["s/2/fs"])], &path("rootfs")).unwrap();
        assert_eq!(owner("b"), (1005, 2005));
        unmount_all(&path("rootfs")).unwrap();
        let mut options = vec!["rbind".to_owned(), "ro".to_owned()];
        options.extend(map.clone());
        let source = path("one").display().to_string();
        let bind = Mount { kind: "bind".into(), source, target: String::new(), options };
        mount_all(std::slice::from_ref(&bind), &path("rootfs")).unwrap();
        assert_eq!(owner("c"), (1007, 2007));
        assert!(fs::write(path("rootfs/x"), "").is_err(), "it is read-only");
        unmount_all(&path("rootfs")).unwrap();
        assert!(!path("layers").exists());
        let half = Mount { options: vec!["rbind".into(), map[0].clone()], ..bind };
        assert!(mount_all(&[half], &path("rootfs")).is_err());
    }
}
