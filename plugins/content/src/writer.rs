//! Writing: one writer per reference, hashed as it goes, verified and synced before it is seen.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags};
use windlass_core::content::{self, Status, Sync, WriterOptions};
use windlass_core::digest::Hasher;
use windlass_core::{Digest, Labels, Result, blocking};

use crate::error::Error;
use crate::ingest::Place;
use crate::store::{Lock, Shared, exists, hash_rest, sync_dir};

/// Writes of at least this size go to the blocking pool; smaller ones cost less than the way there.
const INLINE: usize = 256 << 10;

/// An ingest with its only writer.
pub struct Ingest {
    shared: Arc<Shared>,
    lock: Lock,
    place: Place,
    file: File,
    hasher: Hasher,
    status: Status,
    sync: Sync,
}

impl Ingest {
    /// Resumes the ingest where there is one that fits, else begins it.
    pub(crate) fn open(shared: Arc<Shared>, lock: Lock, options: WriterOptions) -> Result<Self, Error> {
        let place = Place::of(&shared.root, &options.reference);
        let mut hasher = Hasher::new(options.expected.as_ref());
        let fits = |s: &Status| {
            s.reference == options.reference
                && (options.total == 0 || s.total == 0 || options.total == s.total)
        };
        let (file, mut status) = match place.status()?.filter(fits) {
            Some(mut status) => {
                let mut file = place.open()?;
                status.offset =
                    hash_rest(&mut file, &mut hasher).map_err(Error::io("read", &place.data()))?;
                if status.total == 0 {
                    status.total = options.total;
                }
                (file, status)
            }
            None => {
                let now = SystemTime::now();
                let file = place.create(&options.reference, options.total, now)?;
                let status = Status {
                    reference: options.reference,
                    offset: 0,
                    total: options.total,
                    expected: None,
                    started_at: now,
                    updated_at: now,
                };
                (file, status)
            }
        };
        status.expected = options.expected;
        Ok(Self { shared, lock, place, file, hasher, status, sync: options.sync })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(data, self.status.offset).map_err(Error::io("write", &self.place.data()))?;
        self.hasher.update(data);
        self.status.offset += data.len() as u64;
        self.touch();
        Ok(())
    }

    /// The kernel's own stamp is of its last tick: who asks for the status hears the exact time from the lock, who resumes
    /// later from the file (see [`Drop`]).
    fn touch(&mut self) {
        self.status.updated_at = SystemTime::now();
        self.lock.set_updated(self.status.updated_at);
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        if size > self.status.offset {
            let offset = self.status.offset;
            return Err(windlass_core::Error::out_of_range(format!(
                "cannot truncate to {size}: only {offset} are written"
            )));
        }
        self.file.set_len(size).map_err(Error::io("truncate", &self.place.data()))?;
        if size < self.status.offset {
            self.hasher = Hasher::new(self.status.expected.as_ref());
            self.rehash()?;
        }
        self.status.offset = size;
        self.touch();
        Ok(())
    }

    /// Hashes the whole file anew, into a fresh hasher.
    fn rehash(&mut self) -> Result<(), Error> {
        let mut file = self.place.open()?;
        hash_rest(&mut file, &mut self.hasher).map_err(Error::io("read", &self.place.data()))?;
        Ok(())
    }

    fn commit(&mut self, size: u64, expected: Option<&Digest>) -> Result<Digest> {
        let offset = self.status.offset;
        if size > 0 && size != offset {
            return Err(windlass_core::Error::precondition(format!(
                "unexpected commit size {offset}, expected {size}"
            )));
        }
        // What a failed write left behind the offset does not belong to the blob.
        self.file.set_len(offset).map_err(Error::io("truncate", &self.place.data()))?;
        let mut digest = self.hasher.digest();
        if let Some(expected) = expected {
            if expected.algorithm() != digest.algorithm() {
                self.hasher = Hasher::new(Some(expected));
                self.rehash()?;
                digest = self.hasher.digest();
            }
            if *expected != digest {
                return Err(windlass_core::Error::precondition(format!(
                    "unexpected commit digest {digest}, expected {expected}"
                )));
            }
        }
        self.publish(&digest)?;
        Ok(digest)
    }

