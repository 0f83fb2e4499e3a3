//! Whether a program is the reference plugin: every binary of that project names its source, also a stripped one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const SOURCE: &[u8] = b"github.com/containernetworking/plugins/plugins/";
/// A larger program is none of theirs.
const MAX: u64 = 64 << 20;

/// What was found of programs, each looked at once for as long as it does not change.
#[derive(Default)]
pub struct Genuine(Mutex<BTreeMap<PathBuf, (Stamp, bool)>>);

type Stamp = (u64, u64, i64, i64, u64);

impl Genuine {
    /// One that cannot be read is not.
    pub fn is(&self, path: &Path) -> bool {
        let Ok(mut file) = File::open(path) else { return false };
        let Ok(metadata) = file.metadata() else { return false };
        let stamp = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
        // Not held while the program is read: its disk may hang.
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, genuine)) = lock().get(path)
            && *seen == stamp
        {
            return *genuine;
        }
        let genuine = metadata.len() <= MAX && names_source(&mut file).unwrap_or(false);
        lock().insert(path.to_owned(), (stamp, genuine));
        genuine
    }
}

fn names_source(program: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 256 << 10];
    let mut kept = 0;
    loop {
        let read = program.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let filled = kept + read;
        if buffer[..filled].windows(SOURCE.len()).any(|window| window == SOURCE) {
            return Ok(true);
        }
        // The words may lie across the end.
        kept = filled.min(SOURCE.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_source_and_looked_at_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge");
        let genuine = Genuine::default();
        assert!(!genuine.is(&path), "not there");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(!genuine.is(&path));
        let mut program = vec![0; (256 << 10) - 20];
        program.extend_from_slice(SOURCE);
        std::fs::write(&path, &program).unwrap();
        assert!(genuine.is(&path), "across two reads");
        assert!(genuine.is(&path), "as remembered");
        program.truncate(program.len() - 1);
        std::fs::write(&path, &program).unwrap();
        assert!(!genuine.is(&path));
    }
}
