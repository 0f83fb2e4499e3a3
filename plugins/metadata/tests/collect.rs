//! Collection: each rule by itself, against a model over random graphs, and under concurrent writers.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{Fixture, class, labels};
use futures::TryStreamExt;
use proptest::prelude::*;
use windlass_core::container::{Container, Runtime};
use windlass_core::content::WriterOptions;
use windlass_core::event::Event;
use windlass_core::image::Image;
use windlass_core::lease::Resource;
use windlass_core::metadata::Database as _;
use windlass_core::sandbox::Sandbox;
use windlass_core::snapshot::CommitOptions;
use windlass_core::{Any, Class, Context, Descriptor, Digest, FieldMask, Filters, Labels};

const PAST: &str = "2001-01-01T00:00:00Z";
const FUTURE: &str = "2101-01-01T00:00:00Z";
const EXPIRE: &str = "containerd.io/gc.expire";
const CONTENT: &str = "containerd.io/gc.ref.content";

fn image(name: &str, target: &Digest, labels: Labels) -> Image {
    Image {
        name: name.into(),
        target: Descriptor::new("m", target.clone(), 1),
        labels,
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
    }
}

fn container(id: &str, snapshot: &str, image: &str, labels: Labels) -> Container {
    Container {
        id: id.into(),
        labels,
        image: image.into(),
        runtime: Runtime { name: "r".into(), options: None },
        spec: Some(Any::default()),
        snapshotter: if snapshot.is_empty() { String::new() } else { "fake".into() },
        snapshot_key: snapshot.into(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: BTreeMap::new(),
        sandbox_id: String::new(),
    }
}

fn resource(kind: &str, id: &str) -> Resource {
    Resource { id: id.into(), kind: kind.into() }
}

/// What is left in a namespace: images, blobs by their data's digest, snapshots, leases, ingests.
async fn left(f: &Fixture, cx: &Context) -> BTreeSet<String> {
    let all = Filters::all();
    let images = f.db.images().list(cx, &all).await.unwrap().into_iter().map(|i| format!("image {}", i.name));
    let leases = f.db.leases().list(cx, &all).await.unwrap().into_iter().map(|l| format!("lease {}", l.id));
    let ingests = f.db.content().list_statuses(cx, &all).await.unwrap();
    let content = f.db.content();
    let blobs: Vec<_> = content.list(cx, &all).try_collect().await.unwrap();
    let snapshotter = f.snapshotter();
    let snapshots: Vec<_> = snapshotter.list(cx, &all).try_collect().await.unwrap();
    images
        .chain(leases)
        .chain(ingests.into_iter().map(|s| format!("ingest {}", s.reference)))
        .chain(blobs.into_iter().map(|b| format!("blob {}", b.digest)))
        .chain(snapshots.into_iter().map(|s| format!("snapshot {}", s.name)))
        .collect()
}

struct Blobs<'a>(&'a Fixture, &'a Context);

impl Blobs<'_> {
    /// A blob that refers to others.
    async fn of(&self, data: &str, to: &[&Digest]) -> Digest {
        let refs = to.iter().enumerate().map(|(n, d)| (format!("{CONTENT}.{n}"), d.to_string())).collect();
        self.0.blob(self.1, data, refs).await
    }
    async fn has(&self, digest: &Digest) -> bool {
        self.0.db.content().info(self.1, digest).await.is_ok()
    }
}

