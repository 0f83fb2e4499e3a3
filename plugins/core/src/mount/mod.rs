//! Mounts as values, and mounting them: on a path, on a temporary one, or nowhere at all ([`open`]).
//!
//! Everything here blocks and some of it forks: call it on a blocking thread, never on a runtime worker.

mod idmap;
mod options;
mod overlay;
mod sys;
mod temp;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use idmap::{IdMap, user_namespace};
pub use options::Options;
pub use temp::{Temp, set_temp_location, temp, temp_read_only};

use crate::{Error, Result};

/// A mount in the form of `mount(8)`: `options` as in fstab. `target` is a path below the place where a list of
/// mounts is put, empty for the place itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

/// The directories of an overlay mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlay<'a> {
    pub upper: Option<&'a str>,
    pub work: Option<&'a str>,
    /// As in the option: uppermost first, joined by colons.
    pub lower: &'a str,
}

impl<'a> Overlay<'a> {
    /// Uppermost first.
    pub fn lowers(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.lower.split(':').filter(|l| !l.is_empty())
    }
}

impl Mount {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// The value of `key=value`; the last one counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.options.iter().rev().find_map(|o| o.strip_prefix(key)?.strip_prefix('='))
    }

    pub fn is_overlay(&self) -> bool {
        self.kind == "overlay"
    }

    pub fn is_bind(&self) -> bool {
        self.kind == "bind"
            || ((self.kind.is_empty() || self.kind == "none") && (self.has("bind") || self.has("rbind")))
    }

    /// Whether ids are mapped on the way through.
    pub fn is_mapped(&self) -> bool {
        self.value("uidmap").is_some() || self.value("gidmap").is_some()
    }

    /// The directories of an overlay mount, `None` for another kind.
    pub fn overlay(&self) -> Option<Overlay<'_>> {
        self.is_overlay().then(|| Overlay {
            upper: self.value("upperdir"),
            work: self.value("workdir"),
            lower: self.value("lowerdir").unwrap_or_default(),
        })
    }

    /// The directory that writes go to, where it is known.
    pub fn writes_to(&self) -> Option<&str> {
        if self.is_bind() { Some(&self.source) } else { self.overlay()?.upper }
    }

    /// Mounts it on `root` (its `target` is a path below, resolved inside of it).
    pub fn mount(&self, root: &Path) -> Result<()> {
        let place = sys::Place::new(root, &self.target).map_err(|e| self.failed(root, e))?;
        if let Some(helper) = self.helper() {
            return self.by_helper(helper, root).map_err(|e| self.failed(root, e));
        }
        let options = Options::parse(&self.options)?;
        if options.is_loop {
            return Err(Error::unimplemented(format!(
                "mount {}: loop devices are made by the mount manager",
                self.source
            )));
        }
        self.mount_at(&options, &place).map_err(|e| match e {
            Failure::Io(e) => self.failed(root, e),
            Failure::Class(e) => e,
        })
    }

    fn mount_at(&self, options: &Options, place: &sys::Place<'_>) -> Result<(), Failure> {
        let mapped = options.user_namespace()?;
        if self.is_bind() || options.is_bind() {
            sys::bind(Path::new(&self.source), place, options, mapped.as_ref())?;
        } else if self.is_overlay() {
            overlay::mount(self, options, place.fd(), mapped.as_ref())?;
        } else {
            sys::classic(&self.source, place.fd(), &self.kind, options.flags, &options.data.join(","))?;
            if let Some(mapped) = mapped {
                sys::remap(place, &mapped)?;
            }
        }
        sys::change_propagation(place, options)?;
        Ok(())
    }

    fn failed(&self, root: &Path, e: io::Error) -> Error {
        let options = self.options.join(",");
        let shown: String = options.chars().take(512).collect();
        Error::io(format!("mount {} {:?} on {} ({shown})", self.kind, self.source, root.display()), e)
    }

    /// fuse and fuse3 file systems are mounted by their helper.
    fn helper(&self) -> Option<(&'static str, &str)> {
        [("mount.fuse", "fuse."), ("mount.fuse3", "fuse3.")]
            .into_iter()
            .find_map(|(helper, prefix)| Some((helper, self.kind.strip_prefix(prefix)?)))
    }

    fn by_helper(&self, (helper, kind): (&str, &str), root: &Path) -> io::Result<()> {
        let target = root.join(self.target.trim_start_matches('/'));
        let mut command = std::process::Command::new(helper);
        command.arg(&self.source).arg(target);
        for option in &self.options {
            command.args(["-o", option]);
        }
        let output = command.args(["-t", kind]).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said: String = String::from_utf8_lossy(&output.stderr).chars().take(1024).collect();
        Err(io::Error::other(format!("{helper} ended with {}: {}", output.status, said.trim())))
    }
}

