//! The directory of one task: `<state>/<namespace>/<id>`, with what the shim and a restarted daemon need.
//!
//! | name | |
//! |---|---|
//! | `config.json` | the OCI specification, byte for byte |
//! | `rootfs` | where the shim mounts the root file system |
//! | `work` | link to `<root>/<namespace>/<id>`, which survives a reboot |
//! | `log` | fifo: what the shim logs |
//! | `checkpoint` | what the task is restored from, if it is the task's own |
//! | `shim-binary-path`, `bootstrap.json`, `sandbox`, `group` | how to find the shim again |
//!
//! Nothing here is synced: the directory is as short-lived as the processes it describes. All functions block.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::Deserialize;

use crate::bootstrap::Endpoint;
use crate::error::{Error, Result};

const BOOTSTRAP: &str = "bootstrap.json";
const BINARY: &str = "shim-binary-path";
/// Older shims leave their address here.
const ADDRESS: &str = "address";
const SANDBOX: &str = "sandbox";
const GROUP: &str = "group";
/// Largest of our own files that is read back.
const MAX_FILE: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub struct Bundle {
    pub namespace: String,
    pub id: String,
    pub path: PathBuf,
    work: PathBuf,
}

impl Bundle {
    /// Names a bundle; `namespace` and `id` are valid identifiers, so neither leads out of the directories.
    pub fn new(state: &Path, root: &Path, namespace: &str, id: &str) -> Self {
        let below = |dir: &Path| dir.join(namespace).join(id);
        Self { namespace: namespace.to_owned(), id: id.to_owned(), path: below(state), work: below(root) }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Makes the directory and all that a shim needs to start. On failure nothing is left.
    pub fn create(&self, spec: Option<&[u8]>) -> Result<()> {
        let made = match mkdir(&self.path, 0o700) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let parent = self.path.parent().expect("a bundle is below its namespace");
                mkdir_all(parent).and_then(|()| mkdir(&self.path, 0o700))
            }
            other => other,
        };
        match made {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists(self.id.clone())),
            other => other.map_err(Error::io("make bundle", &self.path))?,
        }
        let filled = self.fill(spec);
        if filled.is_err() {
            let _ = self.remove();
        }
        filled
    }

    fn fill(&self, spec: Option<&[u8]>) -> Result<()> {
        if let Some(gid) = spec.map(remapped_gid).transpose()?.flatten() {
            chown(&self.path, None, Some(gid)).map_err(Error::io("change group of bundle", &self.path))?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710))
                .map_err(Error::io("change mode of bundle", &self.path))?;
        }
        mkdir(&self.rootfs(), 0o711).map_err(Error::io("make", self.rootfs()))?;
        if let Some(spec) = spec {
            self.write("config.json", spec)?;
        }
        let log = self.path.join("log");
        rustix::fs::mknodat(CWD, &log, FileType::Fifo, Mode::from_raw_mode(0o700), 0)
            .map_err(|e| Error::io("make fifo", log)(e.into()))?;
        symlink(&self.work, self.path.join("work")).map_err(Error::io("link", self.path.join("work")))
    }

    /// Takes a checkpoint's directory; answers where it is now.
    pub fn take_checkpoint(&self, directory: &str) -> Result<String> {
        let own = self.path.join("checkpoint");
        fs::rename(directory, &own).map_err(Error::io("move the checkpoint to", &own))?;
        Ok(own.to_string_lossy().into_owned())
    }

    /// Makes the work directory, empty.
    pub fn make_work(&self) -> Result<()> {
        let made = match mkdir(&self.work, 0o711) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let parent = self.work.parent().expect("a work directory is below its namespace");
                mkdir_all(parent).and_then(|()| mkdir(&self.work, 0o711))
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&self.work).and_then(|()| mkdir(&self.work, 0o711))
            }
            other => other,
        };
        made.map_err(Error::io("make work directory", &self.work))
    }

    /// Opens the log without waiting for a shim. Open for writing too, so that it has no end while shims come and go.
    pub fn open_log(&self) -> Result<OwnedFd> {
        let path = self.path.join("log");
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = || rustix::fs::open(&path, flags, Mode::empty());
        let fd = match open() {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o700), 0)
                    .and_then(|()| open())
            }
            other => other,
        };
        fd.map_err(|e| Error::io("open shim log", &path)(e.into()))
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, data).map_err(Error::io("write", path))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        use std::io::Read;
        let path = self.path.join(name);
        let mut data = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_FILE).read_to_end(&mut data))
            .map_err(Error::io("read", path))?;
        Ok(data)
    }

    pub fn write_binary(&self, binary: &Path) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        self.write(BINARY, binary.as_os_str().as_bytes())
    }

    pub fn binary(&self) -> Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        Ok(std::ffi::OsString::from_vec(self.read(BINARY)?).into())
    }

    pub fn write_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        self.write(BOOTSTRAP, &endpoint.json())
    }

    /// Where the shim listens: from `bootstrap.json`, or from `address` where an older daemon started it.
    pub fn endpoint(&self) -> Result<Endpoint> {
        match self.read(BOOTSTRAP) {
            Ok(data) => Endpoint::parse(&data),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Endpoint::parse(&self.read(ADDRESS)?)
            }
            Err(e) => Err(e),
        }
    }

    /// Notes the group whose tasks share this one's shim, where it is not the task alone.
    pub fn write_group(&self, group: &str) -> Result<()> {
        self.write(GROUP, group.as_bytes())
    }

    /// The group of tasks that share a shim: a sandbox's id, or the task's own.
    pub fn group(&self) -> String {
        let read =
            |name| std::fs::read_to_string(self.path.join(name)).ok().filter(|group| !group.is_empty());
        read(SANDBOX).or_else(|| read(GROUP)).unwrap_or_else(|| self.id.clone())
    }

    /// Notes the sandbox whose owner lent its shim to this task.
    pub fn write_sandbox(&self, sandbox: &str) -> Result<()> {
        self.write(SANDBOX, sandbox.as_bytes())
    }

    /// Whether the shim was lent to this task.
    pub fn is_shared(&self) -> bool {
        self.path.join(SANDBOX).exists()
    }

    /// Unmounts the root file system and removes both directories. A bundle that is not there is removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir(self.rootfs()) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // A mount, or what a runtime wrote beneath one.
            Err(_) => unmount(&self.rootfs())?,
        }
        let bundle = remove_dir(&self.path);
        bundle.and(remove_dir(&self.work))
    }
}

