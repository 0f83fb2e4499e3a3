//! Archives of plain files, as they are written here: POSIX headers with short names, no owners and no times. [`read`]
//! takes such archives apart, those of other programs too.

pub mod read;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// A tar's unit.
pub const BLOCK: usize = 512;
/// Longest name that a header holds.
const NAME: usize = 100;
/// Size from which on eleven octal digits do not do.
const LARGE: u64 = 1 << 33;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

/// The header of an entry. The name must be short enough, as those of [`directory`] are made sure to be.
pub fn header(name: &str, size: u64, kind: Kind, mode: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    if size < LARGE {
        put(124, format!("{size:011o}").as_bytes());
    } else {
        // GNU's form of larger numbers, which every tar reads.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, if kind == Kind::File { b"0" } else { b"5" });
    put(257, b"ustar\0");
    put(263, b"00");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Writes the regular files and directories below `dir`, names in order; anything else is left out. Blocks.
pub fn directory(to: &mut impl Write, dir: &Path) -> io::Result<()> {
    below(to, dir, "")?;
    to.write_all(&[0; 2 * BLOCK])
}

fn below(to: &mut impl Write, dir: &Path, prefix: &str) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if name.len() >= NAME {
            return Err(io::Error::other(format!("{name:?} is too long a name for the archive")));
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let name = name + "/";
            to.write_all(&header(&name, 0, Kind::Directory, 0o700))?;
            below(to, &entry.path(), &name)?;
        } else if kind.is_file() {
            file(to, &name, &entry.path())?;
        }
    }
    Ok(())
}

fn file(to: &mut impl Write, name: &str, path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    to.write_all(&header(name, size, Kind::File, 0o600))?;
    // One that grows meanwhile must not break the archive.
    let copied = io::copy(&mut file.take(size), to)?;
    if copied < size {
        return Err(io::Error::other(format!("{name:?} became shorter while it was read")));
    }
    let rest = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    to.write_all(&[0; BLOCK][..rest])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_tar_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("in/sub")).unwrap();
        fs::write(dir.path().join("in/a"), "x".repeat(513)).unwrap();
        fs::write(dir.path().join("in/sub/b"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("in/link")).unwrap();
        let mut bytes = Vec::new();
        directory(&mut bytes, &dir.path().join("in")).unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let archive = dir.path().join("x.tar");
        fs::write(&archive, bytes).unwrap();
        let listed = std::process::Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        assert_eq!(String::from_utf8(listed.stdout).unwrap(), "a\nsub/\nsub/b\n");
    }

    #[test]
    fn large_sizes_fit() {
        let block = header("x", LARGE + 5, Kind::File, 0o600);
        assert_eq!(block[124], 0x80);
        assert_eq!(u64::from_be_bytes(block[128..136].try_into().unwrap()), LARGE + 5);
    }
}
