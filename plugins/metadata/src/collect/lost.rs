//! Records whose data is gone: a power cut may take blobs and snapshots whose sync was left to the caller, or somebody
//! a directory. A client would take such a record for the thing itself and never fetch it again, so the first
//! collection after a start removes it, after asking the backend about each by name.

use std::collections::HashMap;
use std::sync::Arc;

use windlass_core::metastore::Read;
use windlass_core::{Context, Digest, Result, snapshot};

use super::sweep::namespaces;
use crate::content::{blob_key, blob_lock};
use crate::db::{Db, any, keys_of};
use crate::keys::{self, Place, object};
use crate::record;
use crate::snapshot::backend_lock;

/// Removes the records of blobs that the raw store does not have.
pub(super) async fn blobs(db: &Arc<Db>, cx: &Context) -> Result<()> {
    let mut digests: Vec<Digest> = db.view(|tx| {
        let mut digests = Vec::new();
        for namespace in namespaces(tx)? {
            for key in keys_of(tx, &keys::all(&namespace, object::BLOBS))? {
                digests.push(keys::name(&key).parse()?);
            }
        }
        Ok(digests)
    })?;
    digests.sort();
    digests.dedup();
    for digest in digests {
        let Some(_lock) = db.locks.try_lock(blob_lock(digest.as_str())) else { continue };
        match db.content.info(cx, &digest).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) => continue,
        }
        tracing::warn!(%digest, "content is lost: its records are removed, so that it can be fetched again");
        db.update(move |tx| {
            tx.quiet();
            for namespace in namespaces(tx.read())? {
                tx.delete(&blob_key(&namespace, digest.as_str()))?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Removes the records of snapshots that the raw snapshotter does not have, children first. `present` is what it lists,
/// `cut_off` tells of commits that are only not finished.
pub(super) async fn snapshots(
    db: &Arc<Db>,
    cx: &Context,
    id: &str,
    backend: &snapshot::Shared,
    present: &HashMap<String, String>,
    is_cut_off: impl Fn(&str) -> bool,
) -> Result<()> {
    let mut missing = db.view(|tx| missing(tx, id, present))?;
    missing.retain(|(_, name)| !is_cut_off(name));
    loop {
        let before = missing.len();
        let mut left = Vec::new();
        for (key, name) in missing {
            let Some(_lock) = db.locks.try_lock(backend_lock(id, &name)) else { continue };
            match backend.stat(cx, &name).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok(_) => continue,
            }
            if !forget(db, id, key.clone(), name.clone()).await? {
                left.push((key, name));
            }
        }
        if left.is_empty() || left.len() == before {
            return Ok(());
        }
        missing = left;
    }
}

/// Keys and raw names of the records whose raw name is not listed.
fn missing(tx: &dyn Read, id: &str, present: &HashMap<String, String>) -> Result<Vec<(Vec<u8>, String)>> {
    let mut missing = Vec::new();
    for namespace in namespaces(tx)? {
        tx.scan(&keys::snapshots(&namespace, id), &mut |key, value| {
            let name = record::decode::<record::Snapshot>(key, value)?.backend;
            if !present.contains_key(&name) {
                missing.push((key.to_vec(), name));
            }
            Ok(true)
        })?;
    }
    Ok(missing)
}

/// Removes a record that is still the same. False where it has children.
async fn forget(db: &Arc<Db>, id: &str, key: Vec<u8>, name: String) -> Result<bool> {
    let id = id.to_owned();
    db.update(move |tx| {
        tx.quiet();
        let (Some(place), Some(record)) = (Place::of(&key), tx.find::<record::Snapshot>(&key)?) else {
            return Ok(true);
        };
        let own = place.name(1);
        if record.backend != name {
            return Ok(true);
        }
        if any(tx.read(), &keys::children(&place.namespace, &id, own))? {
            return Ok(false);
        }
        tracing::warn!(snapshotter = %id, namespace = %place.namespace, key = own,
            "snapshot is lost: its record is removed, so that it can be made again");
        if !record.parent.is_empty() {
            tx.delete(&keys::child(&place.namespace, &id, &record.parent, own))?;
        }
        tx.delete(&key)?;
        Ok(true)
    })
    .await
}
