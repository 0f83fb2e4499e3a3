//! Marking: from the roots along the references. A node is the key of an object's record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::SystemTime;

use windlass_core::metastore::Read;
use windlass_core::{Labels, Result};

use super::labels::{self, Condition};
use crate::db::{Db, keys_of};
use crate::keys::{self, Place, object};
use crate::record::{self, Record};

/// Records looked at in one view.
const PAGE: usize = 256;

/// How far a node's references are followed: a flat lease keeps a snapshot with its parents, or an image with its
/// target, and nothing that their labels refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    Flat,
    Full,
}

type Node = Vec<u8>;

pub(super) struct Marker {
    /// What counts as now for everything that expires.
    now: SystemTime,
    marked: HashMap<Node, Depth>,
    /// Marked, and not yet followed.
    gray: Vec<(Node, Depth)>,
    /// References that the one referred to has declared.
    back: HashMap<Node, Vec<Node>>,
    /// The same, while a condition on the snapshot is met.
    conditional: HashMap<Node, Vec<(Condition, Node)>>,
    /// Everything that can be collected.
    pub(super) all: Vec<Node>,
}

impl Marker {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            now,
            marked: HashMap::new(),
            gray: Vec::new(),
            back: HashMap::new(),
            conditional: HashMap::new(),
            all: Vec::new(),
        }
    }

    pub(super) fn is_marked(&self, node: &[u8]) -> bool {
        self.marked.contains_key(node)
    }

    /// Finds the roots of all namespaces and marks what is reachable. Blocks; reads in short views.
    pub(super) fn mark_all(&mut self, db: &Db) -> Result<()> {
        for namespace in db.view(|tx| keys_of(tx, &keys::namespaces()))? {
            self.scan(db, &keys::name(&namespace))?;
        }
        while !self.gray.is_empty() {
            db.view(|tx| self.follow(tx, PAGE))?;
        }
        Ok(())
    }

    fn scan(&mut self, db: &Db, ns: &str) -> Result<()> {
        self.each::<record::Lease>(db, ns, object::LEASES, |marker, tx, key, lease| {
            marker.all.push(key.to_vec());
            if labels::has_expired(&lease.labels, marker.now) {
                return Ok(());
            }
            marker.mark(key.to_vec(), Depth::Full);
            let depth = depth_of(&lease);
            for resource in keys_of(tx, &keys::resources(ns, &keys::name(key)))? {
                marker.mark_resource(&resource, depth);
            }
            Ok(())
        })?;
        self.each::<record::Image>(db, ns, object::IMAGES, |marker, _, key, image| {
            marker.all.push(key.to_vec());
            if labels::has_expired(&image.labels, marker.now) {
                marker.declare(ns, key, &image.labels);
            } else {
                marker.mark(key.to_vec(), Depth::Full);
            }
            marker.declare_conditions(ns, key, &image.labels);
            Ok(())
        })?;
        self.each::<record::Ingest>(db, ns, object::INGESTS, |marker, _, key, ingest| {
            marker.all.push(key.to_vec());
            if ingest.expires.is_some_and(|expires| marker.now <= SystemTime::from(expires)) {
                marker.mark(key.to_vec(), Depth::Full);
            }
            Ok(())
        })?;
        self.each::<record::Blob>(db, ns, object::BLOBS, |marker, _, key, blob| {
            marker.collectable(ns, key, &blob.labels);
            marker.declare_conditions(ns, key, &blob.labels);
            Ok(())
        })?;
        self.each::<record::Container>(db, ns, object::CONTAINERS, |marker, _, key, container| {
            marker.mark(key.to_vec(), Depth::Full);
            marker.declare(ns, key, &container.labels);
            Ok(())
        })?;
        self.each::<record::Snapshot>(db, ns, object::SNAPSHOTS, |marker, _, key, snapshot| {
            marker.collectable(ns, key, &snapshot.labels);
            Ok(())
        })?;
        self.each::<record::Sandbox>(db, ns, object::SANDBOXES, |marker, _, _, sandbox| {
            marker.mark_references(ns, &sandbox.labels);
            Ok(())
        })
    }

    /// Reads all objects of a kind, a page per view.
    fn each<T: Record>(
        &mut self,
        db: &Db,
        ns: &str,
        object: &str,
        mut found: impl FnMut(&mut Self, &dyn Read, &[u8], T) -> Result<()>,
    ) -> Result<()> {
        let prefix = keys::all(ns, object);
        let mut start = prefix.clone();
        loop {
            let full = db.view(|tx| {
                let mut count = 0;
                let mut last = Vec::new();
                tx.scan_from(&prefix, &start, &mut |key, value| {
                    found(self, tx, key, record::decode(key, value)?)?;
                    count += 1;
                    if count == PAGE {
                        last = [key, &[0]].concat();
                    }
                    Ok(count < PAGE)
                })?;
                start = last;
                Ok(count == PAGE)
            })?;
            if !full {
                return Ok(());
            }
        }
    }

    /// A blob or snapshot: garbage unless something refers to it, or its label makes it a root.
    fn collectable(&mut self, ns: &str, key: &[u8], labels: &Labels) {
        self.all.push(key.to_vec());
        self.declare(ns, key, labels);
        if labels::is_root(labels) {
            self.mark(key.to_vec(), Depth::Full);
        }
    }

    fn declare(&mut self, ns: &str, key: &[u8], labels: &Labels) {
        for parent in labels::back_references(ns, labels) {
            self.back.entry(parent).or_default().push(key.to_vec());
        }
    }

    fn declare_conditions(&mut self, ns: &str, key: &[u8], labels: &Labels) {
        for (snapshot, condition) in labels::conditions(ns, labels) {
            self.conditional.entry(snapshot).or_default().push((condition, key.to_vec()));
        }
    }

    fn mark(&mut self, node: Node, depth: Depth) {
        match self.marked.entry(node) {
            Entry::Occupied(known) if *known.get() >= depth => {}
            Entry::Occupied(mut known) => {
                known.insert(depth);
                self.gray.push((known.key().clone(), depth));
            }
            Entry::Vacant(new) => {
                self.gray.push((new.key().clone(), depth));
                new.insert(depth);
            }
        }
    }

    fn mark_references(&mut self, ns: &str, labels: &Labels) {
        for node in labels::references(ns, labels) {
            self.mark(node, Depth::Full);
        }
    }

    /// Marks what the key of a lease's resource stands for.
    fn mark_resource(&mut self, resource: &[u8], depth: Depth) {
        let Some(place) = Place::of(resource) else { return };
        let (ns, kind, id) = (&place.namespace, place.name(1), place.name(2));
        match kind.split_once('/') {
            Some((object::SNAPSHOTS, snapshotter)) => self.mark(keys::snapshot(ns, snapshotter, id), depth),
            None if kind == object::CONTENT => self.mark(keys::one(ns, object::BLOBS, id), depth),
            None if kind == object::IMAGES => self.mark(keys::one(ns, object::IMAGES, id), depth),
            None if kind == object::INGESTS => self.mark(keys::one(ns, object::INGESTS, id), Depth::Full),
            _ => {}
        }
    }

    /// Follows up to `limit` marked nodes.
    pub(super) fn follow(&mut self, tx: &dyn Read, limit: usize) -> Result<()> {
        for _ in 0..limit {
            let Some((node, depth)) = self.gray.pop() else { break };
            for (reference, depth) in self.references(tx, &node, depth)? {
                self.mark(reference, depth);
            }
        }
        Ok(())
    }

    /// Looks again at a record that has been written since marking began.
    pub(super) fn again(&mut self, tx: &dyn Read, key: &[u8]) -> Result<()> {
        let Some(place) = Place::of(key) else { return Ok(()) };
        let Some(value) = tx.get(key)? else { return Ok(()) };
        match place.object.as_str() {
            object::LEASED => {
                let lease: Option<record::Lease> =
                    record::get(tx, &keys::one(&place.namespace, object::LEASES, place.name(0)))?;
                self.mark_resource(key, lease.as_ref().map_or(Depth::Full, depth_of));
            }
            object::SANDBOXES => {
                let sandbox: record::Sandbox = record::decode(key, &value)?;
                self.mark_references(&place.namespace, &sandbox.labels);
            }
            object::CHILDREN => {}
            _ => {
                // What it refers to may have changed, so it is followed again even if it was before.
                self.marked.insert(key.to_vec(), Depth::Full);
                self.gray.push((key.to_vec(), Depth::Full));
            }
        }
        Ok(())
    }

    /// What a node refers to. A node that is not there refers to nothing but what declared it.
    pub(super) fn references(&self, tx: &dyn Read, node: &[u8], depth: Depth) -> Result<Vec<(Node, Depth)>> {
        let mut found = Vec::new();
        let Some(place) = Place::of(node) else { return Ok(found) };
        let full = depth == Depth::Full;
        if full {
            found.extend(self.back.get(node).into_iter().flatten().map(|child| (child.clone(), Depth::Full)));
        }
        let Some(value) = tx.get(node)? else { return Ok(found) };
        let ns = &place.namespace;
        let own_labels = match place.object.as_str() {
            object::BLOBS => record::decode::<record::Blob>(node, &value)?.labels,
            object::SNAPSHOTS => {
                let snapshot: record::Snapshot = record::decode(node, &value)?;
                if !snapshot.parent.is_empty() {
                    found.push((keys::snapshot(ns, place.name(0), &snapshot.parent), depth));
                }
                if full {
                    let conditional = self.conditional.get(node).into_iter().flatten();
                    let met = conditional.filter(|(condition, _)| condition.met(&snapshot.labels, self.now));
                    found.extend(met.map(|(_, child)| (child.clone(), Depth::Full)));
                }
                snapshot.labels
            }
            object::IMAGES => {
                let image: record::Image = record::decode(node, &value)?;
                found.push((keys::one(ns, object::BLOBS, &image.digest), depth));
                image.labels
            }
            object::INGESTS => {
                let ingest: record::Ingest = record::decode(node, &value)?;
                found.extend(
                    ingest.expected.map(|digest| (keys::one(ns, object::BLOBS, &digest), Depth::Full)),
                );
                return Ok(found);
            }
            object::CONTAINERS => {
                let container: record::Container = record::decode(node, &value)?;
                if !container.snapshotter.is_empty() {
                    let snapshot = keys::snapshot(ns, &container.snapshotter, &container.snapshot_key);
                    found.push((snapshot, Depth::Full));
                }
                if !container.image.is_empty() {
                    found.push((keys::one(ns, object::IMAGES, &container.image), Depth::Full));
                }
                container.labels
            }
            _ => return Ok(found),
        };
        if full {
            found.extend(labels::references(ns, &own_labels).into_iter().map(|node| (node, Depth::Full)));
        }
        Ok(found)
    }
}

fn depth_of(lease: &record::Lease) -> Depth {
    if lease.labels.contains_key(labels::FLAT) { Depth::Flat } else { Depth::Full }
}