#[tokio::test]
async fn images_hold_their_content_and_its_references() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let blobs = Blobs(&f, cx);
    let layer = blobs.of("layer", &[]).await;
    let config = blobs.of("config", &[]).await;
    let manifest = blobs.of("manifest", &[&layer, &config]).await;
    let loose = blobs.of("loose", &[&layer]).await;
    f.layer(cx, "base", "", labels(&[])).await;
    f.layer(cx, "top", "base", labels(&[])).await;
    f.layer(cx, "unused", "base", labels(&[])).await;
    let to_snapshot = windlass_core::content::Info {
        labels: labels(&[("containerd.io/gc.ref.snapshot.fake", "top")]),
        ..f.db.content().info(cx, &config).await.unwrap()
    };
    f.db.content().update(cx, to_snapshot, &FieldMask::all()).await.unwrap();
    f.db.images().create(cx, image("i", &manifest, labels(&[]))).await.unwrap();
    f.events.take();
    let stats = f.collect().await;
    assert_eq!(stats.removed, 2);
    assert!(!blobs.has(&loose).await && blobs.has(&layer).await && blobs.has(&manifest).await);
    assert_eq!(f.snapshots.names().len(), 2);
    let removed = Event::SnapshotRemove { key: "unused".into(), snapshotter: "fake".into() };
    assert_eq!(
        f.events.take(),
        [("n".to_owned(), removed)],
        "content goes without an event, as in containerd"
    );
    assert_eq!(f.collect().await.removed, 0);
    f.db.images().delete(cx, "i", None).await.unwrap();
    assert_eq!(f.collect().await.removed, 5);
    assert!(
        left(&f, cx).await.is_empty() && f.snapshots.names().is_empty() && f.content.digests().is_empty()
    );
}

#[tokio::test]
async fn containers_and_sandboxes_hold_what_they_name() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    f.layer(cx, "base", "", labels(&[])).await;
    f.snapshotter().prepare(cx, "rootfs", "base", labels(&[])).await.unwrap();
    f.snapshotter().prepare(cx, "scratch", "", labels(&[])).await.unwrap();
    f.snapshotter().prepare(cx, "pod", "", labels(&[])).await.unwrap();
    let config = Blobs(&f, cx).of("checkpoint", &[]).await;
    let expired = Blobs(&f, cx).of("of expired", &[]).await;
    f.db.images().create(cx, image("used", &expired, labels(&[(EXPIRE, PAST)]))).await.unwrap();
    let refs = labels(&[("containerd.io/gc.ref.content.c", config.as_str())]);
    f.db.containers().create(cx, container("c", "rootfs", "used", refs)).await.unwrap();
    let sandbox = Sandbox {
        id: "s".into(),
        labels: labels(&[("containerd.io/gc.ref.snapshot.fake", "pod")]),
        runtime: Runtime::default(),
        spec: None,
        sandboxer: String::new(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: BTreeMap::new(),
    };
    f.db.sandboxes().create(cx, sandbox).await.unwrap();
    assert_eq!(f.collect().await.removed, 1);
    let want = ["snapshot base", "snapshot rootfs", "snapshot pod", "image used"].map(str::to_owned);
    let want: BTreeSet<_> =
        want.into_iter().chain([format!("blob {config}"), format!("blob {expired}")]).collect();
    assert_eq!(left(&f, cx).await, want);
    f.db.containers().delete(cx, "c").await.unwrap();
    f.db.sandboxes().delete(cx, "s").await.unwrap();
    f.collect().await;
    assert!(left(&f, cx).await.is_empty());
}

#[tokio::test]
async fn roots_and_expiry() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let root = f.blob(cx, "root", labels(&[("containerd.io/gc.root", "yes")])).await;
    f.layer(cx, "rooted", "", labels(&[("containerd.io/gc.root", "yes")])).await;
    let kept = f.blob(cx, "kept", labels(&[])).await;
    let gone = f.blob(cx, "gone", labels(&[])).await;
    f.db.images().create(cx, image("fresh", &kept, labels(&[(EXPIRE, FUTURE)]))).await.unwrap();
    f.db.images().create(cx, image("odd", &kept, labels(&[(EXPIRE, "whenever")]))).await.unwrap();
    f.db.images().create(cx, image("stale", &gone, labels(&[(EXPIRE, PAST)]))).await.unwrap();
    f.events.take();
    f.collect().await;
    let want = ["image fresh".to_owned(), "image odd".into(), "snapshot rooted".into()];
    let want: BTreeSet<_> =
        want.into_iter().chain([format!("blob {root}"), format!("blob {kept}")]).collect();
    assert_eq!(left(&f, cx).await, want);
    assert_eq!(f.events.take(), [("n".to_owned(), Event::ImageDelete { name: "stale".into() })]);
}

