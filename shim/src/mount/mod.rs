//! The root file system of a container: mounts that a Create request brings, put below the bundle, and taken away.
//!
//! Overlay goes through the new mount interface, layer by layer, which has no limit on their number; where the kernel
//! lacks it, and for all other types, `mount(2)` is used.

mod mapped;
mod options;
mod overlay;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use self::options::Options;
use crate::error::{Context, Error, Result};

/// A mount as the daemon describes it.
#[derive(Debug, Clone)]
pub struct Mount {
    pub kind: String,
    pub source: String,
    /// Below the root file system; empty is the root file system itself.
    pub target: String,
    pub options: Vec<String>,
}

/// Mounts all of them in order at `rootfs`; when one fails, those before it are taken away.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    for mount in mounts {
        if let Err(error) = mount_one(mount, rootfs) {
            // The first error is the one to tell.
            let _ = unmount_all(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(mount: &Mount, rootfs: &Path) -> Result<()> {
    let options = Options::parse(&mount.options);
    if let Some(unsupported) = options.unsupported {
        return Err(Error::unimplemented(format!("mount option {unsupported} of {}", mount.source)));
    }
    let below = mount.target.trim_matches('/');
    let at = Place::find(rootfs, below)?;
    match (mount.kind.as_str(), &options.maps) {
        ("overlay", None) => overlay::mount(&options, &at.path)?,
        ("overlay", Some(maps)) => mapped::overlay(&options, maps, &at.path)?,
        (_, Some(maps)) if options.bind => mapped::bind(&options, maps, Path::new(&mount.source), &at.path)?,
        (kind, Some(_)) => {
            return Err(Error::unimplemented(format!("id mappings of a mount of type {kind}")));
        }
        (_, None) => plain(mount, &options, &at.path).map_err(|errno| failed(mount, rootfs, errno))?,
    }
    // A place found before the mount is what the mount now covers.
    let at = Place::find(rootfs, below)?;
    // A bind ignores all other flags; they take a second call.
    if options.bind && !options.flags.is_empty() {
        rustix::mount::mount_remount(&at.path, MountFlags::BIND | options.flags, c"")
            .map_err(|errno| failed(mount, rootfs, errno))?;
    }
    for propagation in &options.propagation {
        rustix::mount::mount_change(&at.path, *propagation).map_err(|errno| failed(mount, rootfs, errno))?;
    }
    Ok(())
}

/// Where a mount goes: the root file system itself, or a directory in it.
struct Place {
    path: PathBuf,
    /// Held because the path names the descriptor.
    _dir: Option<rustix::fd::OwnedFd>,
}

impl Place {
    fn find(rootfs: &Path, below: &str) -> Result<Place> {
        if below.is_empty() {
            return Ok(Place { path: rootfs.to_owned(), _dir: None });
        }
        let dir = inside(rootfs, below)?;
        Ok(Place { path: format!("/proc/self/fd/{}", dir.as_raw_fd()).into(), _dir: Some(dir) })
    }
}

fn failed(mount: &Mount, rootfs: &Path, errno: rustix::io::Errno) -> Error {
    let at = rootfs.join(mount.target.trim_matches('/'));
    let path = format!("{} of type {} at {}", mount.source, mount.kind, at.display());
    Error::Path { op: "mount", path: path.into(), source: errno.into() }
}

fn plain(mount: &Mount, options: &Options, target: &Path) -> rustix::io::Result<()> {
    let source = mount.source.as_str();
    if options.recursive {
        return rustix::mount::mount_bind_recursive(source, target);
    }
    if options.bind {
        return rustix::mount::mount_bind(source, target);
    }
    let data = std::ffi::CString::new(options.data.join(",")).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(source, target, mount.kind.as_str(), options.flags, data.as_c_str())
}

/// A directory below `root`, whatever links stand on the way.
fn inside(root: &Path, below: &str) -> Result<rustix::fd::OwnedFd> {
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open", root)?;
    rustix::fs::openat2(&dir, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
        .at("open", root.join(below))
}

/// Takes everything away that is mounted at or below `path`. Nothing there is fine.
pub fn unmount_all(path: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(rustix::io::Errno::BUSY) => break,
            Err(error) => return Err(error).at("unmount", path),
        }
    }
    for point in below(path)?.iter().rev() {
        match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            // Somebody still looks at it; it goes when they do.
            Err(rustix::io::Errno::BUSY) => {
                rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                    .at("detach", point)?
            }
            Err(error) => return Err(error).at("unmount", point),
        }
    }
    Ok(())
}

/// Mount points at and below a path, in the order in which they were mounted.
fn below(path: &Path) -> Result<Vec<PathBuf>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read_to_string(TABLE).at("read", TABLE)?;
    // The table has the path without links, as the kernel names an open directory.
    let dir = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let real =
        fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap_or_else(|_| path.to_owned());
    drop(dir);
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(&real))
        .collect())
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The directory that mounts go to.
pub fn make_rootfs(bundle: &Path) -> Result<PathBuf> {
    let path = bundle.join("rootfs");
    match fs::DirBuilder::new().mode(0o711).create(&path) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
        Err(error) => Err(error).at("make directory", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\9"), r"/plain\9");
    }

    #[test]
    fn bind_overlay_and_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "second", "upper", "work", "rootfs", "upper/sub"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("lower/a"), "a").unwrap();
        fs::write(path("second/b"), "b").unwrap();
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                "index=off".into(),
                format!("workdir={}", path("work").display()),
                format!("upperdir={}", path("upper").display()),
                format!("lowerdir={}:{}", path("lower").display(), path("second").display()),
            ],
        };
        let bind = Mount {
            kind: "bind".into(),
            source: path("lower").display().to_string(),
            target: "/sub".into(),
            options: vec!["rbind".into(), "ro".into()],
        };
        let rootfs = path("rootfs");
        mount_all(&[overlay, bind], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(rootfs.join("b")).unwrap(), "b");
        assert_eq!(fs::read_to_string(rootfs.join("sub/a")).unwrap(), "a");
        assert!(fs::write(rootfs.join("sub/x"), "").is_err());
        unmount_all(&rootfs).unwrap();
        assert!(below(&rootfs).unwrap().is_empty());
        assert!(!rootfs.join("a").exists());
    }

    #[test]
    fn a_failure_takes_earlier_mounts_away_and_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = make_rootfs(dir.path()).unwrap();
        let tmpfs =
            Mount { kind: "tmpfs".into(), source: "tmpfs".into(), target: String::new(), options: vec![] };
        let wrong = Mount { kind: "ext4".into(), source: "/no/such".into(), ..tmpfs.clone() };
        let error = mount_all(&[tmpfs, wrong], &rootfs).unwrap_err().to_string();
        assert!(error.contains("/no/such"), "{error}");
        assert!(below(&rootfs).unwrap().is_empty());
    }
}