/// What goes wrong inside: from the kernel, or with a class of its own.
enum Failure {
    Io(io::Error),
    Class(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(e: rustix::io::Errno) -> Self {
        Self::Io(e.into())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Class(e)
    }
}

/// Mounts a list in order. Where one fails those before it are unmounted again.
pub fn mount_all(mounts: &[Mount], root: &Path) -> Result<()> {
    for (n, mount) in mounts.iter().enumerate() {
        if let Err(error) = mount.mount(root) {
            if let Err(left) = unmount_list(&mounts[..n], root) {
                tracing::warn!(path = %root.display(), error = %left.chain(), "a mount is left over");
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts a list that [`mount_all`] mounted, last one first.
pub fn unmount_list(mounts: &[Mount], root: &Path) -> Result<()> {
    for mount in mounts.iter().rev() {
        let target = root.join(mount.target.trim_start_matches('/'));
        unmount(&target)?;
    }
    Ok(())
}

/// Unmounts the uppermost mount on `target`, lazily where it is busy. Not a mount point, or not there: fine.
pub fn unmount(target: &Path) -> Result<()> {
    sys::unmount(target).map(|_| ()).map_err(|e| Error::io(format!("unmount {}", target.display()), e))
}

/// Unmounts all mounts that are stacked on `target`.
pub fn unmount_all(target: &Path) -> Result<()> {
    loop {
        match sys::unmount(target) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) => return Err(Error::io(format!("unmount {}", target.display()), e)),
        }
    }
}

/// Unmounts everything on and below `target`.
pub fn unmount_recursive(target: &Path) -> Result<()> {
    for point in sys::mount_points(target).map_err(|e| Error::io("read mount table", e))? {
        unmount_all(&point)?;
    }
    Ok(())
}

/// The same mounts, read-only: overlays lose their upper directory (it becomes the uppermost lower one).
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    mounts.iter().map(|m| if m.is_overlay() { overlay::read_only(m) } else { made_read_only(m) }).collect()
}

fn made_read_only(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    mount.options.retain(|o| o != "rw" && o != "ro");
    mount.options.push("ro".into());
    mount
}

/// The files of mounts, without a place in the file system where that can be had: a plain directory for a bind, a
/// detached mount for an overlay, else a temporary mount.
pub struct Tree {
    root: OwnedFd,
    _temp: Option<Temp>,
}

impl AsFd for Tree {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Opens the root of what `mounts` show. The tree lives as long as the value. No mounts at all are an empty tree.
pub fn open(mounts: &[Mount]) -> Result<Tree> {
    if let [mount] = mounts
        && mount.target.is_empty()
        && !mount.is_mapped()
    {
        if mount.is_bind() {
            let root = crate::tree::open_dir(Path::new(&mount.source))
                .map_err(|e| Error::io(format!("open {}", mount.source), e))?;
            return Ok(Tree { root, _temp: None });
        }
        if mount.is_overlay()
            && let Ok(root) = overlay::detached(mount)
        {
            return Ok(Tree { root, _temp: None });
        }
    }
    let temp = temp(mounts)?;
    let root = crate::tree::open_dir(temp.path())
        .map_err(|e| Error::io(format!("open {}", temp.path().display()), e))?;
    Ok(Tree { root, _temp: Some(temp) })
}

/// Syncs the file systems that `mounts` write to, each once.
pub fn sync<'a>(mounts: impl IntoIterator<Item = &'a Mount>) -> Result<()> {
    let mut done = Vec::new();
    for directory in mounts.into_iter().filter_map(Mount::writes_to) {
        let failed = |e: io::Error| Error::io(format!("sync the file system of {directory}"), e);
        let file = std::fs::File::open(directory).map_err(failed)?;
        let device = file.metadata().map_err(failed)?.dev();
        if !done.contains(&device) {
            rustix::fs::syncfs(&file).map_err(|e| failed(e.into()))?;
            done.push(device);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(dir: &Path, count: usize) -> Vec<String> {
        (0..count)
            .map(|n| {
                let layer = dir.join(format!("layer-with-a-rather-long-name-{n:04}"));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("file{n}")), n.to_string()).unwrap();
                layer.to_str().unwrap().to_owned()
            })
            .collect()
    }

    fn overlay(options: Vec<String>) -> Mount {
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
    }

    fn bind(source: &Path, options: &[&str]) -> Mount {
        let options = options.iter().map(|o| o.to_string()).collect();
        Mount { kind: "bind".into(), source: source.to_str().unwrap().into(), target: String::new(), options }
    }

    #[test]
    fn a_read_only_bind_refuses_writes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let temp = temp(&[bind(dir.path(), &["rbind", "ro"])]).unwrap();
        assert_eq!(std::fs::read_to_string(temp.path().join("f")).unwrap(), "x");
        let error = std::fs::write(temp.path().join("g"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let path = temp.path().to_owned();
        drop(temp);
        assert!(!path.exists());
        std::fs::write(dir.path().join("g"), "").unwrap();
    }

    #[test]
    fn overlays_mount_with_few_and_with_many_layers() {
        let dir = tempfile::tempdir().unwrap();
        let all = layers(dir.path(), 128);
        for count in [2, 128] {
            let lower = format!("lowerdir={}", all[..count].join(":"));
            let temp = temp(&[overlay(vec!["index=off".into(), lower.clone()])]).unwrap();
            for n in 0..count {
                assert!(temp.path().join(format!("file{n}")).exists(), "layer {n} of {count}");
            }
            let tree = open(&[overlay(vec![lower])]).unwrap();
            assert!(
                rustix::fs::accessat(
                    &tree,
                    "file1",
                    rustix::fs::Access::EXISTS,
                    rustix::fs::AtFlags::empty()
                )
                .is_ok()
            );
        }
    }

    #[test]
    fn the_way_of_old_kernels_mounts_many_layers_too() {
        let dir = tempfile::tempdir().unwrap();
        let all = layers(dir.path(), 80);
        let place = tempfile::tempdir().unwrap();
        let fd = sys::Place::new(place.path(), "").unwrap();
        let options = Options::parse(&[format!("lowerdir={}", all.join(":"))]).unwrap();
        overlay::shortened(&options, &all.iter().map(String::as_str).collect::<Vec<_>>(), fd.fd()).unwrap();
        assert!(place.path().join("file79").exists());
        unmount_all(place.path()).unwrap();
        assert!(!place.path().join("file79").exists());
    }

    #[test]
    fn a_writable_overlay_becomes_read_only_by_value() {
        let options = ["upperdir=/u", "workdir=/w", "lowerdir=/l1:/l2", "index=off"];
        let mount = overlay(options.iter().map(|o| o.to_string()).collect());
        let ro = &read_only(&[mount])[0];
        assert_eq!(ro.overlay().unwrap(), Overlay { upper: None, work: None, lower: "/u:/l1:/l2" });
        let single = overlay(vec!["upperdir=/u".into(), "workdir=/w".into()]);
        let ro = &read_only(&[single])[0];
        assert!(ro.is_bind() && ro.has("ro"), "{ro:?}");
    }

    #[test]
    fn ids_are_mapped_through_binds_and_overlays() {
        let dir = tempfile::tempdir().unwrap();
        let all = layers(dir.path(), 3);
        std::os::unix::fs::chown(Path::new(&all[1]).join("file1"), Some(7), Some(8)).unwrap();
        let map = ["uidmap=0:1000:100", "gidmap=0:2000:100"];
        let seen = |temp: &Temp| {
            let meta = std::fs::metadata(temp.path().join("file1")).unwrap();
            (meta.uid(), meta.gid())
        };
        let bound = temp(&[bind(Path::new(&all[1]), &["rbind", map[0], map[1]])]).unwrap();
        assert_eq!(seen(&bound), (1007, 2008));
        let lower = format!("lowerdir={}", all.join(":"));
        let laid = temp(&[overlay(vec![map[0].into(), map[1].into(), lower])]).unwrap();
        assert_eq!(seen(&laid), (1007, 2008));
    }

    #[test]
    fn a_target_cannot_lead_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::fs::write(root.join("inside/f"), "x").unwrap();
        let mut mount = bind(&root.join("inside"), &["rbind"]);
        mount.target = "link".into();
        // The link's target is looked up under the root, where there is none.
        assert!(mount.mount(&root).is_err());
        mount.target = "inside".into();
        mount.mount(&root).unwrap();
        unmount_recursive(&root).unwrap();
    }

    #[test]
    fn propagation_is_changed_on_the_new_mount() {
        let dir = tempfile::tempdir().unwrap();
        let temp = temp(&[bind(dir.path(), &["rbind", "rshared"])]).unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|l| l.split(' ').nth(4) == temp.path().to_str()).unwrap();
        assert!(line.contains(" shared:"), "{line}");
    }
}
