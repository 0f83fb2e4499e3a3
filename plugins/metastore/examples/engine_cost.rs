//! What an engine costs: `engine_cost sled|redb <directory>` prints resident memory, threads and commit times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_metastore::{Choice, Options, open};

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("?");
    line.trim_start_matches(':').trim().to_owned()
}

fn report(what: &str) {
    println!(
        "{what:32} rss {:>9}  anon {:>9}  threads {}",
        status("VmRSS"),
        status("RssAnon"),
        status("Threads")
    );
}

fn quantiles(what: &str, mut times: Vec<Duration>, wall: Duration) {
    times.sort();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_micros();
    let rate = times.len() as f64 / wall.as_secs_f64();
    println!("{what:32} median {} us  p99 {} us  {rate:.0} per second", at(0.5), at(0.99));
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let engine = match arguments.next().as_deref() {
        Some("redb") => Choice::Redb,
        _ => Choice::Sled,
    };
    let root = std::path::PathBuf::from(arguments.next().expect("a directory"));
    let records: u32 = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(5000);
    report("before");
    let began = Instant::now();
    let store = open(&root, Options { engine, ..Options::default() }).expect("open");
    println!("opened in {:?}", began.elapsed());
    report("opened");
    let commit = |store: &Arc<dyn windlass_core::metastore::MetaStore>, n: u32| {
        let began = Instant::now();
        store.update(Box::new(move |tx| tx.put(&n.to_be_bytes(), &[n as u8; 2000]))).expect("commit");
        began.elapsed()
    };
    let began = Instant::now();
    let times = (0..500).map(|n| commit(&store, n)).collect();
    quantiles("1 thread", times, began.elapsed());
    report("after 500 commits");
    let began = Instant::now();
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                (0..records / 16).map(|n| commit(&store, 1000 + thread * records + n)).collect::<Vec<_>>()
            })
        })
        .collect();
    let times = threads.into_iter().flat_map(|thread| thread.join().expect("thread")).collect();
    quantiles("16 threads", times, began.elapsed());
    report("after all commits");
    let began = Instant::now();
    let mut count = 0;
    store
        .view(&mut |tx| {
            tx.scan(b"", &mut |_, _| {
                count += 1;
                Ok(true)
            })
        })
        .expect("scan");
    println!("scan of {count} records: {:?}", began.elapsed());
    report("after the scan");
    drop(store);
    let began = Instant::now();
    let _store = open(&root, Options { engine, ..Options::default() }).expect("open");
    println!("opened again in {:?}", began.elapsed());
    report("opened again");
}
