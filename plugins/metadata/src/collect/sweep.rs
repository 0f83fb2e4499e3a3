//! Sweeping: removes from the backends what no record names. Each removal is made under the lock of the blob or raw
//! snapshot, after a last look at the records; what somebody is at work on is left to the next collection.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use futures::future::join_all;
use windlass_core::metastore::Read;
use windlass_core::snapshot;
use windlass_core::{Class, Context, Digest, Error, Filters, Result};

use super::lost;
use crate::content::{blob_key, blob_lock};
use crate::db::{Db, keys_of};
use crate::keys::{self, object};
use crate::record;
use crate::snapshot::{backend_lock, backend_parts};

/// Sweeps the backends that are due. A failure is logged and the backend stays due.
pub(super) async fn backends(db: &Arc<Db>) {
    let due = std::mem::take(&mut *db.garbage());
    let snapshotters = due.snapshotters.iter().filter_map(|id| Some((id, db.snapshotters.get(id)?)));
    let snapshots = join_all(snapshotters.map(|(id, backend)| async move {
        if let Err(error) = limited(db, snapshots(db, id, backend, due.first)).await {
            tracing::warn!(snapshotter = %id, error = %error.chain(), "snapshot sweep failed");
            db.garbage().snapshotters.insert(id.clone());
        }
    }));
    let blobs = async {
        if due.content
            && let Err(error) = limited(db, content(db, due.first)).await
        {
            tracing::warn!(error = %error.chain(), "content sweep failed");
            db.garbage().content = true;
        }
    };
    futures::join!(snapshots, blobs);
}

/// A backend that hangs hurts only itself.
async fn limited(db: &Db, sweep: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(db.sweep_limit, sweep).await.unwrap_or_else(|_| {
        Err(Error::deadline(format!("the sweep took longer than {} s", db.sweep_limit.as_secs())))
    })
}

/// Raw stores know no namespaces.
fn context() -> Context {
    Context::new("default")
}

pub(super) fn namespaces(tx: &dyn Read) -> Result<Vec<String>> {
    Ok(keys_of(tx, &keys::namespaces())?.iter().map(|key| keys::name(key)).collect())
}

// --- snapshots ---

/// The raw names that records have.
fn recorded(db: &Db, id: &str) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    db.view(|tx| {
        for namespace in namespaces(tx)? {
            tx.scan(&keys::snapshots(&namespace, id), &mut |key, value| {
                names.insert(record::decode::<record::Snapshot>(key, value)?.backend);
                Ok(true)
            })?;
        }
        Ok(())
    })?;
    Ok(names)
}

async fn snapshots(db: &Arc<Db>, id: &str, backend: &snapshot::Shared, first: bool) -> Result<()> {
    let cx = context();
    let adopted = db.adopted.load(Ordering::SeqCst);
    let mut present = HashMap::new();
    let mut list = backend.list(&cx, &Filters::all());
    while let Some(info) = list.next().await {
        let info = info?;
        present.insert(info.name, info.parent);
    }
    drop(list);
    let recorded = recorded(db, id)?;
    let cut_off = cut_off_commits(&recorded, &present);
    let is_cut_off = |name: &str| backend_parts(name).is_some_and(|(ns, n, _)| cut_off.contains(&(ns, n)));
    if first {
        lost::snapshots(db, &cx, id, backend, &present, is_cut_off).await?;
    }
    for name in children_first(&present) {
        if recorded.contains(name) || is_cut_off(name) {
            continue;
        }
        let Some(_lock) = db.locks.try_lock(backend_lock(id, name)) else {
            db.garbage().snapshotters.insert(id.to_owned());
            continue;
        };
        if db.adopted.load(Ordering::SeqCst) != adopted {
            db.garbage().snapshotters.insert(id.to_owned());
            return Ok(());
        }
        if has_record(db, id, name)? {
            continue;
        }
        match backend.remove(&cx, name).await {
            Ok(()) => tracing::debug!(snapshotter = id, key = %name, "removed snapshot"),
            Err(error) if error.is_not_found() => {}
            Err(error) if error.is(Class::FailedPrecondition) => {
                tracing::warn!(snapshotter = id, key = %name, error = %error.chain(), "failed to remove snapshot");
            }
            Err(error) => return Err(error.context(format!("remove snapshot {name}"))),
        }
        fail::fail_point!("collect.snapshot-removed", |_| Ok(()));
    }
    match backend.cleanup(&cx).await {
        Err(error) if !error.is(Class::Unimplemented) => Err(error),
        _ => Ok(()),
    }
}

/// Namespace and number of active snapshots that the backend no longer has under their key: a crash cut their commit
/// off, and what the backend has under their number is what the repeated commit will look for.
fn cut_off_commits<'a>(
    recorded: &'a HashSet<String>,
    present: &'a HashMap<String, String>,
) -> HashSet<(&'a str, &'a str)> {
    let number = |name: &'a String| backend_parts(name).map(|(namespace, number, _)| (namespace, number));
    let there: HashSet<_> = present.keys().filter_map(number).collect();
    let gone = recorded.iter().filter(|name| !present.contains_key(*name));
    gone.filter_map(number).filter(|number| there.contains(number)).collect()
}