#[tokio::test]
async fn leases_hold_flat_or_deep_until_they_expire() {
    let f = Fixture::new();
    let (cx, leases) = (&Context::new("n"), f.db.leases());
    let blobs = Blobs(&f, cx);
    let deep = blobs.of("deep", &[]).await;
    let parent = blobs.of("parent", &[&deep]).await;
    f.layer(cx, "base", "", labels(&[])).await;
    f.layer(cx, "top", "base", labels(&[(CONTENT, deep.as_str())])).await;
    f.db.images().create(cx, image("i", &parent, labels(&[(EXPIRE, PAST)]))).await.unwrap();
    let hold = |id: &'static str, with: Labels, resources: Vec<Resource>| {
        let leases = leases.clone();
        async move {
            leases.create(cx, id, with).await.unwrap();
            for resource in resources {
                leases.add_resource(cx, id, resource).await.unwrap();
            }
        }
    };
    hold("deep", labels(&[]), vec![resource("images", "i"), resource("snapshots/fake", "top")]).await;
    hold("stale", labels(&[(EXPIRE, PAST)]), vec![resource("content", deep.as_str())]).await;
    assert_eq!(f.collect().await.removed, 1, "the stale lease itself");
    assert!(blobs.has(&deep).await);
    leases.delete(cx, "deep").await.unwrap();
    let flat = labels(&[("containerd.io/gc.flat", "yes")]);
    hold("flat", flat, vec![resource("images", "i"), resource("snapshots/fake", "top")]).await;
    f.collect().await;
    let want = ["image i", "lease flat", "snapshot base", "snapshot top"].map(str::to_owned);
    let want: BTreeSet<_> = want.into_iter().chain([format!("blob {parent}")]).collect();
    assert_eq!(left(&f, cx).await, want, "a flat lease does not follow labels");
    leases.delete(cx, "flat").await.unwrap();
    f.collect().await;
    assert!(left(&f, cx).await.is_empty());
}

#[tokio::test]
async fn ingests_live_by_lease_or_time() {
    let f = Fixture::new();
    let (cx, leases) = (&Context::new("n"), f.db.leases());
    leases.create(cx, "l", labels(&[])).await.unwrap();
    let open = |cx: Context, reference: &'static str| {
        let content = f.db.content();
        async move {
            let options = WriterOptions { reference: reference.into(), ..WriterOptions::default() };
            drop(content.writer(&cx, options).await.unwrap());
        }
    };
    open(cx.clone(), "free").await;
    open(cx.clone().with_lease("l"), "leased").await;
    f.collect().await;
    let want = ["ingest free", "ingest leased", "lease l"].map(str::to_owned);
    assert_eq!(left(&f, cx).await, want.into());
    leases.delete(cx, "l").await.unwrap();
    f.collect().await;
    assert_eq!(left(&f, cx).await, ["ingest free".to_owned()].into());
    assert_eq!(f.content.references().len(), 1, "the bytes are gone too");
}

#[tokio::test]
async fn back_references_tie_a_child_to_its_parent() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let blobs = Blobs(&f, cx);
    let target = blobs.of("target", &[]).await;
    let name = |kind: &str| format!("containerd.io/gc.bref.{kind}");
    let of_image = f.blob(cx, "of image", labels(&[(&name("image"), "i")])).await;
    let of_content = f.blob(cx, "of content", labels(&[(&name("content.x"), target.as_str())])).await;
    let of_container = f.blob(cx, "of container", labels(&[(&name("container"), "c")])).await;
    let of_snapshot = f.blob(cx, "of snapshot", labels(&[(&name("snapshot.fake/1"), "s")])).await;
    let of_nothing = f.blob(cx, "of nothing", labels(&[(&name("image"), "none")])).await;
    f.db.images().create(cx, image("i", &target, labels(&[]))).await.unwrap();
    f.db.containers().create(cx, container("c", "", "", labels(&[]))).await.unwrap();
    f.layer(cx, "s", "", labels(&[("containerd.io/gc.root", "1")])).await;
    f.collect().await;
    for digest in [&of_image, &of_content, &of_container, &of_snapshot] {
        assert!(blobs.has(digest).await);
    }
    assert!(!blobs.has(&of_nothing).await);
    f.db.images().delete(cx, "i", None).await.unwrap();
    f.db.containers().delete(cx, "c").await.unwrap();
    f.collect().await;
    let want = BTreeSet::from([format!("blob {of_snapshot}"), "snapshot s".to_owned()]);
    assert_eq!(left(&f, cx).await, want);
}

