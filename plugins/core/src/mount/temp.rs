//! Temporary mounts: a place of their own, gone with the value, swept at start where a crash left some.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Mount, mount_all, read_only, unmount_all, unmount_recursive};
use crate::{Error, Result};

static LOCATION: RwLock<Option<PathBuf>> = RwLock::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Puts temporary mounts below `directory`, which belongs to this process alone: it is made, and what an earlier
/// process left in it is unmounted and removed. Without it they go to the system's directory for temporary files.
pub fn set_temp_location(directory: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("prepare directory {} for temporary mounts", directory.display()), e);
    unmount_recursive(directory)?;
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                // Only empty directories can be left, so nothing that somebody still mounts is lost.
                let entry = entry.map_err(failed)?.path();
                if let Err(error) = std::fs::remove_dir(&entry) {
                    tracing::warn!(path = %entry.display(), %error, "cannot remove a place of temporary mounts");
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    *LOCATION.write().expect("nobody panics while the location is set") = Some(directory.to_owned());
    Ok(())
}

/// A directory that mounts lie on. Dropping it unmounts (lazily where it is busy) and removes it; that blocks.
#[derive(Debug)]
pub struct Temp {
    path: PathBuf,
    mounted: bool,
}

impl Temp {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn empty() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let base = LOCATION.read().expect("nobody panics while the location is set").clone();
        let base = base.unwrap_or_else(std::env::temp_dir);
        loop {
            let path = base.join(format!(
                "windlass-mount-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, mounted: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn mounted(mut self) -> Self {
        self.mounted = true;
        self
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = unmount_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %error.chain(), "cannot unmount a temporary mount");
        }
        // rmdir and nothing more: where the mount is still there, its files stay.
        if let Err(error) = std::fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a place of temporary mounts");
        }
    }
}

/// Mounts `mounts` on a new temporary directory. An overlay's `volatile` is left out: the kernel refuses to mount such
/// a one again.
pub fn temp(mounts: &[Mount]) -> Result<Temp> {
    let mut mounts = mounts.to_vec();
    for mount in mounts.iter_mut().filter(|m| m.is_overlay()) {
        mount.options.retain(|o| o != "volatile" && o != "fsync=volatile");
    }
    let temp = Temp::empty().map_err(|e| Error::io("make a place for a temporary mount", e))?;
    mount_all(&mounts, temp.path())?;
    Ok(temp.mounted())
}

/// Like [`temp`], read-only.
pub fn temp_read_only(mounts: &[Mount]) -> Result<Temp> {
    temp(&read_only(mounts))
}
