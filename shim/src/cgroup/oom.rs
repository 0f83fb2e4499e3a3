//! News of OOM kills: an eventfd on version 1, an inotify watch of `memory.events` on version 2.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, open};

use super::{Cgroup, pairs};
use crate::error::{Context, Error, Result};
use crate::readiness::{self, Ready};

pub struct OomEvents {
    fd: Ready,
    dir: PathBuf,
    unified: bool,
    kills: Cell<u64>,
}

/// What a look at the descriptor found.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Nothing,
    Killed,
    /// The group has gone.
    Over,
}

impl OomEvents {
    pub fn of(cgroup: &Cgroup) -> Result<OomEvents> {
        let dir = cgroup.controller("memory").ok_or_else(|| Error::not_found("no memory cgroup"))?.to_owned();
        let unified = matches!(cgroup, Cgroup::V2(_));
        let fd = if unified {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).op("make inotify")?;
            let file = dir.join("memory.events");
            inotify::add_watch(&fd, &file, WatchFlags::MODIFY).at("watch", file)?;
            fd
        } else {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).op("make eventfd")?;
            let file = dir.join("memory.oom_control");
            let control = open(&file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", file)?;
            let file = dir.join("cgroup.event_control");
            let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
            std::fs::write(&file, line).at("write", file)?;
            fd
        };
        let fd = readiness::readable(fd).op("watch descriptor")?;
        let events = OomEvents { fd, dir, unified, kills: Cell::new(0) };
        events.kills.set(events.count());
        Ok(events)
    }

    /// Waits for news.
    pub async fn next(&self) -> io::Result<News> {
        loop {
            let mut guard = self.fd.readable().await?;
            if let Ok(news) = guard.try_io(|_| self.take()) {
                return news;
            }
        }
    }

    /// What is known at this moment; `WouldBlock` if there is no news.
    pub fn take(&self) -> io::Result<News> {
        let mut buffer = [MaybeUninit::uninit(); 256];
        rustix::io::read(self.fd.get_ref(), &mut buffer[..])?;
        // The end of the group is news as well.
        if !self.dir.is_dir() {
            return Ok(News::Over);
        }
        if !self.unified {
            return Ok(News::Killed);
        }
        let kills = self.count();
        Ok(if kills > self.kills.replace(kills) { News::Killed } else { News::Nothing })
    }

    /// Whether there was a kill that no news were of yet, asked when the container has ended. Version 2 holds
    /// notifications back for up to 10 ms after another one, and a limit that is hit is told of before the kill: the count
    /// is looked at in any case.
    pub fn last(&self) -> bool {
        if matches!(self.take(), Ok(News::Killed)) {
            return true;
        }
        let kills = self.count();
        kills > self.kills.replace(kills)
    }

    fn count(&self) -> u64 {
        let mut kills = 0;
        if self.unified {
            pairs(&self.dir, "memory.events", |name, value| {
                if name == "oom_kill" {
                    kills = value;
                }
            });
        }
        kills
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_is_not_notified_yet_is_found_at_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let dir = std::env::temp_dir().join(format!("windlass-oom-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("memory.events"), "max 1\noom_kill 1\n").unwrap();
        let events = OomEvents::of(&Cgroup::V2(dir.clone())).unwrap();
        assert!(!events.last(), "that was before");
        // Another file in its place is no change of the one that is watched, as long as that one is somewhere.
        std::fs::hard_link(dir.join("memory.events"), dir.join("kept")).unwrap();
        std::fs::write(dir.join("new"), "max 1\noom_kill 2\n").unwrap();
        std::fs::rename(dir.join("new"), dir.join("memory.events")).unwrap();
        assert_eq!(events.take().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(events.last());
        assert!(!events.last(), "it is told once");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!events.last());
    }
}
