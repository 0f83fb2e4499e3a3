//! What happens between two steps: writers at work at the very moment that a collection is about to remove, and a
//! process that ends at each named step.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Fixture, class, labels};
use windlass_core::image::Image;
use windlass_core::lease::Resource;
use windlass_core::metadata::Database as _;
use windlass_core::snapshot::{CommitOptions, Kind};
use windlass_core::{Class, Context, Descriptor, Digest, Labels};

/// Points are global: one test at a time, and none is left set.
fn alone() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// Runs `work` to its end on another thread, while the caller's step waits.
fn meanwhile<F: Future<Output = ()> + Send + 'static>(work: F) {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    std::thread::spawn(run).join().unwrap();
}

/// Calls `work` once, at the next time that the point is passed.
fn once_at<F: Future<Output = ()> + Send + 'static>(
    point: &'static str,
    work: impl FnOnce() -> F + Send + 'static,
) {
    let work = Mutex::new(Some(work));
    fail::cfg_callback(point, move || {
        if let Some(work) = work.lock().unwrap().take() {
            meanwhile(work());
        }
    })
    .unwrap();
}

fn image(name: &str, target: &Digest) -> Image {
    Image {
        name: name.into(),
        target: Descriptor::new("m", target.clone(), 1),
        labels: labels(&[]),
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
    }
}

fn refers_to(digest: &Digest) -> Labels {
    labels(&[("containerd.io/gc.ref.content", digest.as_str())])
}

#[tokio::test]
async fn what_is_named_after_marking_is_kept_with_all_below_it() {
    let _alone = alone();
    let f = Arc::new(Fixture::new());
    let cx = Context::new("n");
    let config = f.blob(&cx, "config", labels(&[])).await;
    let manifest = f.blob(&cx, "manifest", refers_to(&config)).await;
    let leased = f.blob(&cx, "leased", labels(&[])).await;
    let loose = f.blob(&cx, "loose", labels(&[])).await;
    f.layer(&cx, "base", "", labels(&[])).await;
    f.layer(&cx, "top", "base", labels(&[])).await;
    f.layer(&cx, "unused", "base", labels(&[])).await;
    once_at("collect.marked", {
        let (f, cx, manifest, leased) = (f.clone(), cx.clone(), manifest.clone(), leased.clone());
        move || async move {
            f.db.images().create(&cx, image("i", &manifest)).await.unwrap();
            f.db.leases().create(&cx, "l", labels(&[])).await.unwrap();
            let resource = Resource { id: leased.to_string(), kind: "content".into() };
            f.db.leases().add_resource(&cx, "l", resource).await.unwrap();
            let with_lease = cx.clone().with_lease("l");
            f.snapshotter().prepare(&with_lease, "new", "top", labels(&[])).await.unwrap();
            f.blob(&cx, "just written", labels(&[])).await;
        }
    });
    assert_eq!(f.collect().await.removed, 2, "the loose blob and the unused layer");
    for digest in [&config, &manifest, &leased, &Digest::of(b"just written")] {
        f.db.content().info(&cx, digest).await.unwrap();
    }
    assert_eq!(class(f.db.content().info(&cx, &loose).await), Some(Class::NotFound));
    for key in ["new", "top", "base"] {
        f.snapshotter().stat(&cx, key).await.unwrap();
    }
    assert_eq!(f.collect().await.removed, 1, "what nobody came to refer to goes with the next");
}

#[tokio::test]
async fn a_chain_found_between_two_batches_is_whole() {
    let _alone = alone();
    let f = Arc::new(Fixture::new());
    let cx = Context::new("n");
    let mut parent = String::new();
    for n in 0..700 {
        let name = format!("l{n:03}");
        f.layer(&cx, &name, &parent, labels(&[])).await;
        parent = name;
    }
    f.db.leases().create(&cx, "l", labels(&[])).await.unwrap();
    once_at("collect.batch", {
        let (f, cx) = (f.clone(), cx.clone().with_lease("l"));
        move || async move {
            // Whatever is still there has all its parents.
            let mut n = 699;
            while f.snapshotter().prepare(&cx, "found", &format!("l{n:03}"), labels(&[])).await.is_err() {
                n -= 1;
            }
            assert!((400..600).contains(&n), "{n}");
        }
    });
    f.collect().await;
    let (mut name, mut count) = ("found".to_owned(), 0);
    while !name.is_empty() {
        name = f.snapshotter().stat(&cx, &name).await.unwrap().parent;
        count += 1;
    }
    assert!(count > 400, "{count}");
    assert_eq!(f.snapshots.names().len(), count);
}

