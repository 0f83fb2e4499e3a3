//! Volumes that an image declares: a directory of the container's own for each, filled with what the image has there.
//!
//! They are the container's: gone with it. Nothing is mounted here but what is read from, and that nowhere.

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use windlass_api::cri;
use windlass_core::mount::{self, Mount};
use windlass_core::{Error, Result, tree};

use super::copy;

/// Volumes of one image.
const MAX: usize = 256;

/// A volume's place on the host and in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub host: PathBuf,
    /// Absolute.
    pub container: String,
}

/// The volumes that an image declares and no mount of the container covers, below `directory`. *Invalid argument* for
/// too many.
pub fn declared(directory: &Path, places: &[String], mounts: &[cri::Mount]) -> Result<Vec<Volume>> {
    let mut volumes: Vec<Volume> = Vec::new();
    for place in places.iter().map(|place| clean(place)) {
        let covered = mounts.iter().any(|mount| clean(&mount.container_path) == place);
        // A volume over all of the root would leave nothing of the image.
        if covered || place == "/" || place.contains('\0') || volumes.iter().any(|v| v.container == place) {
            continue;
        }
        if volumes.len() >= MAX {
            return Err(Error::invalid(format!("the image declares more than {MAX} volumes")));
        }
        let host = directory.join("volumes").join(volumes.len().to_string());
        volumes.push(Volume { host, container: place });
    }
    Ok(volumes)
}

/// A path made absolute, without `.`, `..` and doubled slashes; above the root is the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Makes the volumes' directories and copies into them what `rootfs` has in their places. Durable when it answers. Blocks.
pub fn make(volumes: &[Volume], rootfs: &[Mount]) -> Result<()> {
    let Some(first) = volumes.first() else { return Ok(()) };
    let source = mount::open(&plain(rootfs))?;
    let mut filled = false;
    for volume in volumes {
        let failed = |e: std::io::Error| {
            Error::io(format!("fill volume {} of the image's files", volume.container), e)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&volume.host)
            .map_err(|e| Error::io(format!("make directory {}", volume.host.display()), e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(source.as_fd(), &volume.container[1..], flags, Mode::empty(), resolve) {
            Ok(from) => {
                let to = tree::open_dir(&volume.host).map_err(failed)?;
                filled |= copy::tree(from, to).map_err(failed)?;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    if filled {
        let directory = tree::open_dir(&first.host).map_err(|e| Error::io("open a volume", e))?;
        rustix::fs::syncfs(&directory).map_err(|e| Error::io("sync the volumes", e.into()))?;
    }
    Ok(())
}

/// Mounts to read from: read-only, and with owners as the image says.
pub fn plain(rootfs: &[Mount]) -> Vec<Mount> {
    let mut mounts = mount::read_only(rootfs);
    for mount in &mut mounts {
        mount.options.retain(|o| {
            !o.starts_with("uidmap=") && !o.starts_with("gidmap=") && o != "volatile" && o != "fsync=volatile"
        });
    }
    mounts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_mount_takes_a_declared_volumes_place() {
        let mounts = [cri::Mount { container_path: "/data/".into(), ..Default::default() }];
        let places = ["/data", "cache", "/x/../cache", "/../../etc", "/", "//a/./b"].map(str::to_owned);
        let volumes = declared(Path::new("/c"), &places, &mounts).unwrap();
        let found: Vec<_> = volumes.iter().map(|v| v.container.as_str()).collect();
        assert_eq!(found, ["/cache", "/etc", "/a/b"]);
        assert_eq!(volumes[1].host, Path::new("/c/volumes/1"));
        let many: Vec<_> = (0..=MAX).map(|n| format!("/{n}")).collect();
        assert!(declared(Path::new("/c"), &many, &[]).is_err());
    }

    #[test]
    fn volumes_hold_what_the_image_has() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::write(root.join("data/sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/data", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../../etc", root.join("out")).unwrap();
        let rootfs = [Mount {
            kind: "bind".into(),
            source: root.to_str().unwrap().into(),
            target: String::new(),
            options: vec!["rbind".into()],
        }];
        let places = ["/data", "/none", "/link", "/out"].map(str::to_owned);
        let volumes = declared(dir.path(), &places, &[]).unwrap();
        make(&volumes, &rootfs).unwrap();
        let file = |n: usize, path: &str| volumes[n].host.join(path).exists();
        assert!(file(0, "sub/file") && file(1, "") && file(2, "sub/file"));
        assert!(file(3, "") && !file(3, "passwd"), "a link does not lead out of the image");
    }
}
