//! Tar archives, read and written: POSIX ustar and PAX, GNU long names and sparse files, star.
//!
//! The reader takes any bytes: it bounds everything that it keeps and reads an archive as Go's `archive/tar` does, so that
//! no other tool sees different files in it. The file system is none of its business.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Reader, bounded};
pub use writer::Writer;

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Longest extended header or GNU long name, in bytes (Go's bound).
pub const MAX_SPECIAL: u64 = 1 << 20;
/// Longest path, in bytes (Linux' bound).
pub const MAX_PATH: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid tar: {0}")]
    Invalid(String),
    #[error("read layer")]
    Read(#[source] std::io::Error),
}

impl Error {
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// Seconds since 1970, and nanoseconds of that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

/// An extent of a sparse file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub len: u64,
}

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// As in the archive; without zero bytes and within [`MAX_PATH`].
    pub name: Vec<u8>,
    /// Of links.
    pub link: Vec<u8>,
    /// Bytes of a file, holes included.
    pub size: u64,
    /// Permissions, setuid, setgid and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data of a sparse file goes; its parts follow each other in the archive.
    pub sparse: Option<Vec<Extent>>,
}