#[tokio::test]
async fn content_named_again_before_the_sweep_stays() {
    let _alone = alone();
    let f = Arc::new(Fixture::new());
    let (cx, other) = (Context::new("n"), Context::new("m"));
    let digest = f.blob(&cx, "data", labels(&[])).await;
    once_at("collect.records-removed", {
        let (f, digest) = (f.clone(), digest.clone());
        move || async move {
            let options = windlass_core::content::WriterOptions {
                reference: "r".into(),
                expected: Some(digest.clone()),
                ..Default::default()
            };
            let mut writer = f.db.content().writer(&other, options).await.unwrap();
            assert_eq!(writer.status().offset, 4, "it is there without being sent");
            writer.commit(0, Some(&digest), labels(&[])).await.unwrap();
        }
    });
    f.collect().await;
    assert_eq!(f.content.digests(), [digest]);
}

/// At each step the caller is cut off for good, as a crash would; then the daemon starts again over the same data.
#[tokio::test]
async fn every_step_can_be_the_last() {
    let _alone = alone();
    for point in [
        "snapshot.prepare",
        "snapshot.prepared",
        "snapshot.recorded",
        "snapshot.commit",
        "snapshot.committed",
        "snapshot.named",
        "snapshot.removed",
        "content.committed",
        "image.deleted",
        "collect.mark",
        "collect.marked",
        "collect.batch",
        "collect.records-removed",
        "collect.done",
    ] {
        let f = Arc::new(Fixture::new());
        let cx = Context::new("n");
        fail::cfg(point, "panic").unwrap();
        let cut = tokio::spawn(life(f.clone(), cx.clone())).await;
        assert!(cut.is_err(), "{point} was not passed");
        fail::remove(point);
        let f = Arc::new(f.restarted());
        f.collect().await;
        // The same again, from the start, by a client that knows nothing.
        retry(&f, &cx).await;
        f.collect().await;
        assert!(f.snapshots.names().is_empty(), "{point}: {:?}", f.snapshots.names());
        assert!(f.content.digests().is_empty() && f.content.references().is_empty(), "{point}");
    }
}

async fn life(f: Arc<Fixture>, cx: Context) {
    f.db.leases().create(&cx, "l", labels(&[])).await.unwrap();
    let leased = cx.clone().with_lease("l");
    let digest = f.blob(&leased, "data", labels(&[])).await;
    f.snapshotter().prepare(&leased, "key", "", labels(&[])).await.unwrap();
    f.snapshotter().commit(&leased, "name", "key", CommitOptions::default()).await.unwrap();
    f.db.images().create(&cx, image("i", &digest)).await.unwrap();
    f.db.leases().delete(&cx, "l").await.unwrap();
    f.db.images().delete(&cx, "i", None).await.unwrap();
    f.snapshotter().remove(&cx, "name").await.unwrap();
    f.collect().await;
}

async fn retry(f: &Arc<Fixture>, cx: &Context) {
    let snapshotter = f.snapshotter();
    let _ = f.db.leases().create(cx, "l", labels(&[])).await;
    let leased = cx.clone().with_lease("l");
    let digest = Digest::of(b"data");
    if f.db.content().info(cx, &digest).await.is_err() {
        f.blob(&leased, "data", labels(&[])).await;
    }
    if snapshotter.stat(cx, "name").await.is_err() {
        if let Err(error) = snapshotter.prepare(&leased, "key", "", labels(&[])).await {
            assert!(error.is(Class::AlreadyExists), "{error}");
        }
        snapshotter.commit(&leased, "name", "key", CommitOptions::default()).await.unwrap();
    }
    assert_eq!(snapshotter.stat(cx, "name").await.unwrap().kind, Kind::Committed);
    let _ = f.db.images().create(cx, image("i", &digest)).await;
    f.db.leases().delete(cx, "l").await.unwrap();
    f.db.images().delete(cx, "i", None).await.unwrap();
    snapshotter.remove(cx, "name").await.unwrap();
}
