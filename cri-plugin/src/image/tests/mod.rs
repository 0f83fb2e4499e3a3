//! Images over real stores, a real transferrer and a registry that misbehaves on request.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../../../../plugins/transfer/tests/common/images.rs"]
mod images;
mod lives;
mod mounts;
mod pulls;
#[allow(dead_code)]
#[path = "../../../../plugins/transfer/tests/common/registry.rs"]
mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass_api::cri;
use windlass_core::metadata::Database as _;
use windlass_core::platform::Platform;
use windlass_core::transfer::{Destination, ImageStore, NoProgress, Source, Transferrer, Unpack};
use windlass_core::{Context, Digest, Filters, diff, snapshot};
use windlass_metadata::{Database, Options, Policy};
use windlass_transfer::Config;
use windlass_transfer::local::{Local, Parts as Local_, Unpacker};
use windlass_transfer::registry::Limits;

use super::*;
use images::Made;
use registry::Registry;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stack {
    root: TempDir,
    cx: Context,
    db: Arc<Database>,
    exchange: Arc<windlass_event::Exchange>,
    local: Arc<Local>,
    config: ImagesConfig,
    images: Arc<Images>,
}

/// A registry may be silent for longer than a test takes.
fn limits() -> Limits {
    Limits {
        dial: Duration::from_secs(5),
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        attempts: 2,
        back_off: Duration::from_millis(5),
        max_back_off: Duration::from_millis(50),
    }
}

fn config(text: &str) -> ImagesConfig {
    toml::from_str(text).unwrap()
}

impl Stack {
    async fn new() -> Self {
        Self::with(ImagesConfig::default()).await
    }

    async fn with(config: ImagesConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let store = windlass_metastore::open(&dir("meta"), windlass_metastore::Options::default()).unwrap();
        let options = windlass_snapshotter::Options::default();
        let overlay =
            windlass_snapshotter::Overlay::open(&dir("overlayfs"), "overlayfs", store.clone(), options)
                .unwrap();
        let native = windlass_snapshotter::Native::open(&dir("native"), "native", store.clone()).unwrap();
        let snapshotters: BTreeMap<String, snapshot::Shared> = BTreeMap::from([
            ("overlayfs".to_owned(), Arc::new(overlay) as snapshot::Shared),
            ("native".to_owned(), Arc::new(native)),
        ]);
        let exchange = Arc::new(windlass_event::Exchange::new(windlass_event::QUEUE));
        let db = Database::open(Options {
            store,
            content: Arc::new(windlass_content::Store::open(&dir("content")).unwrap()),
            snapshotters,
            events: Some(exchange.clone()),
            policy: Policy::Shared,
            sweep_limit: Duration::from_secs(30),
        });
        let db = Arc::new(db.unwrap());
        let local = Arc::new(transferrer(&db));
        let cx = Context::new("k8s.io");
        let parts = parts(root.path(), &cx, &config, &db, &local, &exchange);
        let images = Images::new(parts).await.unwrap();
        Self { root, cx, db, exchange, local, config, images }
    }

    /// The images of a daemon that has just started over the same stores.
    async fn restarted(&self) -> Arc<Images> {
        let parts = parts(self.root.path(), &self.cx, &self.config, &self.db, &self.local, &self.exchange);
        Images::new(parts).await.unwrap()
    }

    async fn pull(&self, name: &str) -> Result<String> {
        self.images.pull(&spec(name), None, None).await
    }

    /// What `ctr` does: a record without labels, unpacked or not.
    async fn pull_as_client(&self, from: transfer::Registry, unpacked: bool) {
        let platform = Platform::host();
        let unpack = Unpack { platform: Some(platform.clone()), snapshotter: "overlayfs".into() };
        let to = ImageStore {
            name: from.reference.clone(),
            platforms: vec![platform],
            unpacks: if unpacked { vec![unpack] } else { Vec::new() },
            ..ImageStore::default()
        };
        let to = Destination::ImageStore(to);
        self.local.transfer(&self.cx, Source::Registry(from), to, Arc::new(NoProgress)).await.unwrap();
    }

    /// Waits until the index shows what it should.
    async fn until(&self, shown: impl Fn(&Images) -> bool) {
        let mut changes = self.images.index.follow();
        let wait = async {
            while !shown(&self.images) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the index follows");
    }

    async fn has(&self, digest: &Digest) -> bool {
        self.db.content().info(&self.cx, digest).await.is_ok()
    }

    async fn snapshots(&self, id: &str) -> Vec<String> {
        let all = self.db.snapshotter(id).unwrap();
        let mut names: Vec<_> = all.list(&self.cx, &Filters::all()).map(|i| i.unwrap().name).collect().await;
        names.sort();
        names
    }

    async fn records(&self) -> Vec<image::Image> {
        self.db.images().list(&self.cx, &Filters::all()).await.unwrap()
    }
}

fn transferrer(db: &Arc<Database>) -> Local {
    let differ: Arc<dyn diff::Differ> =
        Arc::new(windlass_diff::Walking::new(db.content(), windlass_diff::Limit::default()));
    let unpacker = Unpacker {
        platform: Platform::host(),
        only_os: true,
        config_type: String::new(),
        layer_types: Vec::new(),
        id: "overlayfs".into(),
        snapshotter: db.snapshotter("overlayfs").unwrap(),
        differs: vec![differ.clone()],
    };
    let finder = db.clone();
    let parts = Local_ {
        content: db.content(),
        images: db.images(),
        leases: db.leases(),
        unpackers: vec![Arc::new(unpacker)],
        differs: vec![differ],
        snapshotters: Box::new(move |id| finder.snapshotter(id)),
    };
    Local::with_limits(parts, Config::default(), limits())
}

fn parts(
    root: &Path,
    cx: &Context,
    config: &ImagesConfig,
    db: &Arc<Database>,
    local: &Arc<Local>,
    exchange: &Arc<windlass_event::Exchange>,
) -> Parts {
    let place = |id: &str| (id.to_owned(), root.join(id));
    Parts {
        cx: cx.clone(),
        config: config.clone(),
        database: db.clone(),
        transfer: local.clone(),
        exchange: exchange.clone(),
        state: root.join("state"),
        roots: BTreeMap::from([place("overlayfs"), place("native")]),
    }
}

fn spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.into(), ..Default::default() }
}

/// A registry with an image of three layers.
async fn served() -> (Registry, Made) {
    let registry = Registry::start().await;
    let made = images::three();
    registry.add("app", "1", &made);
    (registry, made)
}

/// The same image for a user, and thus another one.
fn of_user(made: &Made, user: &str) -> Made {
    let mut made = made.clone();
    let mut config: Value = serde_json::from_slice(&made.config.1).unwrap();
    config["config"]["User"] = json!(user);
    config["config"]["Env"] = json!(["A=1"]);
    made.config = images::blob(config.to_string());
    let mut manifest: Value = serde_json::from_slice(&made.manifest.1).unwrap();
    manifest["config"] = images::descriptor(images::CONFIG, &made.config);
    made.manifest = images::blob(manifest.to_string());
    made
}

fn name(registry: &Registry, image: &str) -> String {
    format!("{}/{image}", registry.addr)
}
