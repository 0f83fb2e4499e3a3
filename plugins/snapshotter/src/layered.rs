//! What both snapshotters do alike: everything but filling a new directory and naming its mounts.

use std::path::Path;
use std::sync::Arc;

use windlass_core::content::Sync;
use windlass_core::metastore::MetaStore;
use windlass_core::snapshot::{CommitOptions, Info, Kind, Usage};
use windlass_core::{Error, FieldMask, Filters, Labels, Result, blocking, tree};

use crate::adopt;
use crate::dirs::Dirs;
use crate::error;
use crate::record::Record;
use crate::storage::{Snapshot, Storage};

#[derive(Clone)]
pub struct Layered {
    pub storage: Storage,
    pub dirs: Arc<Dirs>,
    /// Whether `remove` waits until the directory is gone.
    pub sync_remove: bool,
}

impl Layered {
    pub fn open(
        root: &Path,
        id: &str,
        store: Arc<dyn MetaStore>,
        work: bool,
        sync_remove: bool,
    ) -> Result<Self> {
        let storage = Storage::new(store, id);
        let dirs = Dirs::open(root, work, &storage)?;
        Ok(Self { storage, dirs, sync_remove })
    }

    /// Makes a snapshot: directory, `fill` (on the blocking pool, with the new number and those of the ancestors), then
    /// the record.
    pub async fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
        fill: impl FnOnce(u64, &[u64]) -> Result<()> + Send + 'static,
    ) -> Result<Snapshot> {
        if key.is_empty() {
            return Err(Error::invalid("a snapshot needs a key"));
        }
        let parents = self.storage.may_create(key, parent)?;
        let reserved = self.dirs.reserve();
        let dirs = self.dirs.clone();
        let reserved = blocking(move || {
            dirs.make(reserved.number, kind)?;
            fill(reserved.number, &parents)?;
            Ok(reserved)
        })
        .await?;
        fail::fail_point!("snapshot.prepare.before-record", |_| Err(Error::internal("failpoint")));
        let snapshot = self.storage.create(key, Record::new(reserved.number, kind, parent, labels)).await?;
        fail::fail_point!("snapshot.prepare.after-record", |_| Err(Error::internal("failpoint")));
        reserved.keep();
        Ok(snapshot)
    }

    pub async fn commit(&self, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("a committed snapshot needs a name"));
        }
        let record = self.storage.get(key)?;
        let number = record.number;
        let (path, sync) = (self.dirs.fs(number), options.sync);
        let parents = match &options.parent {
            Some(parent) if record.parent.is_empty() && !parent.is_empty() => self.storage.chain(parent)?,
            _ => Vec::new(),
        };
        let dirs = self.dirs.clone();
        // A caller that syncs has usually measured too, while it had other things to wait for.
        let known = options.usage.filter(|_| sync == Sync::Caller);
        let usage = blocking(move || {
            adopt::adopt(&path, parents.iter().map(|number| dirs.fs(*number)))
                .map_err(error::Error::io("take over from the parent's directories in", &path))?;
            match known {
                Some(usage) => Ok(usage),
                None => measure(&path, sync),
            }
        })
        .await?;
        fail::fail_point!("snapshot.commit.before-record", |_| Err(Error::internal("failpoint")));
        self.storage.commit(name, key, usage, options).await?;
        fail::fail_point!("snapshot.commit.after-record", |_| Err(Error::internal("failpoint")));
        Ok(())
    }

    pub async fn remove(&self, key: &str) -> Result<()> {
        let number = self.storage.remove(key).await?;
        fail::fail_point!("snapshot.remove.after-record", |_| Err(Error::internal("failpoint")));
        if self.sync_remove {
            let dirs = self.dirs.clone();
            return blocking(move || {
                dirs.remove_now(vec![number]);
                Ok(())
            })
            .await;
        }
        self.dirs.remove_later(vec![number]);
        Ok(())
    }

    pub async fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.storage.get(key)?;
        if record.kind == Kind::Committed {
            return Ok(record.usage);
        }
        if record.kind == Kind::View {
            return Ok(Usage::default());
        }
        let path = self.dirs.fs(record.number);
        blocking(move || measure(&path, Sync::Caller)).await
    }

    pub async fn update(&self, info: Info, fields: &FieldMask) -> Result<(u64, Info)> {
        let record = self.storage.update(&info.name, info.labels, fields.clone()).await?;
        Ok((record.number, record.info(&info.name)))
    }

    pub async fn list(&self, filters: &Filters) -> Result<Vec<(u64, Info)>> {
        let (storage, filters) = (self.storage.clone(), filters.clone());
        blocking(move || storage.list(&filters)).await
    }

    pub async fn cleanup(&self) -> Result<()> {
        let (dirs, storage) = (self.dirs.clone(), self.storage.clone());
        blocking(move || dirs.sweep(&storage)).await
    }
}

fn measure(path: &Path, sync: Sync) -> Result<Usage> {
    let failed = |e| error::Error::io::<std::io::Error>("measure", path)(e);
    let usage = tree::usage(path).map_err(failed)?;
    if sync == Sync::Each {
        let directory = tree::open_dir(path).map_err(failed)?;
        rustix::fs::syncfs(&directory).map_err(error::Error::io("sync the file system of", path))?;
    }
    Ok(usage)
}
