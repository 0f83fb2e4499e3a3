//! Transactions over the engine, and what all stores share.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use windlass_core::event::{Event, Exchange};
use windlass_core::metastore::{MetaStore, Read, Write};
use windlass_core::{Context, Error, Result};
use windlass_core::{container, content, gc, image, lease, metadata, namespace, sandbox, snapshot};

use crate::locks::Locks;
use crate::record::{Number, Record};
use crate::{collect, keys, record};

/// How many numbers are taken from the stored sequence at once.
const SEQUENCE_STEP: u64 = 1000;

/// Whether a namespace reaches the content of others by its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Whoever knows a digest has the content.
    #[default]
    Shared,
    /// Only who sends the bytes has it, or reads it in a namespace that is labelled shareable.
    Isolated,
}

/// What a database is made of.
pub struct Options {
    pub store: Arc<dyn MetaStore>,
    /// The raw content store.
    pub content: Arc<dyn content::Store>,
    /// The raw snapshotters by id.
    pub snapshotters: BTreeMap<String, snapshot::Shared>,
    pub events: Option<Arc<dyn Exchange>>,
    pub policy: Policy,
    /// How long a collection waits for one backend. What is left then is taken up by the next.
    pub sweep_limit: Duration,
}

/// The metadata database.
pub struct Database(pub(crate) Arc<Db>);

pub(crate) struct Db {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) content: Arc<dyn content::Store>,
    pub(crate) snapshotters: BTreeMap<String, snapshot::Shared>,
    events: Option<Arc<dyn Exchange>>,
    pub(crate) policy: Policy,
    pub(crate) locks: Locks,
    pub(crate) barrier: Barrier,
    pub(crate) garbage: Mutex<Garbage>,
    observers: RwLock<Vec<Observer>>,
    /// Transactions since the last collection that may have left garbage.
    pub(crate) deletions: AtomicU64,
    sequence: Mutex<std::ops::Range<u64>>,
    /// One collection at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// How often a raw snapshot without a record got one: a sweep that sees this change looks again.
    pub(crate) adopted: AtomicU64,
    /// How long the sweep of one backend may take.
    pub(crate) sweep_limit: Duration,
}

type Observer = Box<dyn Fn(bool) + Send + Sync>;

/// While a collection marks: the keys of all records that have been written since it began. Marking may have read them
/// before, so they are looked at again before anything is removed.
#[derive(Default)]
pub(crate) struct Barrier(Mutex<Option<HashSet<Vec<u8>>>>);

/// Backends that may hold what no record names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Garbage {
    pub(crate) content: bool,
    pub(crate) snapshotters: BTreeSet<String>,
    /// Nothing has been collected since the start.
    pub(crate) first: bool,
}

/// What a transaction does besides its writes, once it is committed.
#[derive(Default)]
struct Effects {
    deleted: bool,
    /// The collector's own: no reason to collect again.
    quiet: bool,
    garbage: Garbage,
    events: Vec<(String, Event)>,
}

/// A write transaction. Runs on the engine's writer thread: it must not block.
pub(crate) struct Tx<'a> {
    write: &'a mut dyn Write,
    barrier: &'a Barrier,
    effects: &'a mut Effects,
}

// === impl Database ===

impl Database {
    /// Opens the database over an engine, and brings its records to the present schema. Blocks.
    pub fn open(options: Options) -> Result<Self> {
        options.store.update(Box::new(record::migrate))?;
        Ok(Self(Arc::new(Db {
            store: options.store,
            content: options.content,
            // A crash may have left data that no record names: the first collection looks at everything.
            garbage: Mutex::new(Garbage {
                content: true,
                snapshotters: options.snapshotters.keys().cloned().collect(),
                first: true,
            }),
            snapshotters: options.snapshotters,
            events: options.events,
            policy: options.policy,
            locks: Locks::default(),
            barrier: Barrier::default(),
            observers: RwLock::default(),
            deletions: AtomicU64::new(0),
            sequence: Mutex::new(0..0),
            collecting: tokio::sync::Mutex::default(),
            adopted: AtomicU64::new(0),
            sweep_limit: options.sweep_limit,
        })))
    }
}

impl metadata::Database for Database {
    fn namespaces(&self) -> Arc<dyn namespace::Store> {
        Arc::new(crate::namespace::Store(self.0.clone()))
    }

    fn containers(&self) -> Arc<dyn container::Store> {
        Arc::new(crate::container::Store(self.0.clone()))
    }

    fn images(&self) -> Arc<dyn image::Store> {
        Arc::new(crate::image::Store(self.0.clone()))
    }

    fn leases(&self) -> Arc<dyn lease::Manager> {
        Arc::new(crate::lease::Manager(self.0.clone()))
    }

    fn sandboxes(&self) -> Arc<dyn sandbox::Store> {
        Arc::new(crate::sandbox::Store(self.0.clone()))
    }

    fn content(&self) -> Arc<dyn content::Store> {
        Arc::new(crate::content::Store(self.0.clone()))
    }

