//! The store: finding, listing, deleting; writers are in [`crate::writer`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use windlass_core::content::{self, Info, Status, WriterOptions};
use windlass_core::digest::Hasher;
use windlass_core::{Context, Digest, FieldMask, Filters, Labels, Result, blocking};

use crate::blob::Blob;
use crate::error::Error;
use crate::ingest::Place;
use crate::writer::{Ingest, Writer};

/// Infos that a listing may be ahead of its reader.
const LIST_AHEAD: usize = 64;

/// A content store in a directory.
pub struct Store {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub root: PathBuf,
    /// References with a writer.
    locks: Mutex<HashMap<String, Held>>,
}

impl Store {
    /// Opens the store below `root`, which is made where it is not there. Removes what a crash left half done and
    /// verifies blobs that nobody had synced. Blocks.
    pub fn open(root: &Path) -> Result<Self> {
        for name in ["", "blobs", "ingest", "unsynced"] {
            let path = root.join(name);
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(Error::io("make directory", &path))?;
        }
        let shared = Shared { root: root.to_owned(), locks: Mutex::default() };
        shared.sweep_ingests()?;
        shared.verify_unsynced()?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

struct Held {
    since: Instant,
    /// When the writer last wrote.
    updated: Option<SystemTime>,
}

/// The only writer of a reference, while it lives.
pub(crate) struct Lock {
    shared: Arc<Shared>,
    reference: String,
}

impl Lock {
    pub fn take(shared: &Arc<Shared>, reference: &str) -> Result<Self, Error> {
        let mut locks = shared.locks();
        if let Some(held) = locks.get(reference) {
            return Err(Error::Locked { reference: reference.to_owned(), held: held.since.elapsed() });
        }
        locks.insert(reference.to_owned(), Held { since: Instant::now(), updated: None });
        Ok(Self { shared: shared.clone(), reference: reference.to_owned() })
    }
}

impl Lock {
    pub fn set_updated(&self, time: SystemTime) {
        if let Some(held) = self.shared.locks().get_mut(&self.reference) {
            held.updated = Some(time);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.shared.locks().remove(&self.reference);
    }
}

impl Shared {
    fn locks(&self) -> std::sync::MutexGuard<'_, HashMap<String, Held>> {
        self.locks.lock().expect("the table of locks is changed without panics")
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.encoded())
    }

    pub fn marker_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("unsynced").join(format!("{}-{}", digest.algorithm(), digest.encoded()))
    }

    /// Removes ingests that cannot be resumed.
    fn sweep_ingests(&self) -> Result<(), Error> {
        for path in entries(&self.root.join("ingest"))? {
            let place = Place::at(path);
            if place.status()?.is_none() {
                tracing::info!(path = %place.path().display(), "removing an ingest that was cut off");
                place.remove()?;
            }
        }
        Ok(())
    }

