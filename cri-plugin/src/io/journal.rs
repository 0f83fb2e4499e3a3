//! How far the log has taken each stream, written down before and after each write to the log.
//!
//! One small record, overwritten in place: a write within a page is whole or not there, also where the daemon is killed.
//! It holds through the daemon's death, not through the machine's; with the machine the container has ended.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Output;

/// `wlj` and the version of the record.
const MAGIC: u64 = 0x776c_6a01;
const FIELDS: usize = 10;

/// A write to the log that has been begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    pub output: Output,
    /// Offset of the stream up to which the write brings the log.
    pub to: u64,
    /// The limit by which its lines were cut.
    pub limit: u64,
    /// The log file, and its size before.
    pub device: u64,
    pub inode: u64,
    pub before: u64,
    pub length: u64,
}

pub struct Journal {
    file: File,
    /// Offsets of standard output and error up to which the log has them.
    done: [u64; 2],
    pub intent: Option<Intent>,
    /// Whether the record on disk names an intent.
    open: bool,
}

impl Journal {
    pub fn create(path: &Path) -> io::Result<Journal> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut journal = Journal { file, done: [0; 2], intent: None, open: false };
        // From here on the record has its page: a full disk cannot refuse it.
        journal.write()?;
        Ok(journal)
    }

    pub fn open(path: &Path) -> io::Result<Journal> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let mut bytes = [0; FIELDS * 8];
        file.read_exact_at(&mut bytes, 0)?;
        let mut fields = [0; FIELDS];
        for (field, bytes) in fields.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *field = u64::from_le_bytes(*bytes);
        }
        let [magic, stdout, stderr, output, to, limit, device, inode, before, length] = fields;
        if magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a journal of this version"));
        }
        let output = match output {
            1 => Some(Output::Stdout),
            2 => Some(Output::Stderr),
            _ => None,
        };
        let intent = output.map(|output| Intent { output, to, limit, device, inode, before, length });
        Ok(Journal { file, done: [stdout, stderr], open: intent.is_some(), intent })
    }

    pub fn done(&self, output: Output) -> u64 {
        self.done[output as usize]
    }

    /// Writes down that a write begins.
    pub fn begin(&mut self, intent: Intent) -> io::Result<()> {
        self.intent = Some(intent);
        self.write()
    }

    /// The write has ended, as far as it ever will. The record follows with the next write or [`Journal::settle`].
    pub fn end(&mut self, output: Output, to: u64) {
        self.done[output as usize] = to;
        self.intent = None;
    }

    /// Brings the record up to date.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.open { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut fields = [MAGIC, self.done[0], self.done[1], 0, 0, 0, 0, 0, 0, 0];
        if let Some(intent) = self.intent {
            let Intent { output, to, limit, device, inode, before, length } = intent;
            fields[3..].copy_from_slice(&[output as u64 + 1, to, limit, device, inode, before, length]);
        }
        let mut bytes = [0; FIELDS * 8];
        for (bytes, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *bytes = field.to_le_bytes();
        }
        self.file.write_all_at(&bytes, 0)?;
        self.open = self.intent.is_some();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        let intent = Intent {
            output: Output::Stderr,
            to: 70,
            limit: 5,
            device: 1,
            inode: u64::MAX,
            before: 9,
            length: 3,
        };
        journal.end(Output::Stdout, 12);
        journal.begin(intent).unwrap();
        let mut again = Journal::open(&path).unwrap();
        assert_eq!(
            (again.done(Output::Stdout), again.done(Output::Stderr), again.intent),
            (12, 0, Some(intent))
        );
        again.end(Output::Stderr, 70);
        again.settle().unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.done(Output::Stdout), again.done(Output::Stderr), again.intent), (12, 70, None));
        std::fs::write(&path, [7; 200]).unwrap();
        assert!(Journal::open(&path).is_err());
        std::fs::write(&path, b"").unwrap();
        assert!(Journal::open(&path).is_err());
    }
}
