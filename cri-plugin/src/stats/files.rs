//! Small files of the kernel, read whole into one buffer and never trusted: what is missing, too long or no number is
//! told as absent.
//!
//! Most of the price of such a file is the way to it, so that the beginnings of paths are kept open.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Longer files are not read. `io.stat` of a machine with a thousand disks fits.
const LIMIT: usize = 256 << 10;
/// What nearly all files fit into.
const USUAL: usize = 8 << 10;
/// A shorter piece is the last one: the kernel hands such files out in pages, as far as whole lines fit.
const LAST: usize = 2 << 10;

/// Reads files of one directory after the other.
pub struct Reader {
    /// Beginnings of paths; those that are not there too.
    bases: Vec<(Vec<u8>, Option<OwnedFd>)>,
    base: usize,
    /// What comes after the base, up to `dir` that of a directory.
    path: Vec<u8>,
    dir: usize,
    text: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { bases: Vec::new(), base: 0, path: Vec::with_capacity(256), dir: 0, text: vec![0; USUAL] }
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Reader {
    /// Turns to a directory: `below` a base that many share, which is given in parts that are joined as they are.
    pub fn enter(&mut self, base: &[&str], below: &str) {
        let known = |(name, _): &(Vec<u8>, Option<OwnedFd>)| {
            let rest = base.iter().try_fold(&name[..], |rest, part| rest.strip_prefix(part.as_bytes()));
            rest.is_some_and(<[u8]>::is_empty)
        };
        self.base = self.bases.iter().position(known).unwrap_or_else(|| {
            let name = base.concat().into_bytes();
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = rustix::fs::open(path(&name), flags, Mode::empty()).ok();
            self.bases.push((name, open));
            self.bases.len() - 1
        });
        self.path.clear();
        self.path.extend_from_slice(below.trim_matches('/').as_bytes());
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.dir = self.path.len();
    }

    /// The directory that was turned to.
    pub fn directory(&self) -> PathBuf {
        let base = self.bases.get(self.base).map_or(Path::new(""), |(name, _)| path(name));
        base.join(path(&self.path[..self.dir]))
    }

    /// A file's text.
    pub fn text(&mut self, name: &str) -> Option<&str> {
        let (_, base) = self.bases.get(self.base)?;
        self.path.truncate(self.dir);
        self.path.extend_from_slice(name.as_bytes());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(base.as_ref()?, path(&self.path), flags, Mode::empty()).ok()?;
        let mut length = 0;
        loop {
            if length == self.text.len() {
                if length >= LIMIT {
                    return None;
                }
                self.text.resize(length * 2, 0);
            }
            match rustix::io::read(&file, &mut self.text[length..]) {
                Ok(read) => {
                    length += read;
                    if read < LAST {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        std::str::from_utf8(&self.text[..length]).ok()
    }

    /// A file that is one number.
    pub fn number(&mut self, name: &str) -> Option<u64> {
        number(self.text(name)?)
    }

    /// A file that is one limit; `None` for no limit too.
    pub fn limit(&mut self, name: &str) -> Option<u64> {
        self.number(name).and_then(limit)
    }
}

/// A number; `max` is the largest there is.
pub fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Lines of `name value`; others are passed over.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, number(value)?))
    })
}

/// A limit that limits: "none" is the largest number there is, which version 1 rounds down to whole pages.
pub fn limit(value: u64) -> Option<u64> {
    (value <= 1 << 62).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_turned_to() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().to_str().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/n"), "7\n").unwrap();
        std::fs::write(root.path().join("a/n"), "max").unwrap();
        let long: String = "a line of some length\n".repeat(1000);
        std::fs::write(root.path().join("long"), &long).unwrap();
        let mut reader = Reader::default();
        assert_eq!(reader.text("n"), None, "nowhere yet");
        reader.enter(&[base, "/", "a"], "/b");
        assert_eq!((reader.number("n"), reader.directory()), (Some(7), root.path().join("a/b/")));
        reader.enter(&[base, "/a"], "");
        assert_eq!((reader.number("n"), reader.limit("n"), reader.bases.len()), (Some(u64::MAX), None, 1));
        reader.enter(&[base], "");
        assert_eq!(reader.text("long"), Some(long.as_str()));
        assert_eq!(reader.text("none"), None);
        for _ in 0..2 {
            reader.enter(&[base, "/none"], "b");
            assert_eq!(reader.text("n"), None);
        }
        assert_eq!(reader.bases.len(), 3, "what is not there is not looked for again");
    }
}
