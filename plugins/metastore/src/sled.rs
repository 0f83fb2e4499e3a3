//! sled 0.34: a log-structured tree. What it needs beyond its own calls:
//!
//! - `flush` only starts the write-back on Linux (`sync_file_range`), so each commit also syncs the database file.
//! - Large pages go to files of their own under `blobs/`, which sled never syncs. Larger values are therefore cut into chunks
//!   small enough for every page to stay in the log; should a file appear there all the same (very long keys), the
//!   commit syncs it.
//! - A crash while it writes its recovery snapshot leaves `snap.*.generating`, which `open` takes for a damaged
//!   snapshot: such files are removed first. The snapshot only shortens recovery.
//! - It has no read transactions: a lock keeps views and the moment of applying a batch apart. The sync is outside.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use bytes::Bytes;
use sled::{Batch, Config, Db, IVec, Mode};
use windlass_core::Result;
use windlass_core::metastore::{Each, Read};

use crate::Error;
use crate::engine::Engine;
use crate::transaction::Changes;

/// Stored values are at most so long; a leaf has at most 17 of them and must stay under a quarter of a segment.
const CHUNK: usize = 14 << 10;
/// Bytes of a segment of the log, and of the buffers that it is written from.
const SEGMENT: usize = 1 << 20;
/// Key spaces: values, and the chunks of those that are cut.
const VALUES: u8 = b'v';
const CHUNKS: u8 = b'c';
/// First byte of a stored value: the value follows, or the number of its chunks (u32, little endian).
const WHOLE: u8 = 0;
const CUT: u8 = 1;

pub(crate) struct Sled {
    dir: PathBuf,
    db: Db,
    /// The database file, for its sync.
    file: File,
    /// Held for reading by views, for writing while a batch is applied.
    applying: RwLock<()>,
    /// Files under `blobs/` that have been synced.
    synced: Mutex<HashSet<std::ffi::OsString>>,
}

struct View<'a>(&'a Sled);

// === impl Sled ===

impl Sled {
    fn error(&self, what: &'static str, source: sled::Error) -> Error {
        Error::Sled { what, path: self.dir.clone(), source }
    }

    fn io(&self, what: &'static str, source: io::Error) -> Error {
        Error::Io { what, path: self.dir.clone(), source }
    }

    /// The number of chunks that the stored value of `key` was cut into.
    fn chunks_of(&self, key: &[u8]) -> Result<u32, Error> {
        let stored = self.db.get(spaced(VALUES, key)).map_err(|e| self.error("read", e))?;
        stored.map_or(Ok(0), |stored| self.count(&stored))
    }

    fn count(&self, stored: &[u8]) -> Result<u32, Error> {
        match stored.split_first() {
            Some((&WHOLE, _)) => Ok(0),
            Some((&CUT, rest)) if rest.len() == 4 => {
                Ok(u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]))
            }
            _ => Err(Error::Damaged {
                path: self.dir.clone(),
                why: "a stored value has no form that is known",
            }),
        }
    }

    fn assemble(&self, key: &[u8], stored: &IVec) -> Result<Bytes, Error> {
        let count = self.count(stored)?;
        if count == 0 {
            return Ok(Bytes::copy_from_slice(&stored[1..]));
        }
        let mut value = Vec::with_capacity(count as usize * CHUNK);
        for index in 0..count {
            let chunk = self.db.get(chunk_key(key, index)).map_err(|e| self.error("read", e))?;
            let Some(chunk) = chunk else {
                return Err(Error::Damaged { path: self.dir.clone(), why: "a part of a value is missing" });
            };
            value.extend_from_slice(&chunk);
        }
        Ok(value.into())
    }

    fn batch(&self, changes: &Changes) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for (key, value) in changes.iter() {
            let before = self.chunks_of(key)?;
            let now = match value {
                Some(value) if value.len() >= CHUNK => {
                    let chunks = value.chunks(CHUNK).len() as u32;
                    for (index, chunk) in value.chunks(CHUNK).enumerate() {
                        batch.insert(chunk_key(key, index as u32), chunk);
                    }
                    let mut stored = vec![CUT];
                    stored.extend_from_slice(&chunks.to_le_bytes());
                    batch.insert(spaced(VALUES, key), stored);
                    chunks
                }
                Some(value) => {
                    batch.insert(spaced(VALUES, key), spaced(WHOLE, value));
                    0
                }
                None => {
                    batch.remove(spaced(VALUES, key));
                    0
                }
            };
            for index in now..before {
                batch.remove(chunk_key(key, index));
            }
        }
        Ok(batch)
    }

    /// Syncs the files of large pages that are new; there are none as a rule.
    fn sync_blobs(&self) -> io::Result<()> {
        let dir = self.dir.join("blobs");
        let mut known = self.synced.lock().expect("the set is changed without panics");
        let mut present = HashSet::new();
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name();
            if !known.contains(&name) {
                match File::open(dir.join(&name)).and_then(|file| file.sync_data()) {
                    Ok(()) => {}
                    // Pages are also rewritten behind our back, and their old files go.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(name);
        }
        if !present.is_subset(&known) {
            File::open(&dir)?.sync_all()?;
        }
        *known = present;
        Ok(())
    }
}

