//! core's suites of content and snapshots over the namespaced views of the real backends. Mounts: runs as root.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_core::gc::Collector as _;
use windlass_core::metadata::Database as _;
use windlass_core::testsuite::{content, snapshot};
use windlass_core::{Context, Labels, snapshot::Shared};
use windlass_metadata::{Database, Options, Policy};

struct Real {
    db: Database,
    root: tempfile::TempDir,
    cx: Context,
}

impl Real {
    async fn open() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let store = windlass_metastore::open(&dir("meta"), windlass_metastore::Options::default()).unwrap();
        let native = windlass_snapshotter::Native::open(&dir("native"), "native", store.clone()).unwrap();
        let options = windlass_snapshotter::Options::default();
        let overlay =
            windlass_snapshotter::Overlay::open(&dir("overlayfs"), "overlayfs", store.clone(), options)
                .unwrap();
        let snapshotters = BTreeMap::from([
            ("native".into(), Arc::new(native) as Shared),
            ("overlayfs".into(), Arc::new(overlay)),
        ]);
        let db = Database::open(Options {
            store,
            content: Arc::new(windlass_content::Store::open(&dir("content")).unwrap()),
            snapshotters,
            events: None,
            policy: Policy::Shared,
            sweep_limit: Duration::from_secs(60),
        })
        .unwrap();
        let cx = Context::new("suite");
        db.leases().create(&cx, "all", Labels::new()).await.unwrap();
        Self { db, root, cx }
    }

    /// Files left under a backend's directory.
    fn left(&self, directory: &str) -> usize {
        std::fs::read_dir(self.root.path().join(directory)).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn namespaced_content_holds_the_contract() {
    let real = Real::open().await;
    let pause = || -> futures::future::BoxFuture<'static, ()> { Box::pin(tokio::task::yield_now()) };
    let store = real.db.content();
    content::run(&content::Env { store: &*store, cx: real.cx.clone(), labels: true, pause: &pause }).await;
    real.db.leases().delete(&real.cx, "all").await.unwrap();
    real.db.collect().await.unwrap();
    assert_eq!(real.left("content/blobs/sha256"), 0);
}

#[tokio::test]
async fn namespaced_snapshotters_hold_the_contract() {
    let real = Real::open().await;
    for id in ["native", "overlayfs"] {
        let snapshotter = real.db.snapshotter(id).unwrap();
        snapshot::run(&snapshot::Env { snapshotter: &*snapshotter, cx: real.cx.clone() }).await;
    }
    real.db.collect().await.unwrap();
    assert_eq!((real.left("native/snapshots"), real.left("overlayfs/snapshots")), (0, 0));
}