fn mkdir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)
}

fn mkdir_all(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o711).recursive(true).create(path)
}

fn unmount(path: &Path) -> Result<()> {
    windlass_core::mount::unmount_recursive(path).map_err(|e| Error::from(e).context("unmount rootfs"))
}

/// The name of a directory while it is removed.
pub fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a bundle has a name").to_string_lossy();
    path.with_file_name(format!(".{name}"))
}

/// Removes a directory under another name, so that a crash in between leaves nothing that looks whole.
fn remove_dir(path: &Path) -> Result<()> {
    let hidden = hidden(path);
    let renamed = match fs::rename(path, &hidden) {
        Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            remove_tree(&hidden)?;
            fs::rename(path, &hidden)
        }
        other => other,
    };
    match renamed {
        Ok(()) => remove_tree(&hidden),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("rename", path)(e)),
    }
}

/// Removes a directory and what is in it, after making sure that nothing is mounted there: what is mounted is not ours.
pub fn remove_tree(path: &Path) -> Result<()> {
    if remove_flat(path).is_ok() {
        return Ok(());
    }
    unmount(path)?;
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes files and empty directories: the usual case, which needs no look at the mount table.
fn remove_flat(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[derive(Deserialize)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(rename = "gidMappings", default)]
    gid_mappings: Vec<Mapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
}

/// The host's group for the container's root, where the specification maps it: that group must be able to enter.
fn remapped_gid(spec: &[u8]) -> Result<Option<u32>> {
    const KEY: &[u8] = b"gidMappings";
    if !spec.windows(KEY.len()).any(|window| window == KEY) {
        return Ok(None);
    }
    let spec: Spec = serde_json::from_slice(spec).map_err(|e| {
        windlass_core::Error::invalid("read gid mappings of the specification").with_source(e)
    })?;
    let mappings = spec.linux.map(|linux| linux.gid_mappings).unwrap_or_default();
    Ok(mappings.iter().find(|m| m.container == 0).map(|m| m.host).filter(|gid| *gid != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &Path) -> Bundle {
        Bundle::new(&dir.join("state"), &dir.join("root"), "ns", "a")
    }

    #[test]
    fn a_bundle_is_made_once_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        bundle.create(Some(b"{}")).unwrap();
        bundle.make_work().unwrap();
        assert!(matches!(bundle.create(None), Err(Error::Exists(_))));
        assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"{}");
        assert!(bundle.path.join("work").read_dir().unwrap().next().is_none());
        assert_eq!(fs::metadata(&bundle.path).unwrap().permissions().mode() & 0o777, 0o700);
        bundle.open_log().unwrap();
        fs::create_dir_all(bundle.rootfs().join("a/b")).unwrap();
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        for left in ["state/ns", "root/ns"] {
            assert!(fs::read_dir(dir.path().join(left)).unwrap().next().is_none(), "{left}");
        }
    }

    #[test]
    fn a_shim_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        bundle.create(None).unwrap();
        assert!(bundle.endpoint().is_err());
        fs::write(bundle.path.join("address"), "unix:///s/old").unwrap();
        assert_eq!(bundle.endpoint().unwrap().version, 2);
        let endpoint = Endpoint { version: 3, address: "unix:///s/new".into(), protocol: "ttrpc".into() };
        bundle.write_endpoint(&endpoint).unwrap();
        assert_eq!(bundle.endpoint().unwrap(), endpoint);
        bundle.write_binary(Path::new("/bin/shim")).unwrap();
        assert_eq!(bundle.binary().unwrap(), Path::new("/bin/shim"));
        assert!(!bundle.is_shared());
        bundle.write_sandbox("pod").unwrap();
        assert!(bundle.is_shared());
        assert_eq!(bundle.group(), "pod");
    }

    #[test]
    fn what_is_mounted_stays() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("data"), "x").unwrap();
        let bundle = bundle(dir.path());
        bundle.create(None).unwrap();
        let extra = bundle.path.join("extra");
        fs::create_dir(&extra).unwrap();
        for target in [bundle.rootfs(), extra] {
            rustix::mount::mount_bind(&precious, &target).unwrap();
        }
        bundle.remove().unwrap();
        assert_eq!(fs::read(precious.join("data")).unwrap(), b"x");
        assert!(!bundle.path.exists());
    }

    #[test]
    fn roots_group_is_found() {
        let spec = br#"{"linux":{"gidMappings":[{"containerID":1,"hostID":5,"size":1},{"containerID":0,"hostID":7,"size":1}]}}"#;
        assert_eq!(remapped_gid(spec).unwrap(), Some(7));
        assert_eq!(remapped_gid(b"{}").unwrap(), None);
        assert_eq!(remapped_gid(br#"{"annotations":{"gidMappings":"x"}}"#).unwrap(), None);
        assert!(remapped_gid(b"gidMappings").is_err());
    }
}