    fn publish(&self, digest: &Digest) -> Result<()> {
        let target = self.shared.blob_path(digest);
        let directory = target.parent().unwrap_or(&self.shared.root);
        if target.exists() {
            self.place.remove()?;
            return Err(exists(digest));
        }
        let data = self.place.data();
        match self.sync {
            Sync::Each => self.file.sync_data().map_err(Error::io("sync", &data))?,
            Sync::Caller => {
                let marker = self.shared.marker_path(digest);
                File::create(&marker).map_err(Error::io("create", &marker))?;
            }
        }
        fail::fail_point!("content.commit.before-rename");
        if !directory.exists() {
            match std::fs::create_dir(directory) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("make directory", directory)(e).into());
                }
                _ => sync_dir(&self.shared.root.join("blobs"))?,
            }
        }
        let read_only = Permissions::from_mode(0o400);
        self.file.set_permissions(read_only).map_err(Error::io("change the mode of", &data))?;
        match rustix::fs::renameat_with(CWD, &data, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                self.place.remove()?;
                return Err(exists(digest));
            }
            Err(e) => return Err(Error::io("rename into place", &target)(e).into()),
        }
        fail::fail_point!("content.commit.after-rename");
        if self.sync == Sync::Each {
            sync_dir(directory)?;
        }
        // The blob is there: what is left of the ingest is only rubbish, which the next start takes.
        if let Err(error) = self.place.remove() {
            tracing::warn!(reference = self.status.reference, %error, "cannot remove a committed ingest");
        }
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Best effort: without it the time is a tick too early.
        let _ = self.file.set_modified(self.status.updated_at);
    }
}

/// The writer that callers hold. The ingest moves to the blocking pool for large work and back; where a caller gave up
/// waiting, it ends there and the reference is free again.
pub struct Writer {
    ingest: Option<Ingest>,
    /// The last one known, for after the end.
    status: Status,
    digest: Option<Digest>,
}

impl Writer {
    pub fn new(ingest: Ingest) -> Self {
        Self { status: ingest.status.clone(), ingest: Some(ingest), digest: None }
    }

    fn take(&mut self) -> Result<Ingest> {
        self.ingest.take().ok_or_else(|| windlass_core::Error::precondition("cannot use a closed writer"))
    }

    /// Runs `work` on the blocking pool and takes the ingest back.
    async fn on_pool(&mut self, work: impl FnOnce(&mut Ingest) -> Result<()> + Send + 'static) -> Result<()> {
        let mut ingest = self.take()?;
        let (ingest, result) = blocking(move || {
            let result = work(&mut ingest);
            Ok((ingest, result))
        })
        .await?;
        self.ingest = Some(ingest);
        result
    }
}

#[async_trait]
impl content::Writer for Writer {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.len() < INLINE {
            let ingest = self.ingest.as_mut();
            let ingest = ingest
                .ok_or_else(|| windlass_core::Error::precondition("cannot write to a closed writer"))?;
            return Ok(ingest.write(&data)?);
        }
        self.on_pool(move |ingest| Ok(ingest.write(&data)?)).await
    }

    fn status(&self) -> Status {
        self.ingest.as_ref().map_or_else(|| self.status.clone(), |i| i.status.clone())
    }

    fn digest(&self) -> Digest {
        match (&self.ingest, &self.digest) {
            (Some(ingest), _) => ingest.hasher.digest(),
            (None, Some(digest)) => digest.clone(),
            (None, None) => Hasher::new(None).digest(),
        }
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.on_pool(move |ingest| ingest.truncate(size)).await
    }

    async fn commit(&mut self, size: u64, expected: Option<&Digest>, _: Labels) -> Result<Digest> {
        self.status = self.status();
        self.digest = Some(self.digest());
        let mut ingest = self.take()?;
        let expected = expected.cloned();
        let digest = blocking(move || ingest.commit(size, expected.as_ref())).await?;
        self.digest = Some(digest.clone());
        Ok(digest)
    }
}
