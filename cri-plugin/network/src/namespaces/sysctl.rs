//! Kernel parameters of namespaces: names, values, and writing them from inside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

use super::Wanted;
use crate::error::{Error, Result};

/// Longest value: the kernel takes a page.
const MAX_VALUE: usize = 4095;

/// Refuses what is not a name, not a value, or not of a namespace that the pod has for itself.
pub(super) fn validate(name: &str, value: &str, wanted: &Wanted<'_>) -> Result<()> {
    let path = path(name)?;
    let unfit = |b: u8| (b < b' ' && b != b'\t') || matches!(b, b'+' | b';' | 0x7f..);
    if value.len() > MAX_VALUE || value.bytes().any(unfit) {
        return Err(Error::invalid("value of sysctl", name, "it is too long or has a separator in it"));
    }
    let owned = match Owner::of(&path) {
        Some(Owner::Net) => wanted.net,
        Some(Owner::Ipc) => wanted.ipc,
        Some(Owner::Uts) => wanted.uts,
        None => return Err(Error::invalid("sysctl", name, "it belongs to no namespace of a pod")),
    };
    if owned {
        Ok(())
    } else {
        Err(Error::invalid("sysctl", name, "the pod shares its namespace with the host"))
    }
}

enum Owner {
    Net,
    Ipc,
    Uts,
}

impl Owner {
    fn of(path: &Path) -> Option<Self> {
        let path = path.to_str()?;
        let rest = path.strip_prefix("kernel/");
        match (path, rest) {
            _ if path.starts_with("net/") => Some(Self::Net),
            _ if path.starts_with("fs/mqueue/") => Some(Self::Ipc),
            (_, Some("domainname")) => Some(Self::Uts),
            (_, Some("sem")) => Some(Self::Ipc),
            (_, Some(name)) if name.starts_with("shm") || name.starts_with("msg") => Some(Self::Ipc),
            _ => None,
        }
    }
}

/// The place below /proc/sys of a name: dots separate unless a slash comes first, and then the other of the two is
/// an ordinary character (`net.ipv4.conf.eth0/1.forwarding`).
pub(super) fn path(name: &str) -> Result<PathBuf> {
    let swap = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let path: String = match swap {
        true => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        false => name.to_owned(),
    };
    let fit = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        !matches!(part, "" | "." | "..") && part.bytes().all(plain)
    };
    if name.len() > 255 || !path.contains('/') || !path.split('/').all(fit) {
        return Err(Error::invalid("sysctl", name, "it is not a name of a kernel parameter"));
    }
    Ok(path.into())
}

/// Writes the values in this thread's namespaces, by `root` where they let no one else.
pub(super) fn set(sysctls: &[(PathBuf, String)], root: Option<(u32, u32)>) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let base =
        rustix::fs::open("/proc/sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::errno("open", "/proc/sys"))?;
    for (path, value) in sysctls {
        let attempt = || -> io::Result<()> {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve)?;
            // One write: the kernel reads a value from nothing else.
            match rustix::io::write(&file, value.as_bytes())? {
                n if n == value.len() => Ok(()),
                _ => Err(io::ErrorKind::WriteZero.into()),
            }
        };
        let outcome = match (attempt(), root) {
            (Err(e), Some(root)) if e.kind() == io::ErrorKind::PermissionDenied => as_root_of(root, attempt),
            (outcome, _) => outcome,
        };
        outcome.map_err(|source| Error::Sysctl { name: path.display().to_string(), source })?;
    }
    Ok(())
}

/// Does something as the root of a user namespace that this thread is not in: parameters of IPC let only that id
/// write. Changes this thread alone.
fn as_root_of(root: (u32, u32), work: impl Fn() -> io::Result<()>) -> io::Result<()> {
    // Such a change marks the whole process as one that must not be looked into; what it was before is put back.
    static BEFORE: OnceLock<Option<DumpableBehavior>> = OnceLock::new();
    let before = *BEFORE.get_or_init(|| dumpable_behavior().ok());
    let (uid, gid) = (Uid::from_raw(root.0), Gid::from_raw(root.1));
    let (own_uid, own_gid) = (rustix::process::geteuid(), rustix::process::getegid());
    set_thread_res_gid(None, gid, None)?;
    let outcome = set_thread_res_uid(None, uid, None).map_err(io::Error::from).and_then(|()| {
        let outcome = work();
        set_thread_res_uid(None, own_uid, None)?;
        outcome
    });
    let restored = set_thread_res_gid(None, own_gid, None);
    if let Some(before) = before {
        let _ = set_dumpable_behavior(before);
    }
    outcome.and(restored.map_err(|errno: Errno| errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<()> {
        validate(name, value, &Wanted { net: true, ipc: true, ..Wanted::default() })
    }

    #[test]
    fn names_become_paths() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), Path::new("net/ipv4/ip_forward"));
        assert_eq!(path("net/ipv4/ip_forward").unwrap(), Path::new("net/ipv4/ip_forward"));
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding").unwrap(),
            Path::new("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            Path::new("net/ipv4/conf/eth0.1/forwarding")
        );
        for name in
            ["", "net", "net..x", "/net/x", "net/../kernel/x", "net/x/./y", "net.a b", "net.x\n", "net/a+b"]
        {
            assert!(path(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_what_a_pod_owns() {
        for (name, value) in [
            ("net.ipv4.ip_local_port_range", "1024\t65000"),
            ("net.ipv4.ip_local_reserved_ports", "8080,9000-9010"),
            ("kernel.shm_rmid_forced", "1"),
            ("kernel.msgmax", "8192"),
            ("kernel.sem", "250 32000 100 128"),
            ("fs.mqueue.msg_max", "20"),
        ] {
            check(name, value).unwrap();
        }
        for (name, value) in [
            ("kernel.core_pattern", "|/x"),
            ("kernel.domainname", "no-uts-here"),
            ("vm.swappiness", "1"),
            ("fs.file-max", "1"),
            ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x"),
            ("net.ipv4.ip_forward", "1+kernel.shm_rmid_forced=1"),
        ] {
            assert!(check(name, value).is_err(), "{name}");
        }
        let shared = Wanted { ipc: true, ..Wanted::default() };
        assert!(validate("net.ipv4.ip_forward", "1", &shared).is_err());
    }
}
