//! Which namespaces a container gets, and how its first process gets into them.
//!
//! New ones come with the clone itself, all at once, but for two: a cgroup namespace shows the group one is in when
//! making it, so it waits until the process is in its own; and a time namespace takes its offsets only while it is empty.
//! A pid namespace that is joined is entered by the caller for the moment of the clone. A user namespace takes the
//! host's rights away, so when one is involved and others are joined, an intermediate process joins them first and
//! clones the real one as its sibling.

use crate::error::{Context, Error, Result};
use crate::spec::{Linux, NamespaceKind};
use crate::sys::file;
use crate::sys::process::{self, CLONE_NEWTIME, Clone};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

#[derive(Debug, Default)]
pub struct Namespaces {
    /// Made by the clone.
    pub made: u64,
    pub make_cgroup: bool,
    pub make_time: bool,
    joined: Vec<(i32, OwnedFd)>,
    joined_pid: Option<OwnedFd>,
    joined_user: Option<OwnedFd>,
}

pub fn flag(kind: NamespaceKind) -> i32 {
    match kind {
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => CLONE_NEWTIME,
    }
}

impl Namespaces {
    pub fn plan(linux: &Linux) -> Result<Namespaces> {
        let mut plan = Namespaces::default();
        for namespace in &linux.namespaces {
            let kind = namespace.kind;
            if namespace.path.is_empty() {
                match kind {
                    NamespaceKind::Cgroup => plan.make_cgroup = true,
                    NamespaceKind::Time => plan.make_time = true,
                    _ => plan.made |= flag(kind) as u64,
                }
                continue;
            }
            let fd = file::open(&namespace.path, libc::O_RDONLY | libc::O_NONBLOCK, 0)
                .at("open namespace", &namespace.path)?;
            check_kind(&fd, kind, &namespace.path)?;
            match kind {
                NamespaceKind::Pid => plan.joined_pid = Some(fd),
                // Joining one's own user namespace is refused by the kernel, and is nothing to do.
                NamespaceKind::User if same(&fd, "/proc/self/ns/user") => {}
                NamespaceKind::User => plan.joined_user = Some(fd),
                _ => plan.joined.push((flag(kind), fd)),
            }
        }
        Ok(plan)
    }

    pub fn joined_user(&self) -> Option<BorrowedFd<'_>> {
        self.joined_user.as_ref().map(|fd| fd.as_fd())
    }

    pub fn makes_user(&self) -> bool {
        self.made & libc::CLONE_NEWUSER as u64 != 0
    }

    /// An intermediate process is needed.
    pub fn staged(&self) -> bool {
        self.joined_user.is_some()
            || self.makes_user() && (!self.joined.is_empty() || self.joined_pid.is_some())
    }

    pub fn raw_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.joined
            .iter()
            .map(|(_, fd)| fd.as_raw_fd())
            .chain(self.joined_user.iter().map(|fd| fd.as_raw_fd()))
    }

    /// Makes the first process: with its namespaces, or, when staged, the intermediate one without any.
    ///
    /// # Safety
    /// The calling process must be single-threaded.
    pub unsafe fn clone(&self, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone> {
        let made = if self.staged() { 0 } else { self.made };
        // SAFETY: the caller promises it.
        unsafe { clone_in_pid_namespace(self.joined_pid.as_ref().map(|fd| fd.as_fd()), made, cgroup) }
    }

    /// In the child: enters what is joined.
    pub fn join(&self) -> Result<()> {
        for (flag, fd) in &self.joined {
            process::setns(fd, *flag).op("join namespace")?;
        }
        if let Some(fd) = &self.joined_user {
            process::setns(fd, libc::CLONE_NEWUSER).op("join user namespace")?;
        }
        Ok(())
    }
}

fn same(fd: &OwnedFd, path: &str) -> bool {
    match (file::fstat(fd), file::fstatat(file::cwd(), path, 0)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

fn check_kind(fd: &OwnedFd, kind: NamespaceKind, path: &str) -> Result<()> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let found = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    if found == flag(kind) {
        return Ok(());
    }
    Err(Error::Spec(format!("{path} is not a {} namespace", format!("{kind:?}").to_lowercase())))
}

/// A clone whose child lives in another pid namespace. The calling process never does: only its children would, and it
/// takes that back at once.
///
/// # Safety
/// The calling process must be single-threaded.
pub unsafe fn clone_in_pid_namespace(
    namespace: Option<BorrowedFd<'_>>,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Clone> {
    let Some(namespace) = namespace else {
        // SAFETY: the caller promises it.
        return unsafe { process::clone3(flags, cgroup, false) }.op("clone3");
    };
    let own = "/proc/self/ns/pid";
    let own = file::open(own, libc::O_RDONLY, 0).at("open namespace", own)?;
    process::setns(namespace, libc::CLONE_NEWPID).op("join pid namespace")?;
    // The child is in sight of those inside from its first moment, so it must be born undumpable.
    let dumpable = process::prctl(libc::PR_GET_DUMPABLE, 0, 0).unwrap_or(0);
    let undumpable = process::prctl(libc::PR_SET_DUMPABLE, 0, 0).op("become undumpable");
    // SAFETY: the caller promises it.
    let cloned = undumpable.and_then(|_| unsafe { process::clone3(flags, cgroup, false) }.op("clone3"));
    if matches!(cloned, Ok(Clone::Child)) {
        return cloned;
    }
    if dumpable == 1 {
        // It was so before; that it cannot be so again would harm nobody.
        let _ = process::prctl(libc::PR_SET_DUMPABLE, 1, 0);
    }
    if let Err(error) = process::setns(&own, libc::CLONE_NEWPID).op("return to own pid namespace") {
        if let Ok(Clone::Parent { pidfd, .. }) = &cloned {
            // Nobody would look after it.
            let _ = process::pidfd_signal(pidfd, libc::SIGKILL);
            let _ = process::reap(pidfd);
        }
        return Err(error);
    }
    cloned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Linux;

    fn plan(json: &str) -> Result<Namespaces> {
        Namespaces::plan(&serde_json::from_str::<Linux>(&format!(r#"{{"namespaces":{json}}}"#)).unwrap())
    }

    #[test]
    fn what_is_made_and_what_is_joined() {
        let p = plan(r#"[{"type":"pid"},{"type":"mount"},{"type":"cgroup"},{"type":"network","path":"/proc/self/ns/net"}]"#)
            .unwrap();
        assert_eq!(p.made, (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
        assert!(p.make_cgroup && !p.staged() && p.joined.len() == 1);
        let p = plan(r#"[{"type":"user"},{"type":"network","path":"/proc/self/ns/net"}]"#).unwrap();
        assert!(p.staged());
        let p = plan(r#"[{"type":"user","path":"/proc/self/ns/user"}]"#).unwrap();
        assert!(!p.staged());
    }

    #[test]
    fn wrong_paths_are_refused() {
        assert!(plan(r#"[{"type":"network","path":"/proc/self/ns/ipc"}]"#).is_err());
        assert!(plan(r#"[{"type":"network","path":"/etc/passwd"}]"#).is_err());
        assert!(plan(r#"[{"type":"network","path":"/nowhere"}]"#).is_err());
    }
}
