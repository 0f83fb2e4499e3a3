//! Namespaces that live without a process: each is held by a file that it is mounted on.
//!
//! They are made on a thread of their own that ends with the work: no other thread of the daemon is ever in a foreign
//! namespace. A reboot leaves plain files where they were; [`is_namespace`] tells the two apart.

mod enter;
mod sysctl;
mod user;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};

pub use enter::{connect, inside};

/// A range of ids inside a user namespace and what they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// The ids of a new user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

/// What a pod has for itself.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    /// A user namespace of its own, which then owns the others.
    pub user: Option<Mapping>,
    /// A user namespace that is there already and is to own the others; not together with `user`.
    pub join_user: Option<&'a Path>,
    /// Needs `uts`.
    pub hostname: Option<&'a str>,
    /// Names as `a.b.c` or `a/b/c`; only those of a namespace that is wanted.
    pub sysctls: &'a [(String, String)],
}

/// The files of a pod's namespaces. A path is there whether or not the kind was asked for; see [`is_namespace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub dir: PathBuf,
}

const KINDS: [&str; 4] = ["net", "ipc", "uts", "user"];

impl Held {
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn net(&self) -> PathBuf {
        self.dir.join("net")
    }

    pub fn ipc(&self) -> PathBuf {
        self.dir.join("ipc")
    }

    pub fn uts(&self) -> PathBuf {
        self.dir.join("uts")
    }

    pub fn user(&self) -> PathBuf {
        self.dir.join("user")
    }
}

/// Open namespaces, not yet on files.
#[derive(Default)]
struct Made {
    net: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    user: Option<OwnedFd>,
    /// Root of the owning user namespace, as ids of ours.
    root: Option<(u32, u32)>,
}

/// Makes the namespaces and holds them at `<dir>/net`, `ipc`, `uts` and `user`; loopback is up, the sysctls and the name
/// are set. `dir` may be there, its parent must be. All or nothing: on an error, and if the caller goes away, nothing is
/// left.
pub async fn create(dir: &Path, wanted: Wanted<'_>) -> Result<Held> {
    validate(&wanted)?;
    let order = Order {
        dir: dir.to_owned(),
        flags: flags(&wanted),
        user: wanted.user,
        join: wanted.join_user.map(Path::to_owned),
        hostname: wanted.hostname.map(str::to_owned),
        sysctls: wanted
            .sysctls
            .iter()
            .map(|(n, v)| Ok((sysctl::path(n)?, v.clone())))
            .collect::<Result<_>>()?,
    };
    let fresh =
        enter::thread("namespaces", move || order.carry_out().map(|held| Fresh(Some(held)))).await??;
    Ok(fresh.keep())
}

/// Ends the hold on whatever namespaces are at `dir` and deletes the files. Nothing there is fine, half of it too. A
/// namespace lives on while a process is in it.
pub async fn remove(dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || remove_now(&dir))
        .await
        .map_err(|_| Error::Cut("removal of namespaces"))?
}

/// Whether a namespace is held at `path`. False for what a reboot left behind. Does not block.
pub fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == libc::NSFS_MAGIC as u64)
}

fn validate(wanted: &Wanted<'_>) -> Result<()> {
    if let Some(hostname) = wanted.hostname {
        if !wanted.uts {
            return Err(Error::invalid("hostname", hostname, "needs a UTS namespace"));
        }
        if hostname.is_empty() || hostname.len() > 64 || hostname.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(Error::invalid("hostname", hostname, "1 to 64 bytes without spaces are possible"));
        }
    }
    if let Some(mapping) = &wanted.user {
        if wanted.join_user.is_some() {
            return Err(Error::invalid("user namespace", "", "one can be made or joined, not both"));
        }
        user::validate("uid mapping", &mapping.uids)?;
        user::validate("gid mapping", &mapping.gids)?;
    }
    wanted.sysctls.iter().try_for_each(|(name, value)| sysctl::validate(name, value, wanted))
}

fn flags(wanted: &Wanted<'_>) -> UnshareFlags {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, wanted.net);
    flags.set(UnshareFlags::NEWIPC, wanted.ipc);
    flags.set(UnshareFlags::NEWUTS, wanted.uts);
    flags
}

/// Namespaces that nobody knows of yet: they go if nobody wants to any more.
struct Fresh(Option<Held>);

impl Fresh {
    fn keep(mut self) -> Held {
        self.0.take().expect("taken once, here")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            // Not here: this may be a thread of the runtime.
            let _ =
                std::thread::Builder::new().name("namespaces".into()).spawn(move || remove_now(&held.dir));
        }
    }
}

/// What the thread has to do.
struct Order {
    dir: PathBuf,
    flags: UnshareFlags,
    user: Option<Mapping>,
    join: Option<PathBuf>,
    hostname: Option<String>,
    sysctls: Vec<(PathBuf, String)>,
}

