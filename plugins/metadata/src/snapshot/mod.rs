//! A snapshotter as a namespace sees it: its keys and names, over one raw snapshotter for all.
//!
//! In the raw snapshotter a snapshot is called `<namespace>/<number>/<key>`, with a number that is never given twice. An
//! active snapshot keeps its number when it is committed: so a commit which a crash cut off between the raw snapshotter
//! and the record is recognised, and the repeated call finishes it.
//!
//! Calls that make or change a snapshot hold the lock of its key, and the lock of its raw name while that is without a
//! record; the sweep takes only raw names whose lock it gets.

mod commit;
mod create;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use windlass_core::event::Event;
use windlass_core::mount::Mount;
use windlass_core::snapshot::{
    CommitOptions, Info, LABEL_PREFIX, LABEL_REF, Shared, Snapshotter as Contract, Usage,
};
use windlass_core::{Context, Error, FieldMask, Filters, Labels, Result, validate};

use crate::db::{Db, any, not_found, now, page};
use crate::keys::{self, object};
use crate::locks::Name;
use crate::record;

/// Records read at once in a list.
const PAGE: usize = 100;

#[derive(Clone)]
pub(crate) struct Snapshotter {
    db: Arc<Db>,
    id: String,
    backend: Shared,
}

/// The kind of resource by which leases refer to snapshots.
pub(crate) fn resource_kind(id: &str) -> String {
    format!("{}/{id}", object::SNAPSHOTS)
}

/// The lock of a raw snapshot.
pub(crate) fn backend_lock(id: &str, backend: &str) -> Name {
    ("raw snapshot", format!("{id}\0{backend}"))
}

/// A raw name's parts: namespace, number and key. Names that were not made here have none.
pub(crate) fn backend_parts(backend: &str) -> Option<(&str, &str, &str)> {
    let (namespace, rest) = backend.split_once('/')?;
    let (number, key) = rest.split_once('/')?;
    number.parse::<u64>().ok()?;
    Some((namespace, number, key))
}

