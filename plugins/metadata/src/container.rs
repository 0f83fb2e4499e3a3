//! Container records.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::container::{Container, Runtime, Store as Contract};
use windlass_core::event::Event;
use windlass_core::filter::Filters;
use windlass_core::{Any, Context, Error, FieldMask, Result, validate};

use crate::db::{Db, exists, not_found, now};
use crate::keys::{self, object};
use crate::record;

pub(crate) struct Store(pub(crate) Arc<Db>);

fn key(cx: &Context, id: &str) -> Vec<u8> {
    keys::one(&cx.namespace, object::CONTAINERS, id)
}

#[async_trait]
impl Contract for Store {
    async fn get(&self, cx: &Context, id: &str) -> Result<Container> {
        let found: Option<record::Container> = self.0.view(|tx| record::get(tx, &key(cx, id)))?;
        found
            .map(|record| record.into_container(id.to_owned()))
            .ok_or_else(|| not_found(format_args!("container {id:?} in namespace {:?}", cx.namespace)))
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Container>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::all(&cx.namespace, object::CONTAINERS), &mut |key, value| {
                let container =
                    record::decode::<record::Container>(key, value)?.into_container(keys::name(key));
                if filters.matches(&container) {
                    list.push(container);
                }
                Ok(true)
            })
        })?;
        Ok(list)
    }

    async fn create(&self, cx: &Context, mut container: Container) -> Result<Container> {
        validate(&container).map_err(|e| e.context("create container failed validation"))?;
        container.labels.retain(|_, value| !value.is_empty());
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                let key = key(&cx, &container.id);
                if tx.has(&key)? {
                    return Err(exists(format_args!("container {:?}", container.id)));
                }
                container.created_at = now();
                container.updated_at = container.created_at;
                tx.put(&key, &record::Container::from(&container))?;
                tx.event(
                    &cx.namespace,
                    Event::ContainerCreate {
                        id: container.id.clone(),
                        image: container.image.clone(),
                        runtime: container.runtime.clone(),
                    },
                );
                Ok(container)
            })
            .await
    }

    async fn update(&self, cx: &Context, container: Container, fields: &FieldMask) -> Result<Container> {
        if container.id.is_empty() {
            return Err(Error::invalid("must specify a container id"));
        }
        let (cx, fields) = (cx.clone(), fields.clone());
        self.0
            .update(move |tx| {
                let key = key(&cx, &container.id);
                let Some(record) = tx.find::<record::Container>(&key)? else {
                    return Err(not_found(format_args!("container {:?}", container.id)));
                };
                let mut updated = record.into_container(container.id.clone());
                apply(&mut updated, &container, &fields)?;
                validate(&updated).map_err(|e| e.context("update failed validation"))?;
                updated.updated_at = now();
                tx.put(&key, &record::Container::from(&updated))?;
                tx.deleted();
                tx.event(
                    &cx.namespace,
                    Event::ContainerUpdate {
                        id: updated.id.clone(),
                        image: updated.image.clone(),
                        labels: updated.labels.clone(),
                        snapshot_key: updated.snapshot_key.clone(),
                    },
                );
                Ok(updated)
            })
            .await
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let (cx, id) = (cx.clone(), id.to_owned());
        self.0
            .update(move |tx| {
                let key = key(&cx, &id);
                if !tx.has(&key)? {
                    return Err(not_found(format_args!("container {id:?}")));
                }
                tx.delete(&key)?;
                tx.deleted();
                tx.event(&cx.namespace, Event::ContainerDelete { id });
                Ok(())
            })
            .await
    }
}

/// Paths that stand for all that may change.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

fn apply(to: &mut Container, from: &Container, fields: &FieldMask) -> Result<()> {
    if fields.is_all() {
        if to.snapshotter != from.snapshotter {
            return Err(Error::invalid("container.Snapshotter field is immutable"));
        }
        if to.runtime.name != from.runtime.name {
            return Err(Error::invalid("container.Runtime.Name field is immutable"));
        }
        return MUTABLE.iter().try_for_each(|path| apply_path(to, from, path));
    }
    fields.0.iter().try_for_each(|path| apply_path(to, from, path))
}

fn apply_path(to: &mut Container, from: &Container, path: &str) -> Result<()> {
    if FieldMask::apply_labels(path, &from.labels, &mut to.labels)
        || apply_extensions(path, &from.extensions, &mut to.extensions)
    {
        return Ok(());
    }
    match path {
        "spec" => to.spec.clone_from(&from.spec),
        "image" => to.image.clone_from(&from.image),
        "snapshotkey" => to.snapshot_key.clone_from(&from.snapshot_key),
        "runtime" if to.runtime.name.is_empty() => to.runtime.clone_from(&from.runtime),
        _ => return FieldMask::refused(path, &format!("{:?}", to.id)),
    }
    Ok(())
}

/// Applies `extensions` and `extensions.<key>`; answers whether `path` was one of them.
pub(crate) fn apply_extensions(
    path: &str,
    from: &BTreeMap<String, Any>,
    to: &mut BTreeMap<String, Any>,
) -> bool {
    if path == "extensions" {
        to.clone_from(from);
        return true;
    }
    let Some(key) = path.strip_prefix("extensions.") else { return false };
    match from.get(key) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
    true
}

fn validate(container: &Container) -> Result<()> {
    validate::identifier("identifier", &container.id).map_err(|e| e.context("container.ID"))?;
    if container.extensions.contains_key("") {
        return Err(Error::invalid("container.Extension keys must not be zero-length"));
    }
    validate::labels(&container.labels).map_err(|e| e.context("containers.Labels"))?;
    if container.runtime.name.is_empty() {
        return Err(Error::invalid("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(Error::invalid("container.Spec must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid("container.Snapshotter must be set if container.SnapshotKey is set"));
    }
    Ok(())
}

// === impl record::Container ===

impl record::Container {
    fn into_container(self, id: String) -> Container {
        Container {
            id,
            labels: self.labels,
            image: self.image,
            runtime: self.runtime.into(),
            spec: self.spec,
            snapshotter: self.snapshotter,
            snapshot_key: self.snapshot_key,
            created_at: self.created.into(),
            updated_at: self.updated.into(),
            extensions: self.extensions,
            sandbox_id: self.sandbox_id,
        }
    }
}

impl From<&Container> for record::Container {
    fn from(container: &Container) -> Self {
        Self {
            labels: container.labels.clone(),
            created: container.created_at.into(),
            updated: container.updated_at.into(),
            image: container.image.clone(),
            runtime: (&container.runtime).into(),
            snapshotter: container.snapshotter.clone(),
            snapshot_key: container.snapshot_key.clone(),
            sandbox_id: container.sandbox_id.clone(),
            extensions: container.extensions.clone(),
            spec: container.spec.clone(),
        }
    }
}

impl From<record::Runtime> for Runtime {
    fn from(record: record::Runtime) -> Self {
        Self { name: record.name, options: record.options }
    }
}

impl From<&Runtime> for record::Runtime {
    fn from(runtime: &Runtime) -> Self {
        Self { name: runtime.name.clone(), options: runtime.options.clone() }
    }
}
