//! Snapshots as plain copies, for file systems that overlayfs cannot use.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use windlass_core::metastore::MetaStore;
use windlass_core::mount::Mount;
use windlass_core::snapshot::{CommitOptions, Info, Kind, Snapshotter, Usage};
use windlass_core::{Context, Error, FieldMask, Filters, Labels, Result};

use crate::copy;
use crate::error;
use crate::layered::Layered;
use crate::storage::Snapshot;

pub struct Native {
    layered: Layered,
}

impl Native {
    /// Opens the snapshotter below `root`; `id` names its records. Blocks.
    pub fn open(root: &Path, id: &str, store: Arc<dyn MetaStore>) -> Result<Self> {
        Ok(Self { layered: Layered::open(root, id, store, false, false)? })
    }

    fn mounts_of(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let record = &snapshot.record;
        // A view has no files of its own: it shows its parent's.
        let (number, mode) = match (record.kind, snapshot.parents.first()) {
            (Kind::Active, _) => (record.number, "rw"),
            (_, Some(parent)) => (*parent, "ro"),
            (_, None) => (record.number, "ro"),
        };
        let source = self.layered.dirs.fs(number).to_string_lossy().into_owned();
        let options = vec!["rbind".to_owned(), mode.to_owned()];
        vec![Mount { kind: "bind".into(), source, target: String::new(), options }]
    }

    async fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let dirs = self.layered.dirs.clone();
        let fill = move |number: u64, parents: &[u64]| {
            if let (Kind::Active, Some(parent)) = (kind, parents.first()) {
                let (from, to) = (dirs.fs(*parent), dirs.fs(number));
                copy::tree(&from, &to).map_err(error::Error::io("copy the parent to", &to))?;
            }
            Ok(())
        };
        let snapshot = self.layered.create(kind, key, parent, labels, fill).await?;
        Ok(self.mounts_of(&snapshot))
    }
}

#[async_trait]
impl Snapshotter for Native {
    async fn stat(&self, _: &Context, key: &str) -> Result<Info> {
        Ok(self.layered.storage.get(key)?.info(key))
    }

    async fn update(&self, _: &Context, info: Info, fields: &FieldMask) -> Result<Info> {
        Ok(self.layered.update(info, fields).await?.1)
    }

    async fn usage(&self, _: &Context, key: &str) -> Result<Usage> {
        self.layered.usage(key).await
    }

    async fn mounts(&self, _: &Context, key: &str) -> Result<Vec<Mount>> {
        Ok(self.mounts_of(&self.layered.storage.mountable(key)?))
    }

    async fn prepare(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels).await
    }

    async fn view(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels).await
    }

    async fn commit(&self, _: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        // The files are all there is: a parent that was not copied in cannot be put under them.
        let parent = options.parent.as_deref().unwrap_or_default();
        if !parent.is_empty() && self.layered.storage.get(key)?.parent != parent {
            return Err(Error::invalid(format!("cannot change parent of active snapshot {key:?} on commit")));
        }
        self.layered.commit(name, key, options).await
    }

    async fn remove(&self, _: &Context, key: &str) -> Result<()> {
        self.layered.remove(key).await
    }

    fn list<'a>(&'a self, _: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let filters = filters.clone();
        let found = async move { self.layered.list(&filters).await };
        let each = |found: Result<Vec<(u64, Info)>>| match found {
            Ok(all) => futures::stream::iter(all.into_iter().map(|(_, info)| Ok(info))).boxed(),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        };
        futures::stream::once(found).flat_map(each).boxed()
    }

    async fn cleanup(&self, _: &Context) -> Result<()> {
        self.layered.cleanup().await
    }
}