#[tokio::test]
async fn conditions_hold_while_a_snapshot_is_in_use() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let root = ("containerd.io/gc.root", "1");
    f.layer(cx, "old", "", labels(&[root, ("containerd.io/gc.cond.value-usedat", PAST)])).await;
    let condition = |test: &str| labels(&[("containerd.io/gc.cond.snapshot.fake", &format!("{test}|old"))]);
    let met = f.blob(cx, "met", condition("usedat>24h")).await;
    let unmet = f.blob(cx, "unmet", condition("usedat<24h")).await;
    f.collect().await;
    assert!(Blobs(&f, cx).has(&met).await && !Blobs(&f, cx).has(&unmet).await);
}

#[tokio::test]
async fn large_garbage_goes_in_batches_and_leaves_the_rest_whole() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let mut previous = String::new();
    for n in 0..900 {
        let name = format!("layer-{n:04}");
        f.layer(cx, &name, &previous, labels(&[])).await;
        previous = name;
    }
    f.snapshotter().prepare(cx, "rootfs", "layer-0100", labels(&[])).await.unwrap();
    f.db.containers().create(cx, container("c", "rootfs", "", labels(&[]))).await.unwrap();
    assert_eq!(f.collect().await.removed, 799);
    assert_eq!(left(&f, cx).await.len(), 102);
    assert_eq!(f.snapshots.names().len(), 102);
}

#[tokio::test]
async fn a_failed_sweep_is_taken_up_again() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    f.layer(cx, "l", "", labels(&[])).await;
    f.snapshots.fail_removals(true);
    f.collect().await;
    assert_eq!((left(&f, cx).await.len(), f.snapshots.names().len()), (0, 1));
    f.snapshots.fail_removals(false);
    f.collect().await;
    assert!(f.snapshots.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_snapshotter_hurts_only_itself() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    f.layer(cx, "l", "", labels(&[])).await;
    let loose = f.blob(cx, "loose", labels(&[])).await;
    f.snapshots.gate(Some(Arc::new(tokio::sync::Semaphore::new(0))));
    f.collect().await;
    assert!(!f.content.digests().contains(&loose));
    f.snapshots.gate(None);
    f.collect().await;
    assert!(f.snapshots.names().is_empty());
}

#[tokio::test]
async fn a_snapshot_in_the_making_is_not_swept() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    f.db.leases().create(cx, "l", labels(&[])).await.unwrap();
    let leased = cx.clone().with_lease("l");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    f.snapshots.gate(Some(gate.clone()));
    let made = tokio::spawn({
        let (s, leased) = (f.snapshotter(), leased.clone());
        async move { s.prepare(&leased, "k", "", labels(&[])).await }
    });
    // The raw snapshot appears while its call still holds the lock.
    while gate.available_permits() == 0 && f.snapshots.names().is_empty() {
        tokio::task::yield_now().await;
        gate.add_permits(1);
    }
    f.snapshots.gate(None);
    gate.add_permits(10);
    f.collect().await;
    made.await.unwrap().unwrap();
    f.collect().await;
    assert_eq!(f.snapshots.names().len(), 1);
}

// --- against a model ---

/// Flat or not, expired or not, and blobs, snapshots and images.
type ModelLease = (bool, bool, Vec<usize>, Vec<usize>, Vec<usize>);

