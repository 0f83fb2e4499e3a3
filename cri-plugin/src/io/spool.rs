//! What has come out of a fifo and has not gone into the log: an endless file, addressed by the stream's own offsets.
//!
//! Bytes go from the fifo into it by `splice`, so at every moment, also at that of a SIGKILL, a byte is in exactly one of
//! the two, and the file's size says how far the stream has been read. What the log has is punched out; an idle stream
//! keeps a page at most.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::pipe::{SpliceFlags, splice};

const PAGE: u64 = 4096;

pub struct Spool {
    path: PathBuf,
    /// `None` until there was a byte, or where it cannot be opened.
    file: Option<File>,
    size: u64,
    /// Up to here nothing is kept; a multiple of a page.
    punched: u64,
}

impl Spool {
    /// The spool at `path`, which need not exist.
    pub fn open(path: PathBuf) -> io::Result<Spool> {
        let mut spool = Spool { path, file: None, size: 0, punched: 0 };
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&spool.path) {
            Ok(file) => {
                spool.size = file.metadata()?.len();
                spool.file = Some(file);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(spool)
    }

    /// The stream's offset up to which it has been read.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn file(&mut self) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }

    /// Takes up to `length` bytes out of the fifo; 0 is the stream's end, `WouldBlock` an empty fifo. After any other
    /// error nothing has been taken.
    pub fn fill(&mut self, fifo: &OwnedFd, length: usize) -> io::Result<usize> {
        let mut offset = self.size;
        let file = self.file()?.as_fd();
        loop {
            match splice(fifo, None, file, Some(&mut offset), length, SpliceFlags::NONBLOCK) {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(count) => {
                    self.size = offset;
                    return Ok(count);
                }
            }
        }
    }

    /// Appends the bytes from `from` to the end to `buffer`.
    pub fn read(&self, from: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        let (Some(file), Some(length)) = (&self.file, self.size.checked_sub(from)) else { return Ok(()) };
        let start = buffer.len();
        buffer.resize(start + usize::try_from(length).map_err(io::Error::other)?, 0);
        std::os::unix::fs::FileExt::read_exact_at(file, &mut buffer[start..], from)
            .inspect_err(|_| buffer.truncate(start))
    }

    /// Gives back the memory of what is before `done`.
    pub fn free(&mut self, done: u64) {
        // A line or two is not worth a call.
        if done < self.punched + PAGE {
            return;
        }
        let start = done & !(PAGE - 1);
        let end = if done == self.size { done.next_multiple_of(PAGE) } else { start };
        if let Some(file) = &self.file {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system that cannot do it keeps the bytes until the container goes.
            let _unsupported = fallocate(file, mode, self.punched, end - self.punched);
        }
        self.punched = start;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn keeps_what_is_not_done_and_nothing_else() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("spool");
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let mut spool = Spool::open(path.clone()).unwrap();
        assert!(!path.exists());
        assert_eq!(spool.fill(&read, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut total = 0u64;
        for round in 0..200u8 {
            rustix::io::write(&write, &[round; 5000]).unwrap();
            assert_eq!(spool.fill(&read, 100_000).unwrap(), 5000);
            total += 5000;
            let mut bytes = Vec::new();
            spool.read(total - 5000, &mut bytes).unwrap();
            assert_eq!(bytes, [round; 5000]);
            spool.free(total - 1);
            assert!(path.metadata().unwrap().blocks() <= 16, "at most two pages");
        }
        spool.free(total);
        assert_eq!((path.metadata().unwrap().blocks(), spool.size()), (8, total), "one page");
        // Whoever opens it again goes on where it ended.
        rustix::io::write(&write, b"more").unwrap();
        drop(write);
        let mut spool = Spool::open(path).unwrap();
        assert_eq!((spool.size(), spool.fill(&read, 100).unwrap()), (total, 4));
        let mut bytes = Vec::new();
        spool.read(total, &mut bytes).unwrap();
        assert_eq!(bytes, b"more");
        assert_eq!(spool.fill(&read, 100).unwrap(), 0);
    }
}
