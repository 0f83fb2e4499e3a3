//! Collection: marks what is reachable, removes the records of the rest, then what no record names in the backends.
//!
//! Marking reads page by page and holds nobody up. Meanwhile the barrier notes every record that is written; a batch of
//! removals, which is one transaction and so alone, first looks at all that was noted and marks what it refers to. So
//! whatever is reachable when a batch runs is marked by then:
//! follow the path from a root; each record on it was either read as it stands, or noted and looked at again. A record
//! noted is kept until the next collection even if nothing refers to it: its writer may be about to.
//!
//! Garbage goes in batches, what refers before what is referred to, so that whatever remains between two batches, or
//! after a crash, is whole.
//!
//! The first collection after a start looks the other way too, for records whose data is gone: see [`lost`].

mod labels;
mod lost;
mod mark;
mod sweep;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use windlass_core::event::Event;
use windlass_core::gc::Stats;
use windlass_core::{Error, Result};

use crate::db::{Db, Tx};
use crate::keys::{self, Place, object};
use crate::record;
use mark::Marker;

/// Records removed in one transaction: about a millisecond.
const BATCH: usize = 200;

/// Runs one collection.
pub(crate) async fn run(db: &Arc<Db>) -> Result<Stats> {
    let _alone = db.collecting.lock().await;
    let began = Instant::now();
    let deletions = db.deletions.swap(0, Ordering::Relaxed);
    let collected = records(db).await;
    db.barrier.lower();
    let mut stats = collected.inspect_err(|_| {
        db.deletions.fetch_add(deletions, Ordering::Relaxed);
    })?;
    fail::fail_point!("collect.records-removed");
    sweep::backends(db).await;
    fail::fail_point!("collect.done");
    stats.elapsed = began.elapsed();
    tracing::debug!(elapsed = ?stats.elapsed, paused = ?stats.paused, removed = stats.removed, "collected");
    Ok(stats)
}

async fn records(db: &Arc<Db>) -> Result<Stats> {
    let raised = db.clone();
    db.update(move |tx| {
        tx.quiet();
        raised.barrier.raise();
        Ok(())
    })
    .await?;
    fail::fail_point!("collect.mark");
    let marking = db.clone();
    let marked = tokio::task::spawn_blocking(move || {
        let mut marker = Marker::new(SystemTime::now());
        marker.mark_all(&marking)?;
        let garbage = order(&marking, &marker)?;
        Ok::<_, Error>((marker, garbage))
    });
    let (mut marker, mut garbage) =
        marked.await.map_err(|source| Error::internal("marking ended early").with_source(source))??;
    fail::fail_point!("collect.marked");
    let mut stats = Stats::default();
    while !garbage.is_empty() {
        let barrier = db.clone();
        let (removed, paused);
        (marker, garbage, removed, paused) = db
            .update(move |tx| {
                tx.quiet();
                let began = Instant::now();
                for key in barrier.barrier.drain() {
                    marker.again(tx.read(), &key)?;
                }
                marker.follow(tx.read(), usize::MAX)?;
                let mut removed = 0;
                for key in garbage.drain(..garbage.len().min(BATCH)) {
                    if !marker.is_marked(&key) && tx.has(&key)? {
                        remove(tx, &key)?;
                        removed += 1;
                    }
                }
                Ok((marker, garbage, removed, began.elapsed()))
            })
            .await?;
        fail::fail_point!("collect.batch");
        stats.removed += removed;
        stats.paused = stats.paused.max(Duration::ZERO) + paused;
    }
    Ok(stats)
}

/// What is not marked: what refers first, what it refers to behind it.
fn order(db: &Db, marker: &Marker) -> Result<VecDeque<Vec<u8>>> {
    let garbage: Vec<&Vec<u8>> = marker.all.iter().filter(|key| !marker.is_marked(key)).collect();
    if garbage.len() <= BATCH {
        return Ok(garbage.into_iter().cloned().collect());
    }
    let index: HashMap<&[u8], usize> =
        garbage.iter().enumerate().map(|(at, key)| (key.as_slice(), at)).collect();
    let mut edges: Vec<Vec<usize>> = Vec::with_capacity(garbage.len());
    for page in garbage.chunks(BATCH) {
        db.view(|tx| {
            for key in page {
                let references = marker.references(tx, key, mark::Depth::Full)?;
                edges.push(
                    references.iter().filter_map(|(key, _)| index.get(key.as_slice()).copied()).collect(),
                );
            }
            Ok(())
        })?;
    }
    // Depth first; a node is written down behind all that it refers to, and the list is turned round at the end.
    let mut done = vec![false; garbage.len()];
    let mut ordered = VecDeque::with_capacity(garbage.len());
    for start in 0..garbage.len() {
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut done[start], true) {
            continue;
        }
        while let Some((node, next)) = path.pop() {
            match edges[node].get(next) {
                Some(&target) => {
                    path.push((node, next + 1));
                    if !std::mem::replace(&mut done[target], true) {
                        path.push((target, 0));
                    }
                }
                None => ordered.push_front(garbage[node].clone()),
            }
        }
    }
    Ok(ordered)
}

/// Removes one record with what belongs to it.
fn remove(tx: &mut Tx<'_>, key: &[u8]) -> Result<()> {
    let Some(place) = Place::of(key) else { return Ok(()) };
    let ns = &place.namespace;
    tracing::debug!(namespace = %ns, object = %place.object, name = %place.names.join("/"), "collect");
    match place.object.as_str() {
        object::SNAPSHOTS => {
            let (snapshotter, name) = (place.name(0), place.name(1));
            if let Some(record) = tx.find::<record::Snapshot>(key)?
                && !record.parent.is_empty()
            {
                tx.delete(&keys::child(ns, snapshotter, &record.parent, name))?;
            }
            tx.snapshot_garbage(snapshotter);
            let event = Event::SnapshotRemove { key: name.to_owned(), snapshotter: snapshotter.to_owned() };
            tx.event(ns, event);
        }
        object::BLOBS | object::INGESTS => tx.content_garbage(),
        object::LEASES => tx.delete_all(&keys::resources(ns, place.name(0)))?,
        object::IMAGES => tx.event(ns, Event::ImageDelete { name: place.name(0).to_owned() }),
        _ => {}
    }
    tx.delete(key)
}