/// One random world: objects by number, and who refers to whom.
#[derive(Clone, Debug)]
struct World {
    /// For each blob: the blobs and snapshots that its labels name, and whether it is a root.
    blobs: Vec<(Vec<usize>, Vec<usize>, bool)>,
    /// For each snapshot: its parent below it, and the blobs its labels name.
    snapshots: Vec<(Option<usize>, Vec<usize>)>,
    /// Target blob, and whether it has expired.
    images: Vec<(usize, bool)>,
    containers: Vec<usize>,
    leases: Vec<ModelLease>,
}

const BLOBS: usize = 8;
const SNAPSHOTS: usize = 6;

fn some(of: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..of, 0..3)
}

fn worlds() -> impl Strategy<Value = World> {
    let blob = (some(BLOBS), some(SNAPSHOTS), prop::bool::weighted(0.1));
    let snapshot = (prop::option::of(0..SNAPSHOTS), some(BLOBS));
    let image = (0..BLOBS, any::<bool>());
    let lease = (any::<bool>(), prop::bool::weighted(0.3), some(BLOBS), some(SNAPSHOTS), some(4));
    (
        prop::collection::vec(blob, BLOBS),
        prop::collection::vec(snapshot, SNAPSHOTS),
        prop::collection::vec(image, 0..4),
        prop::collection::vec(0..SNAPSHOTS, 0..3),
        prop::collection::vec(lease, 0..3),
    )
        .prop_map(|(blobs, mut snapshots, images, containers, leases)| {
            for (n, (parent, _)) in snapshots.iter_mut().enumerate() {
                *parent = parent.filter(|p| *p < n);
            }
            World { blobs, snapshots, images, containers, leases }
        })
}

fn digest(n: usize) -> Digest {
    Digest::of(format!("blob {n}").as_bytes())
}

