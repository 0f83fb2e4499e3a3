//! Changes become members of the archive.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::same::attributes;
use crate::error::{Error, Result};
use crate::pipe;
use crate::tar::{self, Entry, Kind, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    Made,
}

/// A directory that was entered and whose member is written as soon as something in it has changed.
struct Pending {
    name: Vec<u8>,
    entry: Option<Entry>,
}

/// Names of one file.
#[derive(Default)]
struct Names {
    /// The one whose member has the data.
    written: Option<Vec<u8>>,
    /// Unchanged ones, with their directories: they are written as links once another one is.
    unchanged: Vec<(Vec<Entry>, Entry)>,
}

pub struct Emitter {
    out: tar::Writer<pipe::Writer>,
    /// Seconds since 1970 that no time is later than.
    not_after: Option<i64>,
    directories: Vec<Pending>,
    links: HashMap<(u64, u64), Names>,
    buffer: Vec<u8>,
}

fn write_failed(e: std::io::Error) -> Error {
    Error::Read(e)
}

impl Emitter {
    pub fn new(out: tar::Writer<pipe::Writer>, not_after: Option<SystemTime>) -> Self {
        let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        Self {
            out,
            not_after: not_after.map(seconds),
            directories: Vec::new(),
            links: HashMap::new(),
            buffer: vec![0; 64 << 10],
        }
    }

    pub fn finish(self) -> Result<pipe::Writer> {
        self.out.finish().map_err(write_failed)
    }

    /// What was in the lower tree is not in the upper one.
    pub fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let name = [&path[..at], b".wh.", &path[at..]].concat();
        self.parents()?;
        self.out.header(&Entry { name, ..Entry::empty() }).map_err(write_failed)
    }

    pub fn enter(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
        change: Change,
    ) -> Result<()> {
        let mut entry = self.entry(path, stat);
        entry.kind = Kind::Directory;
        entry.name.push(b'/');
        entry.xattrs = attributes(parent, name, path)?;
        self.directories.push(Pending { name: entry.name.clone(), entry: Some(entry) });
        if change == Change::Made { self.parents() } else { Ok(()) }
    }

    pub fn leave(&mut self) {
        self.directories.pop();
    }

    /// Writes the members of all directories on the way that have none yet.
    fn parents(&mut self) -> Result<()> {
        for directory in &mut self.directories {
            if let Some(entry) = directory.entry.take() {
                self.out.header(&entry).map_err(write_failed)?;
            }
        }
        Ok(())
    }

    /// Anything but a directory.
    pub fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
        change: Change,
    ) -> Result<()> {
        let mut entry = self.entry(path, stat);
        entry.kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            // A socket is nothing without its process.
            _ => return Ok(()),
        };
        let mut also = Vec::new();
        if stat.st_nlink > 1 {
            let names = self.links.entry((stat.st_dev, stat.st_ino)).or_default();
            if let Some(first) = &names.written {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                self.parents()?;
                return self.out.header(&entry).map_err(write_failed);
            }
            if change == Change::None {
                let above = self.directories.iter().filter_map(|d| d.entry.clone()).collect();
                names.unchanged.push((above, entry));
                return Ok(());
            }
            names.written = Some(path.to_vec());
            also = std::mem::take(&mut names.unchanged);
        } else if change == Change::None {
            return Ok(());
        }
        self.whole(parent, name, path, stat, entry)?;
        // Those on the way have been written with the file itself.
        let mut written: HashSet<Vec<u8>> = self.directories.iter().map(|d| d.name.clone()).collect();
        for (above, mut entry) in also {
            for directory in above {
                if written.insert(directory.name.clone()) {
                    self.out.header(&directory).map_err(write_failed)?;
                }
            }
            entry.kind = Kind::HardLink;
            entry.link = path.to_vec();
            self.out.header(&entry).map_err(write_failed)?;
        }
        Ok(())
    }

    fn whole(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
        mut entry: Entry,
    ) -> Result<()> {
        entry.xattrs = attributes(parent, name, path)?;
        match entry.kind {
            Kind::Symlink => {
                let link =
                    rustix::fs::readlinkat(parent, name, Vec::new()).map_err(Error::file("read", path))?;
                entry.link = link.into_bytes();
            }
            Kind::Char | Kind::Block => {
                entry.device = (rustix::fs::major(stat.st_rdev as _), rustix::fs::minor(stat.st_rdev as _));
            }
            _ => {}
        }
        self.parents()?;
        if entry.kind != Kind::File {
            return self.out.header(&entry).map_err(write_failed);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(Error::file("open", path))?;
        entry.size = stat.st_size as u64;
        self.out.header(&entry).map_err(write_failed)?;
        loop {
            match rustix::io::read(&file, &mut self.buffer[..]) {
                Ok(0) => return Ok(()),
                Ok(n) => self.out.data(&self.buffer[..n]).map_err(|e| changed(e, path))?,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::file("read", path)(e)),
            }
        }
    }

    /// Times in whole seconds, as layers have them everywhere.
    fn entry(&self, path: &[u8], stat: &Stat) -> Entry {
        let seconds = self.not_after.map_or(stat.st_mtime, |last| last.min(stat.st_mtime));
        Entry {
            name: path.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time { seconds, nanos: 0 },
            ..Entry::empty()
        }
    }
}

fn changed(e: std::io::Error, path: &[u8]) -> Error {
    if e.kind() == std::io::ErrorKind::BrokenPipe { Error::Read(e) } else { Error::file("read", path)(e) }
}