    /// Blobs whose sync a crash may have forestalled: whole ones are synced now, torn ones removed.
    fn verify_unsynced(&self) -> Result<(), Error> {
        for marker in entries(&self.root.join("unsynced"))? {
            let name = marker.file_name().unwrap_or_default().to_string_lossy().replacen('-', ":", 1);
            if let Ok(digest) = name.parse::<Digest>() {
                let path = self.blob_path(&digest);
                match File::open(&path) {
                    Ok(mut file) => self.verify(&mut file, &path, &digest)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("open", &path)(e)),
                }
            }
            std::fs::remove_file(&marker).map_err(Error::io("remove", &marker))?;
        }
        Ok(())
    }

    fn verify(&self, file: &mut File, path: &Path, digest: &Digest) -> Result<(), Error> {
        let mut hasher = Hasher::new(Some(digest));
        hash_rest(file, &mut hasher).map_err(Error::io("read", path))?;
        if hasher.digest() == *digest {
            file.sync_data().map_err(Error::io("sync", path))?;
        } else {
            tracing::warn!(%digest, "removing a blob that a crash has torn");
            std::fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    fn info(&self, digest: &Digest) -> Result<Info> {
        match std::fs::metadata(self.blob_path(digest)) {
            Ok(meta) => Ok(info(digest.clone(), &meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(not_found(digest)),
            Err(e) => Err(windlass_core::Error::io(format!("stat content {digest}"), e)),
        }
    }

    /// Calls `each` for every blob until it answers false.
    fn walk(&self, each: &mut dyn FnMut(Info) -> bool) -> Result<(), Error> {
        for directory in entries(&self.root.join("blobs"))? {
            let algorithm = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let read = std::fs::read_dir(&directory).map_err(Error::io("read directory", &directory))?;
            for entry in read {
                let entry = entry.map_err(Error::io("read directory", &directory))?;
                let name = format!("{algorithm}:{}", entry.file_name().to_string_lossy());
                let Ok(digest) = name.parse::<Digest>() else {
                    tracing::warn!(path = %entry.path().display(), "not a blob");
                    continue;
                };
                match entry.metadata() {
                    Ok(meta) if meta.is_file() => {
                        if !each(info(digest, &meta)) {
                            return Ok(());
                        }
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("stat", &entry.path())(e)),
                }
            }
        }
        Ok(())
    }

    /// The status with the exact time, where somebody is writing.
    fn exact(&self, mut status: Status) -> Status {
        if let Some(updated) = self.locks().get(&status.reference).and_then(|held| held.updated) {
            status.updated_at = updated;
        }
        status
    }

    fn statuses(&self, filters: &Filters) -> Result<Vec<Status>, Error> {
        let mut found = Vec::new();
        for path in entries(&self.root.join("ingest"))? {
            found.extend(Place::at(path).status()?.filter(|s| filters.matches(s)).map(|s| self.exact(s)));
        }
        Ok(found)
    }

    /// Markers first: a blob that is committed during the sync keeps its marker.
    fn sync(&self) -> Result<(), Error> {
        let markers = entries(&self.root.join("unsynced"))?;
        if markers.is_empty() {
            return Ok(());
        }
        let root = File::open(&self.root).map_err(Error::io("open", &self.root))?;
        rustix::fs::syncfs(&root).map_err(Error::io("sync the file system of", &self.root))?;
        for marker in markers {
            match std::fs::remove_file(&marker) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &marker)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        match std::fs::remove_file(self.blob_path(digest)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_found(digest)),
            Err(e) => return Err(windlass_core::Error::io(format!("delete content {digest}"), e)),
        }
        let _ = std::fs::remove_file(self.marker_path(digest));
        Ok(())
    }

    fn writer(self: &Arc<Self>, options: WriterOptions) -> Result<Writer> {
        let reference = &options.reference;
        if reference.is_empty() {
            return Err(windlass_core::Error::invalid("ref must not be empty"));
        }
        let lock = Lock::take(self, reference)?;
        if let Some(expected) = &options.expected
            && self.blob_path(expected).exists()
        {
            return Err(exists(expected));
        }
        Ok(Writer::new(Ingest::open(self.clone(), lock, options)?))
    }
}

pub(crate) fn exists(digest: &Digest) -> windlass_core::Error {
    windlass_core::Error::exists(format!("content {digest}"))
}

fn not_found(digest: &Digest) -> windlass_core::Error {
    windlass_core::Error::not_found(format!("content {digest}"))
}

fn info(digest: Digest, meta: &std::fs::Metadata) -> Info {
    let time = meta.modified().unwrap_or(std::time::UNIX_EPOCH);
    Info { digest, size: meta.size(), created_at: time, updated_at: time, labels: Labels::new() }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = std::fs::read_dir(directory).map_err(Error::io("read directory", directory))?;
    read.map(|e| e.map(|e| e.path()))
        .collect::<io::Result<_>>()
        .map_err(Error::io("read directory", directory))
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|d| d.sync_all()).map_err(Error::io("sync directory", path))
}

/// Hashes from the file's position to its end.
pub(crate) fn hash_rest(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match io::Read::read(file, &mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[async_trait]
impl content::Store for Store {
    async fn info(&self, _: &Context, digest: &Digest) -> Result<Info> {
        self.shared.info(digest)
    }

    async fn update(&self, _: &Context, _: Info, _: &FieldMask) -> Result<Info> {
        Err(windlass_core::Error::precondition("update not supported on immutable content store"))
    }

    fn list<'a>(&'a self, _: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let (send, receive) = tokio::sync::mpsc::channel(LIST_AHEAD);
        let (shared, filters) = (self.shared.clone(), filters.clone());
        tokio::task::spawn_blocking(move || {
            // A reader that has gone ends the walk.
            let walked =
                shared.walk(&mut |info| !filters.matches(&info) || send.blocking_send(Ok(info)).is_ok());
            if let Err(error) = walked {
                let _ = send.blocking_send(Err(error.into()));
            }
        });
        futures::stream::unfold(receive, |mut r| async move { r.recv().await.map(|item| (item, r)) }).boxed()
    }

    async fn delete(&self, _: &Context, digest: &Digest) -> Result<()> {
        let (shared, digest) = (self.shared.clone(), digest.clone());
        blocking(move || shared.delete(&digest)).await
    }

    async fn reader(&self, _: &Context, digest: &Digest) -> Result<Arc<dyn content::Blob>> {
        Ok(Arc::new(Blob::open(&self.shared.blob_path(digest), digest)?))
    }

    async fn status(&self, _: &Context, reference: &str) -> Result<Status> {
        let found = Place::of(&self.shared.root, reference).status()?;
        let found = found.map(|status| self.shared.exact(status));
        found.ok_or_else(|| windlass_core::Error::not_found(format!("ingest ref {reference:?}")))
    }

    async fn list_statuses(&self, _: &Context, filters: &Filters) -> Result<Vec<Status>> {
        let (shared, filters) = (self.shared.clone(), filters.clone());
        blocking(move || Ok(shared.statuses(&filters)?)).await
    }

    async fn abort(&self, _: &Context, reference: &str) -> Result<()> {
        let place = Place::of(&self.shared.root, reference);
        let reference = reference.to_owned();
        blocking(move || {
            if !place.path().exists() {
                return Err(windlass_core::Error::not_found(format!("ingest ref {reference:?}")));
            }
            Ok(place.remove()?)
        })
        .await
    }

    async fn writer(&self, _: &Context, options: WriterOptions) -> Result<Box<dyn content::Writer>> {
        let shared = self.shared.clone();
        Ok(Box::new(blocking(move || shared.writer(options)).await?))
    }

    async fn sync(&self) -> Result<()> {
        let shared = self.shared.clone();
        blocking(move || Ok(shared.sync()?)).await
    }
}