/// Whether a record has been made for a raw name of our making since.
fn has_record(db: &Db, id: &str, name: &str) -> Result<bool> {
    let Some((namespace, _, key)) = backend_parts(name) else { return Ok(false) };
    let record: Option<record::Snapshot> =
        db.view(|tx| record::get(tx, &keys::snapshot(namespace, id, key)))?;
    Ok(record.is_some_and(|record| record.backend == name))
}

/// All names, each before its parent.
fn children_first(present: &HashMap<String, String>) -> Vec<&str> {
    let mut children: HashMap<&str, usize> = HashMap::new();
    for parent in present.values() {
        *children.entry(parent).or_default() += 1;
    }
    let mut free: Vec<&str> =
        present.keys().map(String::as_str).filter(|name| !children.contains_key(name)).collect();
    let mut ordered = Vec::with_capacity(present.len());
    while let Some(name) = free.pop() {
        ordered.push(name);
        let parent = present[name].as_str();
        if let Some(left) = children.get_mut(parent) {
            *left -= 1;
            if *left == 0 && present.contains_key(parent) {
                free.push(parent);
            }
        }
    }
    ordered
}

// --- content ---

/// What the records of ingests name: raw references, and digests that are shared from elsewhere.
fn ingests(tx: &dyn Read) -> Result<(HashSet<String>, HashSet<String>)> {
    let (mut references, mut expected) = (HashSet::new(), HashSet::new());
    for namespace in namespaces(tx)? {
        tx.scan(&keys::all(&namespace, object::INGESTS), &mut |key, value| {
            let ingest: record::Ingest = record::decode(key, value)?;
            references.insert(ingest.backend);
            expected.extend(ingest.expected);
            Ok(true)
        })?;
    }
    Ok((references, expected))
}

fn in_use(tx: &dyn Read, digest: &Digest) -> Result<bool> {
    for namespace in namespaces(tx)? {
        if tx.get(&blob_key(&namespace, digest.as_str()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(ingests(tx)?.1.contains(digest.as_str()))
}

async fn content(db: &Arc<Db>, first: bool) -> Result<()> {
    let cx = context();
    if first {
        lost::blobs(db, &cx).await?;
    }
    let mut unnamed = Vec::new();
    let mut list = db.content.list(&cx, &Filters::all());
    while let Some(info) = list.next().await {
        let digest = info?.digest;
        if !db.view(|tx| named(tx, &digest))? {
            unnamed.push(digest);
        }
    }
    drop(list);
    for digest in unnamed {
        let Some(_lock) = db.locks.try_lock(blob_lock(digest.as_str())) else {
            db.garbage().content = true;
            continue;
        };
        if db.view(|tx| in_use(tx, &digest))? {
            continue;
        }
        match db.content.delete(&cx, &digest).await {
            Ok(()) => tracing::debug!(%digest, "removed content"),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.context(format!("remove content {digest}"))),
        }
        fail::fail_point!("collect.content-removed", |_| Ok(()));
    }
    abandoned_ingests(db, &cx).await
}

/// Whether some namespace has a record of the blob; ingests are looked at later.
fn named(tx: &dyn Read, digest: &Digest) -> Result<bool> {
    for namespace in namespaces(tx)? {
        if tx.get(&blob_key(&namespace, digest.as_str()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn abandoned_ingests(db: &Arc<Db>, cx: &Context) -> Result<()> {
    let statuses = db.content.list_statuses(cx, &Filters::all()).await?;
    // Read afterwards: an ingest's record is there before the ingest.
    let (references, _) = db.view(ingests)?;
    for status in statuses {
        let reference = &status.reference;
        if references.contains(reference) {
            continue;
        }
        match db.content.abort(cx, reference).await {
            Ok(()) => tracing::debug!(reference, "aborted ingest"),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                // Its writer may still be there.
                tracing::warn!(reference, error = %error.chain(), "failed to abort ingest");
                db.garbage().content = true;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_come_before_their_parents() {
        let present: HashMap<String, String> = [("a", ""), ("b", "a"), ("c", "b"), ("d", "b"), ("e", "gone")]
            .map(|(n, p)| (n.into(), p.into()))
            .into();
        let ordered = children_first(&present);
        let at = |name| ordered.iter().position(|n| *n == name).unwrap();
        assert_eq!(ordered.len(), 5);
        assert!(at("c") < at("b") && at("d") < at("b") && at("b") < at("a"));
    }

    #[test]
    fn only_commits_that_were_cut_off_keep_their_number() {
        let recorded = HashSet::from(["n/1/key".to_owned(), "n/2/key".to_owned(), "remote".to_owned()]);
        let present =
            HashMap::from([("n/1/name".to_owned(), String::new()), ("n/2/key".to_owned(), String::new())]);
        assert_eq!(cut_off_commits(&recorded, &present), HashSet::from([("n", "1")]));
    }
}
