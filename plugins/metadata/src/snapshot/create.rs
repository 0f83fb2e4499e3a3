//! Prepare and view: the raw snapshot first, then its record.

use futures::StreamExt;
use windlass_core::event::Event;
use windlass_core::mount::Mount;
use windlass_core::snapshot::{Info, Kind, LABEL_REF};
use windlass_core::{Class, Context, Error, Filters, Labels, Result, validate};

use super::{Snapshotter, backend_lock, inherited, resource_kind};
use crate::db::{exists, not_found, now, require_lease};
use crate::keys;
use crate::record;

/// What is known before the raw snapshotter is asked.
enum Found {
    /// A key that is there already, and what to say of it.
    Taken(String, Error),
    /// The parent's raw name, empty without a parent.
    Free(String),
}

/// What the second transaction writes.
struct New {
    key: String,
    backend: String,
    parent: String,
    /// Raw name of the parent when the raw snapshot was made.
    raw_parent: String,
    labels: Labels,
    created: record::Time,
    updated: record::Time,
    prepared: bool,
}

impl Snapshotter {
    pub(super) async fn create(
        &self,
        cx: &Context,
        key: &str,
        parent: &str,
        labels: Labels,
        view: bool,
    ) -> Result<Vec<Mount>> {
        validate::labels(&labels).map_err(|e| e.context("info.Labels"))?;
        let target = labels.get(LABEL_REF).cloned().unwrap_or_default();
        let names = [key, target.as_str()].into_iter().filter(|name| !name.is_empty());
        let _locks = self.db.locks.lock_all(names.map(|name| self.lock(cx, name))).await;
        let raw_parent = match self.look(cx, key, parent, &target)? {
            Found::Free(raw_parent) => raw_parent,
            Found::Taken(name, error) => {
                self.lease(cx, &name).await?;
                return Err(error);
            }
        };
        let backend = format!("{}/{}/{key}", cx.namespace, self.db.number().await?);
        let _raw = self.db.locks.lock(backend_lock(&self.id, &backend)).await;
        fail::fail_point!("snapshot.prepare");
        let made = if view {
            self.backend.view(cx, &backend, &raw_parent, inherited(&labels)).await
        } else {
            self.backend.prepare(cx, &backend, &raw_parent, inherited(&labels)).await
        };
        let mounts = match made {
            Ok(mounts) => mounts,
            // The raw snapshotter has the layer already, from somewhere else.
            Err(error) if error.is(Class::AlreadyExists) && !target.is_empty() => {
                return self.adopt(cx, target, parent, raw_parent, labels).await;
            }
            // The key was new, so clients must not take this for a key of theirs.
            Err(error) if error.is(Class::AlreadyExists) => {
                return Err(Error::unknown(format!("unexpected error from snapshotter: {}", error.chain())));
            }
            Err(error) => return Err(error),
        };
        fail::fail_point!("snapshot.prepared");
        let time = now().into();
        let new = New {
            key: key.to_owned(),
            backend: backend.clone(),
            parent: parent.to_owned(),
            raw_parent,
            labels,
            created: time,
            updated: time,
            prepared: !view,
        };
        if let Err(error) = self.record_new(cx, new).await {
            if let Err(failed) = self.backend.remove(cx, &backend).await {
                tracing::warn!(snapshotter = %self.id, key = %backend, error = %failed.chain(),
                    "a snapshot without a record could not be removed; the next collection tries again");
                self.left_behind();
            }
            return Err(error);
        }
        fail::fail_point!("snapshot.recorded");
        Ok(mounts)
    }

    fn look(&self, cx: &Context, key: &str, parent: &str, target: &str) -> Result<Found> {
        self.db.view(|tx| {
            require_lease(tx, cx)?;
            if !target.is_empty() && tx.get(&self.key(cx, target))?.is_some() {
                let error = exists(format_args!("target snapshot {target:?}"));
                return Ok(Found::Taken(target.to_owned(), error));
            }
            if tx.get(&self.key(cx, key))?.is_some() {
                return Ok(Found::Taken(key.to_owned(), exists(format_args!("snapshot {key:?}"))));
            }
            if parent.is_empty() {
                return Ok(Found::Free(String::new()));
            }
            let record: Option<record::Snapshot> = record::get(tx, &self.key(cx, parent))?;
            match record {
                Some(record) => Ok(Found::Free(record.backend)),
                None => Err(no_parent(parent)),
            }
        })
    }

