//! One group directory and its control files.

use crate::error::{Context, Result};
use crate::sys::{errno, file};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Control files are small; `cgroup.procs` of a large group is the largest.
const MAX_FILE: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(path: impl Into<PathBuf>) -> Dir {
        Dir(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn open(&self) -> Result<OwnedFd> {
        file::open(&self.0, libc::O_RDONLY | libc::O_DIRECTORY, 0).at("open cgroup", &self.0)
    }

    pub fn try_write(&self, name: &str, value: impl AsRef<[u8]>) -> io::Result<()> {
        file::write_file_at(file::cwd(), self.0.join(name), value.as_ref())
    }

    pub fn write(&self, name: &str, value: impl AsRef<str>) -> Result<()> {
        let value = value.as_ref();
        self.try_write(name, value).map_err(|source| crate::error::Error::Control {
            path: self.0.join(name),
            value: value.to_string(),
            source,
        })
    }

    pub fn try_read(&self, name: &str) -> io::Result<String> {
        let fd = file::open(self.0.join(name), libc::O_RDONLY, 0)?;
        let data = file::read_all(fd, MAX_FILE)?;
        String::from_utf8(data).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub fn read(&self, name: &str) -> Result<String> {
        self.try_read(name).at("read", self.0.join(name))
    }

    /// A single number; `max` is `u64::MAX`, and so is what cannot be read as one.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.try_read(name).ok()?;
        Some(parse_number(text.trim()))
    }

    pub fn exists(&self, name: &str) -> bool {
        file::fstatat(file::cwd(), self.0.join(name), 0).is_ok()
    }

    /// The processes of this group and of all below it.
    pub fn pids_below(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        self.walk(&mut |dir| {
            let text = match dir.try_read("cgroup.procs") {
                Ok(text) => text,
                // Gone, or (v2) a threaded group, whose processes are listed further up.
                Err(e) if matches!(errno(&e), libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => {
                    return Ok(());
                }
                Err(e) => return Err(e).at("read", dir.0.join("cgroup.procs")),
            };
            // 0 stands for a process that this pid namespace does not see.
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0));
            Ok(())
        })?;
        Ok(super::unique(pids))
    }

    /// Calls `visit` for this group and all below it, children first.
    fn walk(&self, visit: &mut dyn FnMut(&Dir) -> Result<()>) -> Result<()> {
        for child in self.children() {
            child.walk(visit)?;
        }
        visit(self)
    }

    fn children(&self) -> Vec<Dir> {
        // The link count tells whether there is anything to list: most groups have no children.
        match file::fstatat(file::cwd(), &self.0, 0) {
            Ok(stat) if stat.st_nlink > 2 => {}
            _ => return Vec::new(),
        }
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| Dir(e.path())).collect()
    }

    /// Makes the directory and its parents; `made` sees each new one, parents first.
    pub fn create(&self, made: &mut dyn FnMut(&Dir) -> Result<()>) -> Result<()> {
        match file::mkdir(&self.0, 0o755) {
            Ok(()) => made(self),
            Err(e) if errno(&e) == libc::EEXIST => Ok(()),
            Err(e) if errno(&e) == libc::ENOENT => {
                if let Some(parent) = self.0.parent() {
                    Dir::new(parent).create(made)?;
                }
                match file::mkdir(&self.0, 0o755) {
                    Ok(()) => made(self),
                    Err(e) if errno(&e) == libc::EEXIST => Ok(()),
                    Err(e) => Err(e).at("create cgroup", &self.0),
                }
            }
            Err(e) => Err(e).at("create cgroup", &self.0),
        }
    }

    /// Removes this group and all below it; what is gone already is fine.
    pub fn remove_tree(&self) -> Result<()> {
        match file::rmdir(&self.0) {
            Ok(()) => return Ok(()),
            Err(e) if errno(&e) == libc::ENOENT => return Ok(()),
            Err(_) => {}
        }
        self.walk(&mut |dir| dir.remove())
    }

    fn remove(&self) -> Result<()> {
        // EBUSY passes as soon as the last process has left the scheduler, which no event tells of on v1; the wait is a
        // bounded back-off in `ppoll`, 2 s in all.
        for round in 0..12u32 {
            match file::rmdir(&self.0) {
                Ok(()) => return Ok(()),
                Err(e) if errno(&e) == libc::ENOENT => return Ok(()),
                Err(e) if errno(&e) == libc::EBUSY && round < 11 => {
                    crate::sys::process::pause_for(Duration::from_micros(500 << round));
                }
                Err(e) => return Err(e).at("remove cgroup", &self.0),
            }
        }
        Ok(())
    }
}

/// A number as control files write it; `max` and nonsense are `u64::MAX`, negative numbers 0.
pub fn parse_number(text: &str) -> u64 {
    if text.starts_with('-') {
        return 0;
    }
    text.parse().unwrap_or(u64::MAX)
}

/// The value of `key` in a file of `key value` lines.
pub fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| parse_number(value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_fields() {
        assert_eq!(parse_number("max"), u64::MAX);
        assert_eq!(parse_number("-1"), 0);
        assert_eq!(field("anon 5\nfile 7\n", "file"), Some(7));
        assert_eq!(field("anon 5\n", "fil"), None);
    }
}