impl World {
    /// What must be left, found by following references until nothing is new.
    fn expected(&self) -> BTreeSet<String> {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        enum Node {
            Blob(usize, bool),
            Snapshot(usize, bool),
            Image(usize, bool),
        }
        use Node::*;
        let mut open: Vec<Node> = Vec::new();
        let mut kept = BTreeSet::new();
        for (n, (_, expired)) in self.images.iter().enumerate() {
            if !expired {
                open.push(Image(n, false));
            }
        }
        open.extend(self.containers.iter().map(|s| Snapshot(*s, false)));
        open.extend(self.blobs.iter().enumerate().filter(|(_, b)| b.2).map(|(n, _)| Blob(n, false)));
        for (n, (flat, expired, blobs, snapshots, images)) in self.leases.iter().enumerate() {
            if !expired {
                kept.insert(format!("lease l{n}"));
                open.extend(blobs.iter().map(|b| Blob(*b, *flat)));
                open.extend(snapshots.iter().map(|s| Snapshot(*s, *flat)));
                open.extend(images.iter().filter(|i| **i < self.images.len()).map(|i| Image(*i, *flat)));
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(node) = open.pop() {
            if !seen.insert(node) {
                continue;
            }
            match node {
                Blob(n, flat) => {
                    kept.insert(format!("blob {}", digest(n)));
                    if !flat {
                        open.extend(self.blobs[n].0.iter().map(|b| Blob(*b, false)));
                        open.extend(self.blobs[n].1.iter().map(|s| Snapshot(*s, false)));
                    }
                }
                Snapshot(n, flat) => {
                    kept.insert(format!("snapshot s{n}"));
                    open.extend(self.snapshots[n].0.map(|p| Snapshot(p, flat)));
                    if !flat {
                        open.extend(self.snapshots[n].1.iter().map(|b| Blob(*b, false)));
                    }
                }
                Image(n, flat) => {
                    kept.insert(format!("image i{n}"));
                    open.push(Blob(self.images[n].0, flat));
                }
            }
        }
        kept
    }

    async fn build(&self, f: &Fixture, cx: &Context) {
        let blob_refs = |to: &[usize]| -> Labels {
            to.iter().map(|b| (format!("{CONTENT}.{b}"), digest(*b).to_string())).collect()
        };
        for (n, (to_blobs, to_snapshots, root)) in self.blobs.iter().enumerate() {
            let mut refs = blob_refs(to_blobs);
            for s in to_snapshots {
                refs.insert(format!("containerd.io/gc.ref.snapshot.fake/{s}"), format!("s{s}"));
            }
            if *root {
                refs.insert("containerd.io/gc.root".into(), "1".into());
            }
            f.blob(cx, &format!("blob {n}"), refs).await;
        }
        for (n, (parent, to)) in self.snapshots.iter().enumerate() {
            let parent = parent.map_or_else(String::new, |p| format!("s{p}"));
            f.layer(cx, &format!("s{n}"), &parent, blob_refs(to)).await;
        }
        for (n, (target, expired)) in self.images.iter().enumerate() {
            let expiry = if *expired { labels(&[(EXPIRE, PAST)]) } else { labels(&[]) };
            f.db.images().create(cx, image(&format!("i{n}"), &digest(*target), expiry)).await.unwrap();
        }
        for (n, snapshot) in self.containers.iter().enumerate() {
            let made = container(&format!("c{n}"), &format!("s{snapshot}"), "", labels(&[]));
            f.db.containers().create(cx, made).await.unwrap();
        }
        for (n, (flat, expired, blobs, snapshots, images)) in self.leases.iter().enumerate() {
            let mut with = Labels::new();
            if *flat {
                with.insert("containerd.io/gc.flat".into(), "1".into());
            }
            if *expired {
                with.insert(EXPIRE.into(), PAST.into());
            }
            let id = format!("l{n}");
            f.db.leases().create(cx, &id, with).await.unwrap();
            let resources = blobs
                .iter()
                .map(|b| resource("content", digest(*b).as_str()))
                .chain(snapshots.iter().map(|s| resource("snapshots/fake", &format!("s{s}"))))
                .chain(images.iter().map(|i| resource("images", &format!("i{i}"))));
            for resource in resources {
                f.db.leases().add_resource(cx, &id, resource).await.unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_is_what_is_reachable(one in worlds(), two in worlds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let f = Fixture::new();
            let (a, b) = (&Context::new("a"), &Context::new("b"));
            one.build(&f, a).await;
            two.build(&f, b).await;
            f.collect().await;
            assert_eq!(left(&f, a).await, one.expected());
            assert_eq!(left(&f, b).await, two.expected());
            let both = [one.expected(), two.expected()];
            let count = |kind: &str| both.iter().flatten().filter(|k| k.starts_with(kind)).count();
            assert_eq!(f.snapshots.names().len(), count("snapshot"));
            let digests: BTreeSet<_> = both.iter().flatten().filter(|k| k.starts_with("blob")).collect();
            assert_eq!(f.content.digests().len(), digests.len());
        });
    }
}

// --- under concurrent writers ---

/// What is made under a lease, or found and then referred to, survives collections that run all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_take_nothing_from_writers_at_work() {
    let root = tempfile::tempdir().unwrap();
    let store = windlass_metastore::open(root.path(), windlass_metastore::Options::default()).unwrap();
    let f = Arc::new(Fixture::with(store, windlass_metadata::Policy::Shared));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let collecting = tokio::spawn({
        let (f, stop) = (f.clone(), stop.clone());
        async move {
            let mut runs = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                f.collect().await;
                runs += 1;
            }
            runs
        }
    });
    let writers: Vec<_> = (0..6).map(|writer| tokio::spawn(pulls(f.clone(), writer))).collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(60), writer).await.unwrap().unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(collecting.await.unwrap() > 3);
    f.collect().await;
    for writer in 0..6 {
        assert!(left(&f, &Context::new(format!("w{writer}"))).await.is_empty());
    }
    assert!(f.snapshots.names().is_empty() && f.content.digests().is_empty());
}