    fn snapshotter(&self, id: &str) -> Option<snapshot::Shared> {
        crate::snapshot::Snapshotter::new(&self.0, id).map(|s| Arc::new(s) as snapshot::Shared)
    }

    fn snapshotters(&self) -> Vec<String> {
        self.0.snapshotters.keys().cloned().collect()
    }

    fn collector(self: Arc<Self>) -> Arc<dyn gc::Collector> {
        self
    }
}

#[async_trait]
impl gc::Collector for Database {
    async fn collect(&self) -> Result<gc::Stats> {
        collect::run(&self.0).await
    }

    fn on_mutation(&self, observer: Observer) {
        self.0.observers.write().unwrap_or_else(|poisoned| poisoned.into_inner()).push(observer);
    }
}

// === impl Db ===

impl Db {
    /// Runs `body` over one state. It is on the caller's thread: short, and no waiting inside.
    pub(crate) fn view<T>(&self, body: impl FnOnce(&dyn Read) -> Result<T>) -> Result<T> {
        let mut body = Some(body);
        let mut result = None;
        self.store.view(&mut |tx| {
            if let Some(body) = body.take() {
                result = Some(body(tx)?);
            }
            Ok(())
        })?;
        result.ok_or_else(|| Error::internal("the metadata engine did not run a view"))
    }

    /// Runs `body` in a transaction of its own and answers when it is durable. A caller who stops waiting does not stop
    /// it; its events are published, in the order of commits, in any case.
    pub(crate) async fn update<T: Send + 'static>(
        self: &Arc<Self>,
        body: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let slot = Arc::new(Mutex::new(None));
        let (send, receive) = oneshot::channel();
        let job = {
            let (db, slot) = (self.clone(), slot.clone());
            move |write: &mut dyn Write| {
                let mut effects = Effects::default();
                let value = body(&mut Tx { write, barrier: &db.barrier, effects: &mut effects })?;
                *slot.lock().expect("the slot is only filled and emptied") = Some((value, effects));
                Ok(())
            }
        };
        let done = {
            let db = self.clone();
            move |result: Result<()>| {
                let answer = result.and_then(|()| {
                    let filled = slot.lock().expect("the slot is only filled and emptied").take();
                    let (value, effects) =
                        filled.ok_or_else(|| Error::internal("the metadata engine did not run a change"))?;
                    db.committed(effects);
                    Ok(value)
                });
                // A caller who has gone does not want the answer.
                let _ = send.send(answer);
            }
        };
        self.store.submit(Box::new(job), Box::new(done));
        receive.await.unwrap_or_else(|_| Err(Error::unavailable("the metadata engine has ended")))
    }

    fn committed(&self, effects: Effects) {
        {
            let mut garbage = self.garbage();
            garbage.content |= effects.garbage.content;
            garbage.snapshotters.extend(effects.garbage.snapshotters);
        }
        for (namespace, event) in effects.events {
            self.publish(&namespace, event);
        }
        if effects.quiet {
            return;
        }
        if effects.deleted {
            self.deletions.fetch_add(1, Ordering::Relaxed);
        }
        self.tell_observers();
    }

    fn tell_observers(&self) {
        let dirty = self.deletions.load(Ordering::Relaxed) > 0;
        for observer in &*self.observers.read().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            observer(dirty);
        }
    }

    /// Something in a backend was left behind without a record: it is due for collection.
    pub(crate) fn left_behind(&self, mark: impl FnOnce(&mut Garbage)) {
        mark(&mut self.garbage());
        self.deletions.fetch_add(1, Ordering::Relaxed);
        self.tell_observers();
    }

    pub(crate) fn garbage(&self) -> MutexGuard<'_, Garbage> {
        self.garbage.lock().expect("the marks are changed without panics")
    }

    pub(crate) fn publish(&self, namespace: &str, event: Event) {
        if let Some(events) = &self.events {
            events.publish(&Context::new(namespace), event);
        }
    }

    /// A number that was never given before and never will be again.
    pub(crate) async fn number(self: &Arc<Self>) -> Result<u64> {
        if let Some(number) = self.sequence().next() {
            return Ok(number);
        }
        let fresh = self
            .update(|tx| {
                let Number(start) = tx.find(keys::SEQUENCE)?.unwrap_or(Number(1));
                tx.put(keys::SEQUENCE, &Number(start + SEQUENCE_STEP))?;
                Ok(start..start + SEQUENCE_STEP)
            })
            .await?;
        let mut sequence = self.sequence();
        if sequence.is_empty() {
            *sequence = fresh;
        }
        sequence.next().ok_or_else(|| Error::internal("a fresh sequence is empty"))
    }

    fn sequence(&self) -> MutexGuard<'_, std::ops::Range<u64>> {
        self.sequence.lock().expect("the sequence is changed without panics")
    }
}

// === impl Barrier ===

