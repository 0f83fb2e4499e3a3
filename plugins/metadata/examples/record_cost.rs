//! What records cost: `record_cost sled|redb <directory> [cache in MB]` prints the times of creating and listing, and of a collection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use windlass_core::container::{Container, Runtime};
use windlass_core::gc::Collector as _;
use windlass_core::image::Image;
use windlass_core::metadata::Database as _;
use windlass_core::{Any, Context, Descriptor, Digest, Filters, Labels};
use windlass_metadata::{Database, Options, Policy};
use windlass_metastore::Choice;

fn container(id: String) -> Container {
    Container {
        id,
        labels: (0..6).map(|n| (format!("io.kubernetes.label-{n}"), "x".repeat(30))).collect(),
        image: "registry.example/image:latest".into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: Some(Any::default()) },
        spec: Some(Any { type_url: "spec".into(), value: vec![b'{'; 6000].into() }),
        snapshotter: "overlayfs".into(),
        snapshot_key: "key".into(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: BTreeMap::new(),
        sandbox_id: String::new(),
    }
}

fn anonymous() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or("?").to_owned()
}

/// Of this thread.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let engine = match arguments.next().as_deref() {
        Some("redb") => Choice::Redb,
        _ => Choice::Sled,
    };
    let root = std::path::PathBuf::from(arguments.next().expect("a directory"));
    for directory in ["meta", "content"] {
        std::fs::create_dir_all(root.join(directory)).expect("make a directory");
    }
    let cache = arguments.next().and_then(|mb| mb.parse().ok()).unwrap_or(8) << 20;
    let options = windlass_metastore::Options { engine, cache };
    let db = Database::open(Options {
        store: windlass_metastore::open(&root.join("meta"), options).expect("open"),
        content: Arc::new(windlass_content::Store::open(&root.join("content")).expect("open")),
        snapshotters: BTreeMap::new(),
        events: None,
        policy: Policy::Shared,
        sweep_limit: Duration::from_secs(60),
    })
    .expect("open");
    println!("opened: {}", anonymous());
    let (cx, all) = (Context::new("default"), Filters::all());
    let mut times = Vec::new();
    for n in 0..1000 {
        let began = Instant::now();
        db.containers().create(&cx, container(format!("container-{n:04}"))).await.expect("create");
        times.push(began.elapsed());
    }
    println!("create a container: {:?}", median(times));
    println!("with 1,000 containers: {}", anonymous());
    let (mut times, mut spent) = (Vec::new(), Vec::new());
    for _ in 0..101 {
        let (began, on_cpu) = (Instant::now(), processor_time());
        assert_eq!(db.containers().list(&cx, &all).await.expect("list").len(), 1000);
        times.push(began.elapsed());
        spent.push(processor_time() - on_cpu);
    }
    println!("list 1,000 containers: {:?}, on the processor {:?}", median(times), median(spent));
    let began = Instant::now();
    for _ in 0..1000 {
        db.containers().get(&cx, "container-0500").await.expect("get");
    }
    println!("get a container: {:?}", began.elapsed() / 1000);
    let began = Instant::now();
    let creates = (0..10_000).map(|n| {
        let image = Image {
            name: format!("registry.example/image-{n}:latest"),
            target: Descriptor::new("m", Digest::of(&[n as u8]), 1),
            labels: Labels::from([("containerd.io/gc.ref.content.0".into(), Digest::of(b"x").to_string())]),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
        };
        let (images, cx) = (db.images(), cx.clone());
        tokio::spawn(async move { images.create(&cx, image).await.expect("create") })
    });
    for create in creates.collect::<Vec<_>>() {
        create.await.expect("a task");
    }
    println!("create 10,000 images at once: {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(db.images().list(&cx, &all).await.expect("list").len(), 10_000);
    println!("list 10,000 images: {:?}", began.elapsed());
    for _ in 0..2 {
        let stats = db.collect().await.expect("collect");
        println!("collect: {:?}, writers paused {:?}", stats.elapsed, stats.paused);
    }
    println!("at the end: {}", anonymous());
}
