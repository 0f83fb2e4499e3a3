//! Leases and what they refer to.

use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::lease::{Lease, Manager as Contract, Resource};
use windlass_core::{Context, Digest, Error, Filters, Labels, Result};

use crate::db::{Db, exists, not_found, now};
use crate::keys::{self, object};
use crate::record;

pub(crate) struct Manager(pub(crate) Arc<Db>);

fn key(cx: &Context, id: &str) -> Vec<u8> {
    keys::one(&cx.namespace, object::LEASES, id)
}

fn missing(id: &str) -> Error {
    not_found(format_args!("lease {id:?}"))
}

#[async_trait]
impl Contract for Manager {
    async fn create(&self, cx: &Context, id: &str, mut labels: Labels) -> Result<Lease> {
        if id.is_empty() {
            return Err(Error::invalid("lease id must be provided"));
        }
        labels.retain(|_, value| !value.is_empty());
        let lease = Lease { id: id.to_owned(), created_at: now(), labels };
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                let key = key(&cx, &lease.id);
                if tx.has(&key)? {
                    return Err(exists(format_args!("lease {:?}", lease.id)));
                }
                let record = record::Lease { labels: lease.labels.clone(), created: lease.created_at.into() };
                tx.put(&key, &record)?;
                Ok(lease)
            })
            .await
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let (cx, id) = (cx.clone(), id.to_owned());
        self.0
            .update(move |tx| {
                let key = key(&cx, &id);
                if !tx.has(&key)? {
                    return Err(missing(&id));
                }
                tx.delete(&key)?;
                tx.delete_all(&keys::resources(&cx.namespace, &id))?;
                tx.deleted();
                Ok(())
            })
            .await
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Lease>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::all(&cx.namespace, object::LEASES), &mut |key, value| {
                let record: record::Lease = record::decode(key, value)?;
                let created_at = record.created.into();
                let lease = Lease { id: keys::name(key), created_at, labels: record.labels };
                if filters.matches(&lease) {
                    list.push(lease);
                }
                Ok(true)
            })
        })?;
        Ok(list)
    }

    async fn add_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()> {
        let (cx, lease) = (cx.clone(), lease.to_owned());
        self.0
            .update(move |tx| {
                if !tx.has(&key(&cx, &lease))? {
                    return Err(missing(&lease));
                }
                check(&resource)?;
                tx.put_index(&keys::resource(&cx.namespace, &lease, &resource.kind, &resource.id))
            })
            .await
    }

    async fn delete_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()> {
        let (cx, lease) = (cx.clone(), lease.to_owned());
        self.0
            .update(move |tx| {
                if !tx.has(&key(&cx, &lease))? {
                    return Err(missing(&lease));
                }
                check(&resource)?;
                tx.delete(&keys::resource(&cx.namespace, &lease, &resource.kind, &resource.id))?;
                tx.deleted();
                Ok(())
            })
            .await
    }

    async fn list_resources(&self, cx: &Context, lease: &str) -> Result<Vec<Resource>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            if tx.get(&key(cx, lease))?.is_none() {
                return Err(missing(lease));
            }
            tx.scan(&keys::resources(&cx.namespace, lease), &mut |key, _| {
                let mut parts = keys::parts(key);
                let id = parts.pop().unwrap_or_default();
                let kind = parts.pop().unwrap_or_default();
                list.push(Resource { id, kind });
                Ok(true)
            })
        })?;
        Ok(list)
    }
}

/// Only kinds that collection knows.
fn check(resource: &Resource) -> Result<()> {
    let Resource { id, kind } = resource;
    let mut parts = kind.split('/');
    let first = parts.next().unwrap_or_default();
    let rest = parts.count();
    match first {
        object::CONTENT | object::INGESTS | object::IMAGES => {
            if rest != 0 {
                return Err(Error::invalid(format!("invalid resource type {kind}")));
            }
            if first == object::CONTENT {
                id.parse::<Digest>().map_err(|e| e.context(format!("invalid content resource id {id}")))?;
            }
            Ok(())
        }
        object::SNAPSHOTS if rest == 1 => Ok(()),
        object::SNAPSHOTS => Err(Error::invalid(format!("invalid snapshot resource type {kind}"))),
        _ => Err(Error::unimplemented(format!("resource type {kind} not supported yet"))),
    }
}