impl Order {
    /// Runs on a thread that ends with it: it is left in the namespaces.
    fn carry_out(self) -> Result<Held> {
        let made = if self.user.is_some() || self.join.is_some() {
            let made = user::make(self.flags, self.user.as_ref(), self.join.as_deref())?;
            join(&made)?;
            made
        } else {
            // SAFETY: the flags name no descriptor table; nothing but namespaces of this one thread changes.
            unsafe { unshare_unsafe(self.flags) }.map_err(Error::errno("unshare", &self.dir))?;
            open(Path::new("/proc/thread-self/ns"), self.flags, false)?
        };
        self.furnish(&made)?;
        self.hold(&made)
    }

    /// Sets things up inside.
    fn furnish(&self, made: &Made) -> Result<()> {
        if let Some(name) = &self.hostname {
            // SAFETY: the pointer and length are those of a string that outlives the call.
            if unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } != 0 {
                return Err(Error::io("set hostname in", &self.dir)(std::io::Error::last_os_error()));
            }
        }
        if made.net.is_some() {
            enter::raise_loopback().map_err(Error::errno("bring up loopback in", &self.dir))?;
        }
        sysctl::set(&self.sysctls, made.root)
    }

    /// Mounts the namespaces on files.
    fn hold(&self, made: &Made) -> Result<Held> {
        match std::fs::DirBuilder::new().mode(0o711).create(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &self.dir)(e));
            }
            _ => {}
        }
        let held = Held { dir: self.dir.clone() };
        let each = [&made.net, &made.ipc, &made.uts, &made.user].into_iter().zip(KINDS);
        let mut mounted: Vec<PathBuf> = Vec::new();
        for (fd, kind) in each {
            let Some(fd) = fd else { continue };
            let target = self.dir.join(kind);
            if let Err(error) = bind(fd, &target) {
                // Not more than was done here: another's namespace may be what stood in the way.
                mounted.iter().for_each(|path| {
                    let _ = release(path);
                });
                let _ = std::fs::remove_dir(&self.dir);
                return Err(error);
            }
            mounted.push(target);
        }
        Ok(held)
    }
}

/// Moves this thread in. Needs no user namespace: its owner's root may enter.
fn join(made: &Made) -> Result<()> {
    use rustix::fd::AsFd;
    let kinds = [
        (&made.net, LinkNameSpaceType::Network),
        (&made.ipc, LinkNameSpaceType::InterProcessCommunication),
        (&made.uts, LinkNameSpaceType::HostNameAndNISDomainName),
    ];
    for (fd, kind) in kinds {
        if let Some(fd) = fd {
            move_into_link_name_space(fd.as_fd(), Some(kind))
                .map_err(Error::errno("enter", "new namespace"))?;
        }
    }
    Ok(())
}

/// Opens the namespaces of a process or thread by its directory in proc.
fn open(ns: &Path, flags: UnshareFlags, user: bool) -> Result<Made> {
    let get = |wanted: bool, kind: &str| -> Result<Option<OwnedFd>> {
        if !wanted {
            return Ok(None);
        }
        let path = ns.join(kind);
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        fd.map(Some).map_err(Error::errno("open", path))
    };
    Ok(Made {
        net: get(flags.contains(UnshareFlags::NEWNET), "net")?,
        ipc: get(flags.contains(UnshareFlags::NEWIPC), "ipc")?,
        uts: get(flags.contains(UnshareFlags::NEWUTS), "uts")?,
        user: get(user, "user")?,
        root: None,
    })
}

/// Mounts an open namespace on a file, made for it or left by a boot before.
fn bind(namespace: &OwnedFd, target: &Path) -> Result<()> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .custom_flags(libc::O_NOFOLLOW)
        .open(target);
    match file {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            if is_namespace(target) {
                return Err(Error::Exists(target.to_owned()));
            }
        }
        Err(e) => return Err(Error::io("create", target)(e)),
    }
    let source = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(source, target).map_err(|errno| {
        let _ = std::fs::remove_file(target);
        Error::errno("hold namespace at", target)(errno)
    })
}

fn remove_now(dir: &Path) -> Result<()> {
    for kind in KINDS {
        release(&dir.join(kind))?;
    }
    match rustix::fs::rmdir(dir) {
        // Files of somebody else are theirs to delete.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::errno("delete", dir)(errno)),
    }
}

/// Takes every mount off a file and deletes it.
fn release(path: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Somebody has it open; the mount goes at once, the namespace when they are done.
            Err(Errno::BUSY) => {
                let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
                rustix::mount::unmount(path, flags).map_err(Error::errno("unmount", path))?;
            }
            // Not a mount, or not there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(Error::errno("unmount", path)(errno)),
        }
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::errno("delete", path)(errno)),
    }
}
