//! Namespaces. One is there from the first thing in it on, or when it is made by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::event::Event;
use windlass_core::metastore::Read;
use windlass_core::namespace::{Namespace, Store as Contract};
use windlass_core::{Error, FieldMask, Result, validate};

use crate::db::{Db, any, exists, keys_of, not_found};
use crate::keys::{self, object};
use crate::record;

pub(crate) struct Store(pub(crate) Arc<Db>);

#[async_trait]
impl Contract for Store {
    async fn get(&self, name: &str) -> Result<Namespace> {
        let found: Option<record::Namespace> = self.0.view(|tx| record::get(tx, &keys::namespace(name)))?;
        Ok(Namespace { name: name.to_owned(), labels: found.unwrap_or_default().labels })
    }

    async fn list(&self) -> Result<Vec<Namespace>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::namespaces(), &mut |key, value| {
                let record: record::Namespace = record::decode(key, value)?;
                list.push(Namespace { name: keys::name(key), labels: record.labels });
                Ok(true)
            })
        })?;
        Ok(list)
    }

    async fn create(&self, namespace: Namespace) -> Result<Namespace> {
        validate::identifier("identifier", &namespace.name)?;
        validate::labels(&namespace.labels).map_err(|e| e.context("namespace.Labels"))?;
        self.0
            .update(move |tx| {
                let key = keys::namespace(&namespace.name);
                if tx.has(&key)? {
                    return Err(exists(format_args!("namespace {:?}", namespace.name)));
                }
                let mut labels = namespace.labels.clone();
                labels.retain(|_, value| !value.is_empty());
                tx.put(&key, &record::Namespace { labels })?;
                let event =
                    Event::NamespaceCreate { name: namespace.name.clone(), labels: namespace.labels.clone() };
                tx.event(&namespace.name, event);
                Ok(namespace)
            })
            .await
    }

    async fn update(&self, namespace: Namespace, fields: &FieldMask) -> Result<Namespace> {
        validate::identifier("identifier", &namespace.name)?;
        let fields = fields.clone();
        self.0
            .update(move |tx| {
                let key = keys::namespace(&namespace.name);
                let mut record = tx.find::<record::Namespace>(&key)?.unwrap_or_default();
                let all = ["labels".to_owned()];
                for path in if fields.is_all() { &all[..] } else { &fields.0[..] } {
                    if !FieldMask::apply_labels(path, &namespace.labels, &mut record.labels) {
                        return FieldMask::refused(path, &format!("namespace {:?}", namespace.name));
                    }
                }
                validate::labels(&record.labels).map_err(|e| e.context("namespace.Labels"))?;
                tx.put(&key, &record)?;
                let event = Event::NamespaceUpdate { name: namespace.name.clone(), labels: namespace.labels };
                tx.event(&namespace.name, event);
                Ok(Namespace { name: namespace.name, labels: record.labels })
            })
            .await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.0
            .update(move |tx| {
                let key = keys::namespace(&name);
                if !tx.has(&key)? {
                    return Err(not_found(format_args!("namespace {name:?}")));
                }
                let left = contents(tx.read(), &name)?;
                if !left.is_empty() {
                    let left = left.join(", ");
                    return Err(Error::precondition(format!(
                        "namespace {name:?} must be empty, but it still has {left}: failed precondition"
                    )));
                }
                tx.delete(&key)?;
                // Leases, ingests and sandboxes go with it.
                tx.delete_all(&keys::all_of(&name))?;
                tx.content_garbage();
                tx.event(&name.clone(), Event::NamespaceDelete { name });
                Ok(())
            })
            .await
    }
}

/// The kinds of objects that keep a namespace from being deleted.
fn contents(tx: &dyn Read, name: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for object in [object::IMAGES, object::BLOBS, object::CONTAINERS] {
        if any(tx, &keys::all(name, object))? {
            left.push(object.to_owned());
        }
    }
    let snapshots = keys_of(tx, &keys::all(name, object::SNAPSHOTS))?;
    let snapshotters: BTreeSet<String> = snapshots
        .iter()
        .filter_map(|key| keys::Place::of(key))
        .map(|place| place.name(0).to_owned())
        .collect();
    left.extend(snapshotters.iter().map(|id| format!("snapshots on {id:?} snapshotter")));
    Ok(left)
}