/// What of a snapshot's labels concerns the raw snapshotter.
fn inherited(labels: &Labels) -> Labels {
    let concerns = |key: &str| key == LABEL_REF || key.starts_with(LABEL_PREFIX);
    labels.iter().filter(|(key, _)| concerns(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn overlay(mut info: Info, key: String, record: record::Snapshot) -> Info {
    info.name = key;
    info.parent = record.parent;
    info.created_at = record.created.into();
    info.updated_at = record.updated.into();
    info.labels.extend(record.labels);
    info
}

fn missing(key: &str) -> Error {
    not_found(format_args!("snapshot {key} does not exist"))
}

impl Snapshotter {
    pub(crate) fn new(db: &Arc<Db>, id: &str) -> Option<Self> {
        let backend = db.snapshotters.get(id)?.clone();
        Some(Self { db: db.clone(), id: id.to_owned(), backend })
    }

    fn key(&self, cx: &Context, key: &str) -> Vec<u8> {
        keys::snapshot(&cx.namespace, &self.id, key)
    }

    fn lock(&self, cx: &Context, key: &str) -> Name {
        ("snapshot", format!("{}\0{}\0{key}", self.id, cx.namespace))
    }

    fn record(&self, cx: &Context, key: &str) -> Result<record::Snapshot> {
        let found = self.db.view(|tx| record::get(tx, &self.key(cx, key)))?;
        found.ok_or_else(|| missing(key))
    }

    /// The raw snapshotter holds what no record names.
    fn left_behind(&self) {
        let id = self.id.clone();
        self.db.left_behind(|garbage| {
            garbage.snapshotters.insert(id);
        });
    }
}

#[async_trait]
impl Contract for Snapshotter {
    async fn stat(&self, cx: &Context, key: &str) -> Result<Info> {
        let record = self.record(cx, key)?;
        let info = self.backend.stat(cx, &record.backend).await?;
        Ok(overlay(info, key.to_owned(), record))
    }

    async fn update(&self, cx: &Context, info: Info, fields: &FieldMask) -> Result<Info> {
        if info.name.is_empty() {
            return Err(Error::invalid("snapshot name is required for update"));
        }
        let _lock = self.db.locks.lock(self.lock(cx, &info.name)).await;
        let mut record = self.record(cx, &info.name)?;
        let all = ["labels".to_owned()];
        for path in if fields.is_all() { &all[..] } else { &fields.0[..] } {
            if !FieldMask::apply_labels(path, &info.labels, &mut record.labels) {
                return FieldMask::refused(path, &format!("snapshot {:?}", info.name));
            }
        }
        validate::labels(&record.labels).map_err(|e| e.context("info.Labels"))?;
        let mut raw = info.clone();
        raw.name.clone_from(&record.backend);
        raw.labels = inherited(&record.labels);
        let raw = self.backend.update(cx, raw, fields).await?;
        let (key, labels) = (self.key(cx, &info.name), record.labels);
        let name = info.name.clone();
        let record = self
            .db
            .update(move |tx| {
                let mut record: record::Snapshot = tx.find(&key)?.ok_or_else(|| missing(&name))?;
                record.labels = labels;
                record.updated = now().into();
                tx.put(&key, &record)?;
                // Labels that are gone may have been references.
                tx.deleted();
                Ok(record)
            })
            .await?;
        Ok(overlay(raw, info.name, record))
    }

    async fn usage(&self, cx: &Context, key: &str) -> Result<Usage> {
        let backend = self.record(cx, key)?.backend;
        self.backend.usage(cx, &backend).await
    }

    async fn mounts(&self, cx: &Context, key: &str) -> Result<Vec<Mount>> {
        let backend = self.record(cx, key)?.backend;
        self.backend.mounts(cx, &backend).await
    }

    async fn prepare(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(cx, key, parent, labels, false).await
    }

    async fn view(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(cx, key, parent, labels, true).await
    }

    async fn commit(&self, cx: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        self.commit_active(cx, name, key, options).await
    }

    async fn remove(&self, cx: &Context, key: &str) -> Result<()> {
        let _lock = self.db.locks.lock(self.lock(cx, key)).await;
        let (cx, id, name) = (cx.clone(), self.id.clone(), key.to_owned());
        let key = self.key(&cx, key);
        self.db
            .update(move |tx| {
                let record: record::Snapshot = tx.find(&key)?.ok_or_else(|| missing(&name))?;
                if any(tx.read(), &keys::children(&cx.namespace, &id, &name))? {
                    return Err(Error::precondition(
                        "cannot remove snapshot with child: failed precondition",
                    ));
                }
                tx.delete(&key)?;
                if !record.parent.is_empty() {
                    tx.delete(&keys::child(&cx.namespace, &id, &record.parent, &name))?;
                }
                tx.unlease(&cx, &resource_kind(&id), &name)?;
                tx.snapshot_garbage(&id);
                tx.event(&cx.namespace, Event::SnapshotRemove { key: name, snapshotter: id });
                Ok(())
            })
            .await?;
        fail::fail_point!("snapshot.removed");
        Ok(())
    }

    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let prefix = keys::snapshots(&cx.namespace, &self.id);
        let (cx, filters) = (cx.clone(), filters.clone());
        let pages = stream::try_unfold(Some(None::<Vec<u8>>), move |after| {
            let (prefix, cx, filters) = (prefix.clone(), cx.clone(), filters.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let page: Vec<(_, record::Snapshot)> =
                    self.db.view(|tx| page(tx, &prefix, after.as_deref(), PAGE))?;
                let next = (page.len() == PAGE).then(|| page.last().map(|(key, _)| key.clone()));
                let mut infos = Vec::with_capacity(page.len());
                for (key, record) in page {
                    match self.backend.stat(&cx, &record.backend).await {
                        Ok(info) => {
                            let info = overlay(info, keys::name(&key), record);
                            if filters.matches(&info) {
                                infos.push(Ok(info));
                            }
                        }
                        Err(error) if error.is_not_found() => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(Some((stream::iter(infos), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn cleanup(&self, cx: &Context) -> Result<()> {
        self.backend.cleanup(cx).await
    }

    fn capabilities(&self) -> Vec<String> {
        self.backend.capabilities()
    }
}