/// Pulls, runs and removes an image, over and over; the layer is the same for all namespaces.
async fn pulls(f: Arc<Fixture>, writer: usize) {
    let cx = Context::new(format!("w{writer}"));
    for round in 0..12 {
        let lease = format!("lease-{round}");
        f.db.leases().create(&cx, &lease, labels(&[])).await.unwrap();
        let leased = cx.clone().with_lease(&lease);
        let layer = shared_blob(&f, &leased, "the layer of all").await;
        let data = format!("manifest {writer} {round}");
        let manifest = f.blob(&leased, &data, labels(&[(CONTENT, layer.as_str())])).await;
        f.layer(&leased, "base", "", labels(&[])).await;
        let with_snapshot = labels(&[("containerd.io/gc.ref.snapshot.fake", "base")]);
        f.db.images().create(&cx, image("i", &manifest, with_snapshot)).await.unwrap();
        f.db.leases().delete(&cx, &lease).await.unwrap();
        f.db.leases().create(&cx, &lease, labels(&[])).await.unwrap();
        f.snapshotter().prepare(&leased, "rootfs", "base", labels(&[])).await.unwrap();
        f.db.containers().create(&cx, container("c", "rootfs", "i", labels(&[]))).await.unwrap();
        f.db.leases().delete(&cx, &lease).await.unwrap();
        tokio::task::yield_now().await;
        let content = f.db.content();
        for digest in [&layer, &manifest] {
            content.info(&cx, digest).await.unwrap();
            windlass_core::content::read_all(&*content, &cx, digest, 1 << 20).await.unwrap();
        }
        assert_eq!(f.snapshotter().stat(&cx, "rootfs").await.unwrap().parent, "base");
        f.snapshotter().stat(&cx, "base").await.unwrap();
        f.db.containers().delete(&cx, "c").await.unwrap();
        f.db.images().delete(&cx, "i", None).await.unwrap();
        f.collect().await;
    }
}

async fn shared_blob(f: &Fixture, cx: &Context, data: &str) -> Digest {
    let digest = Digest::of(data.as_bytes());
    let options = WriterOptions {
        reference: "layer".into(),
        total: data.len() as u64,
        expected: Some(digest.clone()),
        ..WriterOptions::default()
    };
    match f.db.content().writer(cx, options).await {
        Ok(mut writer) => {
            if writer.status().offset == 0 {
                writer.write(data.to_owned().into()).await.unwrap();
            }
            match writer.commit(data.len() as u64, Some(&digest), labels(&[])).await {
                Err(error) => assert!(error.is(Class::AlreadyExists), "{error}"),
                Ok(done) => assert_eq!(done, digest),
            }
        }
        Err(error) => assert!(error.is(Class::AlreadyExists), "{error}"),
    }
    digest
}

/// An active snapshot found by name is prepared upon while its parents are being collected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_is_whole_or_gone() {
    let f = Arc::new(Fixture::new());
    let cx = Context::new("n");
    for round in 0..60 {
        let mut parent = String::new();
        for n in 0..5 {
            let name = format!("{round}-{n}");
            f.layer(&cx, &name, &parent, labels(&[])).await;
            parent = name;
        }
        let collecting = tokio::spawn({
            let f = f.clone();
            async move { f.collect().await }
        });
        f.db.leases().create(&cx, "l", labels(&[])).await.unwrap();
        let leased = cx.clone().with_lease("l");
        let key = format!("k-{round}");
        let made = f.snapshotter().prepare(&leased, &key, &parent, labels(&[])).await;
        collecting.await.unwrap();
        match made {
            Ok(_) => {
                let mut name = key.clone();
                while !name.is_empty() {
                    name = f.snapshotter().stat(&cx, &name).await.unwrap().parent;
                }
                let options = CommitOptions::default();
                f.snapshotter().commit(&leased, &format!("done-{round}"), &key, options).await.unwrap();
            }
            Err(error) => assert_eq!(class::<()>(Err(error)), Some(Class::NotFound)),
        }
        f.db.leases().delete(&cx, "l").await.unwrap();
    }
    f.collect().await;
    assert!(f.snapshots.names().is_empty());
}
