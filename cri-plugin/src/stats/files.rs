//! Small files of the kernel, read whole into one buffer and never trusted: what is missing, too long or no number is
//! told as absent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Longer files are not read. `io.stat` of a machine with a thousand disks fits.
const LIMIT: usize = 256 << 10;
/// What nearly all files fit into.
const USUAL: usize = 8 << 10;

/// Reads files of one directory after the other.
pub struct Reader {
    path: Vec<u8>,
    dir: usize,
    text: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { path: Vec::with_capacity(256), dir: 0, text: vec![0; USUAL] }
    }
}

impl Reader {
    /// Turns to a directory, given in parts that are joined as they are.
    pub fn enter(&mut self, parts: &[&str]) {
        self.path.clear();
        for part in parts {
            self.path.extend_from_slice(part.as_bytes());
        }
        self.path.push(b'/');
        self.dir = self.path.len();
    }

    /// The directory that was turned to.
    pub fn directory(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path[..self.dir]))
    }

    /// A file's text.
    pub fn text(&mut self, name: &str) -> Option<&str> {
        self.path.truncate(self.dir);
        self.path.extend_from_slice(name.as_bytes());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(Path::new(OsStr::from_bytes(&self.path)), flags, Mode::empty()).ok()?;
        let mut length = 0;
        loop {
            if length == self.text.len() {
                if length >= LIMIT {
                    return None;
                }
                self.text.resize(length * 2, 0);
            }
            match rustix::io::read(&file, &mut self.text[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
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
