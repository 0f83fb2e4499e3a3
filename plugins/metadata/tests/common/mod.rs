//! A database over fakes: raw stores, an engine and an exchange in memory.
#![allow(dead_code, clippy::unwrap_used)]

mod content;
mod snapshots;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
pub use content::FakeContent;
pub use snapshots::FakeSnapshotter;
use windlass_core::event::{Envelope, Event, Exchange, Subscription};
use windlass_core::gc::{Collector, Stats};
use windlass_core::metadata::Database as _;
use windlass_core::metastore::{Body, Done, Each, MetaStore, Read, Write};
use windlass_core::{Class, Context, Error, Labels, Result, snapshot};
use windlass_metadata::{Database, Options, Policy};

pub fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// An engine that forgets everything. Bodies run where they are submitted.
#[derive(Default)]
pub struct MemoryStore(Mutex<BTreeMap<Vec<u8>, Bytes>>);

struct MemoryTx<'a>(&'a mut BTreeMap<Vec<u8>, Bytes>);

impl Read for MemoryTx<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }
    fn scan_from(&self, prefix: &[u8], start: &[u8], each: Each<'_>) -> Result<()> {
        let range = (Bound::Included(start.max(prefix)), Bound::Unbounded);
        for (key, value) in self.0.range::<[u8], _>(range) {
            if !key.starts_with(prefix) || !each(key, value)? {
                break;
            }
        }
        Ok(())
    }
}

impl Write for MemoryTx<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.insert(key.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.0.remove(key);
        Ok(())
    }
}

impl MetaStore for MemoryStore {
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        let mut copy = self.0.lock().unwrap().clone();
        body(&MemoryTx(&mut copy))
    }
    fn submit(&self, body: Body<'static>, done: Done) {
        let result = {
            let mut map = self.0.lock().unwrap();
            let mut copy = map.clone();
            let result = body(&mut MemoryTx(&mut copy));
            if result.is_ok() {
                *map = copy;
            }
            result
        };
        done(result);
    }
}

/// Remembers what was published.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<(String, Event)>>);

impl Recorder {
    pub fn take(&self) -> Vec<(String, Event)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Exchange for Recorder {
    fn publish(&self, cx: &Context, event: Event) {
        self.0.lock().unwrap().push((cx.namespace.clone(), event));
    }
    fn forward(&self, _: Envelope) -> Result<()> {
        Ok(())
    }
    fn subscribe(&self, _: &[String]) -> Result<Subscription> {
        Err(Error::unimplemented("not here"))
    }
}

pub struct Fixture {
    pub db: Arc<Database>,
    pub store: Arc<dyn MetaStore>,
    pub content: Arc<FakeContent>,
    pub snapshots: Arc<FakeSnapshotter>,
    pub events: Arc<Recorder>,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(Arc::new(MemoryStore::default()), Policy::Shared)
    }

    pub fn with(store: Arc<dyn MetaStore>, policy: Policy) -> Self {
        Self::over(store, policy, Arc::default(), Arc::default())
    }

    pub fn over(
        store: Arc<dyn MetaStore>,
        policy: Policy,
        content: Arc<FakeContent>,
        snapshots: Arc<FakeSnapshotter>,
    ) -> Self {
        let events = Arc::new(Recorder::default());
        let db = Database::open(Options {
            store: store.clone(),
            content: content.clone(),
            snapshotters: BTreeMap::from([("fake".to_owned(), snapshots.clone() as snapshot::Shared)]),
            events: Some(events.clone()),
            policy,
            sweep_limit: Duration::from_secs(5),
        })
        .unwrap();
        Self { db: Arc::new(db), store, content, snapshots, events }
    }

    /// The same data after the daemon has died.
    pub fn restarted(&self) -> Self {
        self.content.close_writers();
        Self::over(self.store.clone(), Policy::Shared, self.content.clone(), self.snapshots.clone())
    }

    pub fn snapshotter(&self) -> snapshot::Shared {
        self.db.snapshotter("fake").unwrap()
    }

    pub async fn collect(&self) -> Stats {
        self.db.collect().await.unwrap()
    }

    /// Writes a blob by way of an ingest.
    pub async fn blob(&self, cx: &Context, data: &str, labels: Labels) -> windlass_core::Digest {
        let options =
            windlass_core::content::WriterOptions { reference: format!("ref-{data}"), ..Default::default() };
        let mut writer = self.db.content().writer(cx, options).await.unwrap();
        writer.write(Bytes::from(data.to_owned())).await.unwrap();
        writer.commit(data.len() as u64, None, labels).await.unwrap()
    }

    /// Prepares and commits a snapshot under `name`.
    pub async fn layer(&self, cx: &Context, name: &str, parent: &str, labels: Labels) {
        let snapshotter = self.snapshotter();
        let key = format!("active-{name}");
        snapshotter.prepare(cx, &key, parent, Labels::new()).await.unwrap();
        let options = snapshot::CommitOptions { labels, ..Default::default() };
        snapshotter.commit(cx, name, &key, options).await.unwrap();
    }
}