impl Barrier {
    fn touched(&self) -> MutexGuard<'_, Option<HashSet<Vec<u8>>>> {
        self.0.lock().expect("the set is changed without panics")
    }

    fn note(&self, key: &[u8]) {
        if let Some(touched) = &mut *self.touched() {
            touched.insert(key.to_vec());
        }
    }

    /// Starts anew; called on the writer thread, so that every later transaction is noted and every earlier one seen.
    pub(crate) fn raise(&self) {
        *self.touched() = Some(HashSet::new());
    }

    /// What has been written since it was raised or last drained.
    pub(crate) fn drain(&self) -> HashSet<Vec<u8>> {
        self.touched().as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn lower(&self) {
        *self.touched() = None;
    }
}

// === impl Tx ===

impl Tx<'_> {
    pub(crate) fn read(&self) -> &dyn Read {
        self.write
    }

    pub(crate) fn find<T: Record>(&self, key: &[u8]) -> Result<Option<T>> {
        record::get(self.write, key)
    }

    pub(crate) fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.write.get(key)?.is_some())
    }

    pub(crate) fn put<T: Record>(&mut self, key: &[u8], record: &T) -> Result<()> {
        self.barrier.note(key);
        self.write.put(key, &record::encode(record)?)
    }

    /// A key of an index, without a value.
    pub(crate) fn put_index(&mut self, key: &[u8]) -> Result<()> {
        self.barrier.note(key);
        self.write.put(key, b"")
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.write.delete(key)
    }

    pub(crate) fn delete_all(&mut self, prefix: &[u8]) -> Result<()> {
        for key in keys_of(self.write, prefix)? {
            self.write.delete(&key)?;
        }
        Ok(())
    }

    /// Makes a namespace known by the first thing in it.
    pub(crate) fn ensure_namespace(&mut self, name: &str) -> Result<()> {
        let key = keys::namespace(name);
        if !self.has(&key)? {
            windlass_core::validate::identifier("namespace", name)?;
            self.put(&key, &record::Namespace::default())?;
        }
        Ok(())
    }

    /// The transaction takes references away: a collection is due.
    pub(crate) fn deleted(&mut self) {
        self.effects.deleted = true;
    }

    /// The transaction is the collector's own and calls for no further collection.
    pub(crate) fn quiet(&mut self) {
        self.effects.quiet = true;
    }

    pub(crate) fn content_garbage(&mut self) {
        self.effects.garbage.content = true;
        self.deleted();
    }

    pub(crate) fn snapshot_garbage(&mut self, snapshotter: &str) {
        self.effects.garbage.snapshotters.insert(snapshotter.to_owned());
        self.deleted();
    }

    /// Publishes once the transaction is committed.
    pub(crate) fn event(&mut self, namespace: &str, event: Event) {
        self.effects.events.push((namespace.to_owned(), event));
    }

    /// Lets the context's lease refer to a resource. False where there is no lease; *not found* where it has gone.
    pub(crate) fn lease(&mut self, cx: &Context, kind: &str, id: &str) -> Result<bool> {
        let Some(lease) = &cx.lease else { return Ok(false) };
        require_lease(self.write, cx)?;
        self.put_index(&keys::resource(&cx.namespace, lease, kind, id))?;
        Ok(true)
    }

    /// Takes that reference back.
    pub(crate) fn unlease(&mut self, cx: &Context, kind: &str, id: &str) -> Result<()> {
        match &cx.lease {
            Some(lease) => self.delete(&keys::resource(&cx.namespace, lease, kind, id)),
            None => Ok(()),
        }
    }
}

/// *Not found* where the context names a lease that is not there.
pub(crate) fn require_lease(tx: &dyn Read, cx: &Context) -> Result<()> {
    match &cx.lease {
        Some(lease) if tx.get(&keys::one(&cx.namespace, keys::object::LEASES, lease))?.is_none() => {
            Err(Error::not_found(format!("lease {lease:?} does not exist: not found")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn keys_of(tx: &(impl Read + ?Sized), prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    tx.scan(prefix, &mut |key, _| {
        keys.push(key.to_vec());
        Ok(true)
    })?;
    Ok(keys)
}

/// Whether there is any key with the prefix.
pub(crate) fn any(tx: &dyn Read, prefix: &[u8]) -> Result<bool> {
    let mut found = false;
    tx.scan(prefix, &mut |_, _| {
        found = true;
        Ok(false)
    })?;
    Ok(found)
}

/// Up to `limit` records with the prefix, from behind `after` on.
pub(crate) fn page<T: Record>(
    tx: &dyn Read,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, T)>> {
    let start = after.map_or_else(|| prefix.to_vec(), |key| [key, &[0]].concat());
    let mut page = Vec::new();
    tx.scan_from(prefix, &start, &mut |key, value| {
        page.push((key.to_vec(), record::decode(key, value)?));
        Ok(page.len() < limit)
    })?;
    Ok(page)
}

/// The present time, as records keep it.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The error for what is not there, in the words that clients know.
pub(crate) fn not_found(what: impl std::fmt::Display) -> Error {
    Error::not_found(format!("{what}: not found"))
}

/// The error for what is there already.
pub(crate) fn exists(what: impl std::fmt::Display) -> Error {
    Error::exists(format!("{what}: already exists"))
}
