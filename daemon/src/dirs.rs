//! The daemon's directories: made, their modes set right, and locked for one daemon.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;

use crate::config::Settings;

/// Of a directory with images' contents: nobody but root has business there.
const PRIVATE: u32 = 0o700;
/// Of a directory that processes of user namespaces walk through to their own.
const PASSABLE: u32 = 0o711;

const LOCK: &str = "windlassd.lock";

/// Holds root and state until dropped.
pub struct Lock {
    _files: [File; 2],
}

/// Makes the directories and sets their modes.
pub fn prepare(settings: &Settings) -> Result<()> {
    make(&settings.root, PRIVATE)?;
    make(&settings.state, PASSABLE)?;
    if !settings.temp.as_os_str().is_empty() {
        make(&settings.temp, PRIVATE)?;
    }
    Ok(())
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    let found = std::fs::metadata(dir).with_context(|| format!("look at directory {}", dir.display()))?;
    if !found.is_dir() {
        bail!("{} is not a directory", dir.display());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        tracing::warn!(path = %dir.display(), owner = found.uid(), "directory belongs to another user");
    }
    let present = found.permissions().mode() & 0o7777;
    if present & !mode & 0o777 != 0 || present & 0o700 != 0o700 {
        let permissions = std::fs::Permissions::from_mode(mode);
        match std::fs::set_permissions(dir, permissions) {
            Ok(()) => {
                tracing::debug!(path = %dir.display(), mode = format!("{mode:o}"), "directory mode set")
            }
            Err(error) => {
                tracing::warn!(path = %dir.display(), mode = format!("{present:o}"), %error, "directory is too open")
            }
        }
    }
    Ok(())
}

/// Takes root and state for this process; an error names the process that has them.
pub fn lock(settings: &Settings) -> Result<Lock> {
    Ok(Lock { _files: [take("root", &settings.root)?, take("state", &settings.state)?] })
}

fn take(what: &str, dir: &Path) -> Result<File> {
    let path: PathBuf = dir.join(LOCK);
    let doing = || format!("lock {}", path.display());
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(doing)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Who it is only makes the message better.
            let _ = (&file).take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() {
                "another daemon".to_owned()
            } else {
                format!("the daemon with process id {holder}")
            };
            bail!(
                "{what} directory {} is in use by {who}; stop it, or give this one its own --{what}",
                dir.display()
            );
        }
        Err(errno) => return Err(std::io::Error::from(errno)).with_context(doing),
    }
    file.set_len(0).with_context(doing)?;
    file.rewind().with_context(doing)?;
    writeln!(file, "{}", std::process::id()).with_context(doing)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings { root: dir.join("root"), state: dir.join("state"), ..Settings::default() }
    }

    #[test]
    fn directories_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        std::fs::create_dir(&settings.root).unwrap();
        std::fs::set_permissions(&settings.root, std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(&settings).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&settings.root), mode(&settings.state)), (0o700, 0o711));
    }

    #[test]
    fn one_daemon_per_root() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        prepare(&settings).unwrap();
        let held = lock(&settings).unwrap();
        let said = lock(&settings).err().unwrap().to_string();
        assert!(
            said.contains(&format!("process id {}", std::process::id())) && said.contains("--root"),
            "{said}"
        );
        drop(held);
        lock(&settings).unwrap();
    }
}
