//! News of processes that the kernel killed for want of memory.

use super::dir::{Dir, field};
use crate::error::{Context, Result};
use crate::sys::{check, cstr, file};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Becomes readable (poll) when there may be news; then call [`OomEvents::drain`]. It does not keep the group alive.
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
    dir: Dir,
    file: &'static str,
    v1: bool,
    /// `oom_kill` as last seen.
    kills: u64,
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomEvents {
    pub(super) fn v1(dir: &Dir) -> Result<OomEvents> {
        const NAME: &str = "memory.oom_control";
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).into() })
            .op("eventfd")?;
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let path = dir.path().join(NAME);
        let control = file::open(&path, libc::O_RDONLY, 0).at("open", &path)?;
        dir.write("cgroup.event_control", format!("{} {}", fd.as_raw_fd(), control.as_raw_fd()))?;
        Ok(OomEvents::new(fd, dir, NAME))
    }

    pub(super) fn v2(dir: &Dir) -> Result<OomEvents> {
        const NAME: &str = "memory.events";
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK).into() })
            .op("inotify_init")?;
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let path = dir.path().join(NAME);
        let name = cstr(&path).at("watch", &path)?;
        // SAFETY: the path is NUL-terminated and outlives the call.
        check(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), libc::IN_MODIFY).into() })
            .at("watch", &path)?;
        Ok(OomEvents::new(fd, dir, NAME))
    }

    fn new(fd: OwnedFd, dir: &Dir, file: &'static str) -> OomEvents {
        let mut events = OomEvents { fd, dir: dir.clone(), file, v1: file == "memory.oom_control", kills: 0 };
        events.kills = events.count().unwrap_or(0);
        events
    }

    /// None when the group has gone.
    fn count(&self) -> Option<u64> {
        let text = self.dir.try_read(self.file).ok()?;
        Some(field(&text, "oom_kill").unwrap_or(0))
    }

    /// Takes what is pending without blocking; true when the group ran out of memory since the last call.
    pub fn drain(&mut self) -> Result<bool> {
        let mut buffer = [0u8; 4096];
        let mut rang = false;
        while file::read(&self.fd, &mut buffer).is_ok_and(|n| n > 0) {
            rang = true;
        }
        // Both ring when the group goes, too; then the file has gone before.
        let Some(kills) = self.count() else { return Ok(false) };
        // v1 rings before it kills and counts, and for nothing else. v2 rings for every counter, after counting.
        let more = if self.v1 { rang } else { kills > self.kills };
        self.kills = kills;
        Ok(more)
    }
}
