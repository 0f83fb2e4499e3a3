//! Commit: the raw snapshot first, then one transaction that gives it its name.

use windlass_core::event::Event;
use windlass_core::snapshot::{CommitOptions, Kind};
use windlass_core::{Context, Error, Labels, Result, validate};

use super::create::no_parent;
use super::{Snapshotter, backend_lock, backend_parts, inherited, missing, resource_kind};
use crate::db::{exists, now, require_lease};
use crate::keys;
use crate::record;

/// What is known before the raw snapshotter is asked.
struct Plan {
    active: record::Snapshot,
    /// Name of the parent; with `rebase` one that the snapshot gets only now.
    parent: String,
    raw_parent: String,
    rebase: bool,
}

impl Snapshotter {
    pub(super) async fn commit_active(
        &self,
        cx: &Context,
        name: &str,
        key: &str,
        options: CommitOptions,
    ) -> Result<()> {
        validate::labels(&options.labels).map_err(|e| e.context("info.Labels"))?;
        let _locks = self.db.locks.lock_all([self.lock(cx, name), self.lock(cx, key)]).await;
        let Some(plan) = self.plan(cx, name, key, options.parent.as_deref())? else {
            self.lease(cx, name).await?;
            return Err(exists(format_args!("snapshot {name:?}")));
        };
        let number = match backend_parts(&plan.active.backend) {
            Some((_, number, _)) => number.to_owned(),
            None => self.db.number().await?.to_string(),
        };
        let backend = format!("{}/{number}/{name}", cx.namespace);
        let raw = [backend_lock(&self.id, &backend), backend_lock(&self.id, &plan.active.backend)];
        let _raw = self.db.locks.lock_all(raw).await;
        fail::fail_point!("snapshot.commit");
        self.commit_raw(cx, &backend, &plan, &options).await?;
        fail::fail_point!("snapshot.committed");
        let result = self.record_commit(cx, name, key, backend, plan, options.labels).await;
        if result.is_err() {
            self.left_behind();
        }
        fail::fail_point!("snapshot.named");
        result
    }

    /// `None` where the name is taken.
    fn plan(&self, cx: &Context, name: &str, key: &str, rebase: Option<&str>) -> Result<Option<Plan>> {
        self.db.view(|tx| {
            require_lease(tx, cx)?;
            if tx.get(&self.key(cx, name))?.is_some() {
                return Ok(None);
            }
            let active: record::Snapshot =
                record::get(tx, &self.key(cx, key))?.ok_or_else(|| missing(key))?;
            let mut plan =
                Plan { parent: active.parent.clone(), active, raw_parent: String::new(), rebase: false };
            if let Some(parent) = rebase.filter(|parent| !parent.is_empty() && *parent != plan.parent) {
                if !plan.parent.is_empty() {
                    let has = &plan.parent;
                    return Err(Error::invalid(format!(
                        "snapshot {key:?} has parent {has:?}, not {parent:?}"
                    )));
                }
                parent.clone_into(&mut plan.parent);
                plan.rebase = true;
            }
            if !plan.parent.is_empty() {
                let parent: record::Snapshot =
                    record::get(tx, &self.key(cx, &plan.parent))?.ok_or_else(|| no_parent(&plan.parent))?;
                plan.raw_parent = parent.backend;
            }
            Ok(Some(plan))
        })
    }

    async fn commit_raw(
        &self,
        cx: &Context,
        backend: &str,
        plan: &Plan,
        options: &CommitOptions,
    ) -> Result<()> {
        let options = CommitOptions {
            labels: inherited(&options.labels),
            parent: plan.rebase.then(|| plan.raw_parent.clone()),
            ..options.clone()
        };
        let Err(error) = self.backend.commit(cx, backend, &plan.active.backend, options).await else {
            return Ok(());
        };
        if error.is_not_found() {
            // An earlier call may have come so far before the daemon died.
            if self.backend.stat(cx, backend).await.is_ok_and(|info| info.kind == Kind::Committed) {
                return Ok(());
            }
            tracing::error!(snapshotter = %self.id, key = %plan.active.backend, error = %error.chain(),
                "snapshot cannot be committed: it is missing in the snapshotter and should be removed");
        }
        Err(error)
    }

    async fn record_commit(
        &self,
        cx: &Context,
        name: &str,
        key: &str,
        backend: String,
        plan: Plan,
        mut labels: Labels,
    ) -> Result<()> {
        labels.retain(|_, value| !value.is_empty());
        let (cx, id) = (cx.clone(), self.id.clone());
        let (name, key) = (name.to_owned(), key.to_owned());
        self.db
            .update(move |tx| {
                let (ns, kind) = (cx.namespace.as_str(), resource_kind(&id));
                let (from, to) = (keys::snapshot(ns, &id, &key), keys::snapshot(ns, &id, &name));
                if tx.has(&to)? {
                    return Err(exists(format_args!("snapshot {name:?}")));
                }
                if !tx.has(&from)? {
                    return Err(missing(&key));
                }
                tx.lease(&cx, &kind, &name)?;
                if !plan.parent.is_empty() {
                    if !tx.has(&keys::snapshot(ns, &id, &plan.parent))? {
                        return Err(no_parent(&plan.parent));
                    }
                    tx.delete(&keys::child(ns, &id, &plan.parent, &key))?;
                    tx.put_index(&keys::child(ns, &id, &plan.parent, &name))?;
                }
                let created = now().into();
                let record =
                    record::Snapshot { labels, created, updated: created, backend, parent: plan.parent };
                tx.put(&to, &record)?;
                tx.delete(&from)?;
                tx.unlease(&cx, &kind, &key)?;
                let event = Event::SnapshotCommit { key, name, snapshotter: id };
                tx.event(&cx.namespace.clone(), event);
                Ok(())
            })
            .await
    }
}
