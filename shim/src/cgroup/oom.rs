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
