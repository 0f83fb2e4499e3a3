//! Ingests on disk: what lies beside `data`, and how it is read back.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use windlass_core::Digest;
use windlass_core::content::Status;

use crate::error::Error;

/// Longest reference that is read back, in bytes.
const MAX_REFERENCE: u64 = 64 << 10;

/// The directory of an ingest.
pub struct Place(PathBuf);

impl Place {
    pub fn of(root: &Path, reference: &str) -> Self {
        Self(root.join("ingest").join(Digest::of(reference.as_bytes()).encoded()))
    }

    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// `None` where there is no whole ingest: none at all, or one that a crash cut off.
    pub fn status(&self) -> Result<Option<Status>, Error> {
        let data = match std::fs::metadata(self.data()) {
            Ok(meta) => meta,
            Err(e) if gone(&e) => return Ok(None),
            Err(e) => return Err(Error::io("stat", &self.data())(e)),
        };
        let Some((reference, started_at)) = self.read_text("ref")? else { return Ok(None) };
        let total = self.read_text("total")?.and_then(|(text, _)| text.parse().ok()).unwrap_or(0);
        let updated_at = data.modified().unwrap_or(started_at).max(started_at);
        Ok(Some(Status { reference, offset: data.size(), total, expected: None, started_at, updated_at }))
    }

    fn read_text(&self, name: &str) -> Result<Option<(String, SystemTime)>, Error> {
        let path = self.0.join(name);
        let read = || -> std::io::Result<(String, SystemTime)> {
            let file = File::open(&path)?;
            let time = file.metadata()?.modified()?;
            let mut text = String::new();
            file.take(MAX_REFERENCE).read_to_string(&mut text)?;
            Ok((text, time))
        };
        match read() {
            Ok(found) => Ok(Some(found)),
            Err(e) if gone(&e) => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Begins anew: what was there is gone.
    pub fn create(&self, reference: &str, total: u64, now: SystemTime) -> Result<File, Error> {
        windlass_core::tree::remove_path(&self.0).map_err(Error::io("remove", &self.0))?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .map_err(Error::io("make directory", &self.0))?;
        let write = |name: &str, text: &str| {
            let path = self.0.join(name);
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
            let written = file.and_then(|mut f| {
                std::io::Write::write_all(&mut f, text.as_bytes())?;
                // The kernel's own stamp is of its last tick, before what the caller took for now.
                f.set_modified(now)
            });
            written.map_err(Error::io("write", &path))
        };
        write("ref", reference)?;
        if total > 0 {
            write("total", &total.to_string())?;
        }
        let mut options = File::options();
        let data = options.read(true).write(true).create_new(true).mode(0o600);
        data.open(self.data()).map_err(Error::io("create", &self.data()))
    }

    pub fn open(&self) -> Result<File, Error> {
        File::options().read(true).write(true).open(self.data()).map_err(Error::io("open", &self.data()))
    }

    pub fn remove(&self) -> Result<(), Error> {
        windlass_core::tree::remove_path(&self.0).map_err(Error::io("remove", &self.0))
    }
}

fn gone(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}