fn spaced(space: u8, key: &[u8]) -> Vec<u8> {
    let mut spaced = Vec::with_capacity(key.len() + 1);
    spaced.push(space);
    spaced.extend_from_slice(key);
    spaced
}

/// Chunks are only ever looked up, so no two keys may share one: the key's length stands in front.
fn chunk_key(key: &[u8], index: u32) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 9);
    chunk.push(CHUNKS);
    chunk.extend_from_slice(&(key.len() as u32).to_be_bytes());
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(&index.to_be_bytes());
    chunk
}

impl Engine for Sled {
    fn open(dir: &Path, cache: usize) -> Result<Self, Error> {
        let io = |what: &'static str| move |source| Error::Io { what, path: dir.to_owned(), source };
        remove_torn_snapshots(dir).map_err(io("tidy the sled database"))?;
        let open = || {
            Config::new()
                .path(dir)
                .segment_size(SEGMENT)
                .cache_capacity(cache as u64)
                .mode(Mode::LowSpace)
                .flush_every_ms(None)
                .open()
        };
        let db = open().map_err(|source| Error::Sled { what: "open", path: dir.to_owned(), source })?;
        let file = File::open(dir.join("db")).map_err(io("open the file of"))?;
        // Everything that opening wrote, once: the file of the configuration and the names in the directory too.
        rustix::fs::syncfs(&file).map_err(|errno| io("sync")(errno.into()))?;
        crate::open::sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), db, file, applying: RwLock::new(()), synced: Mutex::default() })
    }

    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        let _reading = self.applying.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        body(&View(self))
    }

    fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let batch = self.batch(changes)?;
        {
            let _applying = self.applying.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.db.apply_batch(batch).map_err(|e| self.error("write to", e))?;
        }
        self.db.flush().map_err(|e| self.error("flush", e))?;
        self.sync_blobs().map_err(|e| self.io("sync the large pages of", e))?;
        self.file.sync_data().map_err(|e| self.io("sync", e))
    }
}

fn remove_torn_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"snap.") && name.ends_with(b".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

// === impl View ===

impl Read for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let stored = self.0.db.get(spaced(VALUES, key)).map_err(|e| self.0.error("read", e))?;
        stored.map(|stored| self.0.assemble(key, &stored)).transpose().map_err(Into::into)
    }

    fn scan_from(&self, prefix: &[u8], start: &[u8], each: Each<'_>) -> Result<()> {
        for pair in self.0.db.range(spaced(VALUES, start.max(prefix))..) {
            let (key, stored) = pair.map_err(|e| self.0.error("read", e))?;
            let Some(key) = key.strip_prefix(&[VALUES]).filter(|key| key.starts_with(prefix)) else { break };
            let go_on = match stored.first() {
                Some(&WHOLE) => each(key, &stored[1..])?,
                _ => each(key, &self.0.assemble(key, &stored)?)?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }
}