    /// Lets the context's lease refer to a snapshot that is there already.
    pub(super) async fn lease(&self, cx: &Context, key: &str) -> Result<()> {
        if cx.lease.is_none() {
            return Ok(());
        }
        let (cx, kind, key) = (cx.clone(), resource_kind(&self.id), key.to_owned());
        self.db.update(move |tx| tx.lease(&cx, &kind, &key).map(drop)).await
    }

    async fn record_new(&self, cx: &Context, new: New) -> Result<()> {
        let (cx, id) = (cx.clone(), self.id.clone());
        self.db
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                tx.lease(&cx, &resource_kind(&id), &new.key)?;
                let key = keys::snapshot(&cx.namespace, &id, &new.key);
                if tx.has(&key)? {
                    return Err(exists(format_args!("snapshot {:?}", new.key)));
                }
                if !new.parent.is_empty() {
                    let parent: record::Snapshot = tx
                        .find(&keys::snapshot(&cx.namespace, &id, &new.parent))?
                        .ok_or_else(|| no_parent(&new.parent))?;
                    // A target that the raw snapshotter found may stand on something else.
                    if parent.backend != new.raw_parent {
                        let (parent, key) = (&new.parent, &new.key);
                        return Err(Error::invalid(format!("mismatched parent {parent} from target {key}")));
                    }
                    tx.put_index(&keys::child(&cx.namespace, &id, &new.parent, &new.key))?;
                }
                let mut labels = new.labels;
                labels.retain(|_, value| !value.is_empty());
                let record = record::Snapshot {
                    labels,
                    created: new.created,
                    updated: new.updated,
                    backend: new.backend,
                    parent: new.parent.clone(),
                };
                tx.put(&key, &record)?;
                if new.prepared {
                    tx.event(
                        &cx.namespace,
                        Event::SnapshotPrepare { key: new.key, parent: new.parent, snapshotter: id },
                    );
                }
                Ok(())
            })
            .await
    }

    /// Takes the committed snapshot that a remote snapshotter made for `target` under that name, and says *already
    /// exists*, as the caller expects.
    async fn adopt(
        &self,
        cx: &Context,
        target: String,
        parent: &str,
        raw_parent: String,
        mut labels: Labels,
    ) -> Result<Vec<Mount>> {
        let found = self.find_target(cx, &target, &raw_parent).await?;
        let _raw = self.db.locks.lock(backend_lock(&self.id, &found.name)).await;
        self.db.adopted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // It may have been swept before the lock was had.
        let found = self.backend.stat(cx, &found.name).await?;
        for (key, value) in found.labels {
            labels.entry(key).or_insert(value);
        }
        let error = exists(format_args!("target snapshot {target:?} from snapshotter"));
        let new = New {
            key: target,
            backend: found.name,
            parent: parent.to_owned(),
            raw_parent: found.parent,
            labels,
            created: found.created_at.into(),
            updated: found.updated_at.into(),
            prepared: false,
        };
        self.record_new(cx, new).await?;
        Err(error)
    }

    async fn find_target(&self, cx: &Context, target: &str, raw_parent: &str) -> Result<Info> {
        let filter = format!("labels.{LABEL_REF:?}=={target:?},parent=={raw_parent:?}");
        let mut list = self.backend.list(cx, &Filters::parse(&[filter])?);
        while let Some(info) = list.next().await {
            let info = info.map_err(|e| e.context("failed walking backend snapshots"))?;
            // Not every snapshotter heeds filters.
            let fits = info.kind == Kind::Committed
                && info.labels.get(LABEL_REF).is_some_and(|value| value == target)
                && info.parent == raw_parent;
            if fits {
                return Ok(info);
            }
        }
        Err(not_found(format_args!("target snapshot {target:?} in backend")))
    }
}

pub(super) fn no_parent(parent: &str) -> Error {
    not_found(format_args!("parent snapshot {parent} does not exist"))
}
