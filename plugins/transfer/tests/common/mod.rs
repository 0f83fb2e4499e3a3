//! What the transfer tests share: a real stack of stores under a temporary root, a registry that lies on request, and
//! images made on the spot.

#![allow(dead_code)]

pub mod images;
pub mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tempfile::TempDir;
use windlass_core::image::Image;
use windlass_core::metadata::Database as _;
use windlass_core::platform::Platform;
use windlass_core::transfer::{
    ByteSink, ByteSource, Destination, ImageStore, Progress, ProgressSink, Registry, Source, Transferrer,
    Unpack,
};
use windlass_core::{Context, Digest, Filters, Result, diff, snapshot};
use windlass_metadata::{Database, Options, Policy};
use windlass_transfer::Config;
use windlass_transfer::local::{Local, Parts, Unpacker};
use windlass_transfer::registry::Limits;

/// Stores over one temporary root, and the transferrer over them.
pub struct Stack {
    pub root: TempDir,
    pub db: Arc<Database>,
    pub local: Local,
    pub cx: Context,
    pub snapshotter: &'static str,
}

pub fn limits() -> Limits {
    Limits {
        dial: Duration::from_secs(5),
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(5),
        idle: Duration::from_millis(300),
        attempts: 5,
        back_off: Duration::from_millis(5),
        max_back_off: Duration::from_millis(50),
    }
}

impl Stack {
    pub fn new(snapshotter: &'static str) -> Self {
        Self::with(snapshotter, Config::default())
    }

    pub fn with(snapshotter: &'static str, config: Config) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let store = windlass_metastore::open(&dir("meta"), windlass_metastore::Options::default()).unwrap();
        let content = windlass_content::Store::open(&dir("content")).unwrap();
        let at = dir("snapshots");
        let snapshots: snapshot::Shared = match snapshotter {
            "native" => Arc::new(windlass_snapshotter::Native::open(&at, "native", store.clone()).unwrap()),
            _ => {
                let options = windlass_snapshotter::Options::default();
                Arc::new(
                    windlass_snapshotter::Overlay::open(&at, "overlayfs", store.clone(), options).unwrap(),
                )
            }
        };
        let db = Database::open(Options {
            store,
            content: Arc::new(content),
            snapshotters: BTreeMap::from([(snapshotter.to_owned(), snapshots)]),
            events: None,
            policy: Policy::Shared,
            sweep_limit: Duration::from_secs(30),
        })
        .unwrap();
        let db = Arc::new(db);
        let differ: Arc<dyn diff::Differ> =
            Arc::new(windlass_diff::Walking::new(db.content(), windlass_diff::Limit::default()));
        let unpacker = Unpacker {
            platform: Platform::host(),
            only_os: true,
            config_type: String::new(),
            layer_types: Vec::new(),
            id: snapshotter.into(),
            snapshotter: db.snapshotter(snapshotter).unwrap(),
            differs: vec![differ.clone()],
        };
        let finder = db.clone();
        let parts = Parts {
            content: db.content(),
            images: db.images(),
            leases: db.leases(),
            unpackers: vec![Arc::new(unpacker)],
            differs: vec![differ],
            snapshotters: Box::new(move |id| finder.snapshotter(id)),
        };
        let local = Local::with_limits(parts, config, limits());
        Self { root, db, local, cx: Context::new("test"), snapshotter }
    }

    pub async fn pull(&self, registry: Registry) -> Result<Vec<Image>> {
        self.pull_to(registry.clone(), self.store(&registry.reference)).await
    }

    pub fn store(&self, name: &str) -> ImageStore {
        ImageStore {
            name: name.into(),
            platforms: vec![Platform::host()],
            unpacks: vec![Unpack { platform: Some(Platform::host()), snapshotter: self.snapshotter.into() }],
            ..ImageStore::default()
        }
    }

    pub async fn pull_to(&self, registry: Registry, to: ImageStore) -> Result<Vec<Image>> {
        self.transfer(Source::Registry(registry), Destination::ImageStore(to)).await
    }

    pub async fn transfer(&self, from: Source, to: Destination) -> Result<Vec<Image>> {
        self.local.transfer(&self.cx, from, to, Arc::new(Lines::default())).await
    }

    pub async fn snapshots(&self) -> Vec<snapshot::Info> {
        let all = self.db.snapshotter(self.snapshotter).unwrap();
        let mut all: Vec<_> = all.list(&self.cx, &Filters::all()).map(|i| i.unwrap()).collect().await;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// References of ingests that are under way.
    pub async fn ingests(&self) -> Vec<(String, u64)> {
        let all = self.db.content().list_statuses(&self.cx, &Filters::all()).await.unwrap();
        all.into_iter().map(|s| (s.reference, s.offset)).collect()
    }

    pub async fn has(&self, digest: &Digest) -> bool {
        self.db.content().info(&self.cx, digest).await.is_ok()
    }

    pub async fn labels(&self, digest: &Digest) -> windlass_core::Labels {
        self.db.content().info(&self.cx, digest).await.unwrap().labels
    }

    /// No snapshot, no image, no lease, and no ingest of `refused`; others may be resumed.
    pub async fn assert_clean_of(&self, refused: &Digest) {
        let left = self.ingests().await;
        assert!(
            left.iter().all(|(name, offset)| !name.contains(refused.as_str()) && *offset > 0),
            "{left:?}"
        );
        self.assert_nothing_visible().await;
    }

    /// No snapshot, no ingest, no image, no lease.
    pub async fn assert_clean(&self) {
        assert_eq!(self.ingests().await, []);
        self.assert_nothing_visible().await;
    }

    async fn assert_nothing_visible(&self) {
        assert!(self.snapshots().await.is_empty(), "{:?}", self.snapshots().await);
        assert!(self.db.images().list(&self.cx, &Filters::all()).await.unwrap().is_empty());
        self.assert_no_lease().await;
    }

    pub async fn assert_no_lease(&self) {
        assert!(self.db.leases().list(&self.cx, &Filters::all()).await.unwrap().is_empty());
    }

    /// The files of a committed snapshot, mounted for the time of `look`.
    pub async fn look<T>(&self, chain: &str, look: impl FnOnce(&Path) -> T) -> T {
        let snapshots = self.db.snapshotter(self.snapshotter).unwrap();
        let key = format!("view-{chain}");
        let mounts = snapshots.view(&self.cx, &key, chain, Default::default()).await.unwrap();
        let result = {
            let temp = windlass_core::mount::temp_read_only(&mounts).unwrap();
            look(temp.path())
        };
        snapshots.remove(&self.cx, &key).await.unwrap();
        result
    }

    pub fn path(&self) -> PathBuf {
        self.root.path().to_owned()
    }
}

/// Progress lines as they came.
#[derive(Default)]
pub struct Lines(pub Mutex<Vec<Progress>>);

impl ProgressSink for Lines {
    fn progress(&self, line: Progress) {
        self.0.lock().unwrap().push(line);
    }
}

/// An archive from memory, in pieces.
pub struct Pieces(pub Vec<Bytes>);

impl Pieces {
    pub fn of(data: &[u8]) -> Box<Self> {
        Box::new(Self(data.chunks(10_000).rev().map(Bytes::copy_from_slice).collect()))
    }
}

#[async_trait]
impl ByteSource for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.pop())
    }
}

/// An archive into memory.
#[derive(Clone, Default)]
pub struct Memory(pub Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl ByteSink for Memory {
    async fn send(&mut self, data: Bytes) -> Result<()> {
        self.0.lock().unwrap().extend_from_slice(&data);
        Ok(())
    }
    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
