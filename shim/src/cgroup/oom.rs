//! News of OOM kills: an eventfd on version 1, an inotify watch of `memory.events` on version 2.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

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
    /// Kills in the group above and in all that are below it, when this group's were last counted. Version 2 alone.
    above: Cell<u64>,
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
            if let Some(above) = dir.parent() {
                // The machine's root has none; then there is one thing less to go by.
                let _ = inotify::add_watch(&fd, above.join("memory.events"), WatchFlags::MODIFY);
            }
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
        let events = OomEvents { fd, dir, unified, kills: Cell::new(0), above: Cell::new(0) };
        events.above.set(events.count_above());
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
        // First, so that a kill in between is rather told twice than never.
        self.above.set(self.count_above());
        let kills = self.count();
        Ok(if kills > self.kills.replace(kills) { News::Killed } else { News::Nothing })
    }

    /// Whether there was a kill that no news were of yet, asked when the container has ended; `sigkill`: by that signal.
    ///
    /// Version 2 holds notifications back for up to 10 ms after another one, and a limit that is hit is told of before the
    /// kill: the count is looked at in any case. Where systemd has removed the group already, the count of the one above
    /// tells, as the kills of all others were seen when they were.
    pub fn last(&self, sigkill: bool) -> bool {
        if matches!(self.take(), Ok(News::Killed)) {
            return true;
        }
        if self.unified && !self.dir.is_dir() {
            let above = self.count_above();
            return above > self.above.replace(above) && sigkill;
        }
        let kills = self.count();
        kills > self.kills.replace(kills)
    }

    fn count(&self) -> u64 {
        if self.unified { kills(&self.dir) } else { 0 }
    }

    fn count_above(&self) -> u64 {
        self.dir.parent().filter(|_| self.unified).map_or(0, kills)
    }
}

/// Kills in a group and in all below it. A group that is gone has none.
fn kills(dir: &Path) -> u64 {
    let mut kills = 0;
    pairs(dir, "memory.events", |name, value| {
        if name == "oom_kill" {
            kills = value;
        }
    });
    kills
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_is_not_notified_yet_is_found_at_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let above = std::env::temp_dir().join(format!("windlass-oom-{}", std::process::id()));
        let dir = above.join("own");
        std::fs::create_dir_all(&dir).unwrap();
        let write = |dir: &Path, kills: u32| {
            std::fs::write(dir.join("memory.events"), format!("max 1\noom_kill {kills}\n")).unwrap();
        };
        write(&dir, 1);
        write(&above, 3);
        let events = OomEvents::of(&Cgroup::V2(dir.clone())).unwrap();
        assert!(!events.last(true), "that was before");
        // Another file in its place is no change of the one that is watched, as long as that one is somewhere.
        std::fs::hard_link(dir.join("memory.events"), dir.join("kept")).unwrap();
        std::fs::write(dir.join("new"), "max 1\noom_kill 2\n").unwrap();
        std::fs::rename(dir.join("new"), dir.join("memory.events")).unwrap();
        assert_eq!(events.take().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(events.last(false));
        assert!(!events.last(true), "it is told once");
        // One of a neighbour's.
        write(&above, 4);
        assert_eq!(events.take().unwrap(), News::Nothing);
        // The group goes before anybody has looked.
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!events.last(true), "nothing has been killed since");
        write(&above, 5);
        assert!(events.last(true));
        write(&above, 6);
        assert!(!events.last(false), "it has ended by itself");
        std::fs::remove_dir_all(&above).unwrap();
    }
}
