//! What survives: a process that is killed at random while it commits, and files that hold only a part of what was
//! written after the last acknowledged commit.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use windlass_core::metastore::MetaStore;
use windlass_metastore::{Choice, Options, open};

const ROOT: &str = "METASTORE_CRASH_ROOT";
const ENGINE: &str = "METASTORE_CRASH_ENGINE";
const THREADS: u64 = 4;

fn options(engine: Choice) -> Options {
    Options { engine, cache: 2 << 20 }
}

fn value(thread: u64, n: u64) -> Vec<u8> {
    // One in 32 is large; sizes vary so that pages split and merge.
    let size = if n % 32 == 7 { 150_000 } else { 10 + (n * 37 + thread) as usize % 3000 };
    (0..size).map(|i| (i as u64 * 31 + n * 7 + thread) as u8).collect()
}

/// The `n`th change of a thread: two keys that belong together, and the removal of an older pair.
fn change(store: &dyn MetaStore, thread: u64, n: u64) -> windlass_core::Result<()> {
    store.update(Box::new(move |tx| {
        for side in ["a", "b"] {
            tx.put(format!("{side}/{thread}/{n:08}").as_bytes(), &value(thread, n))?;
            if n >= 50 {
                tx.delete(format!("{side}/{thread}/{:08}", n - 50).as_bytes())?;
            }
        }
        tx.put(format!("last/{thread}").as_bytes(), &n.to_le_bytes())
    }))
}

fn last(store: &dyn MetaStore, thread: u64) -> Option<u64> {
    let mut last = None;
    store
        .view(&mut |tx| {
            last = tx.get(format!("last/{thread}").as_bytes())?;
            Ok(())
        })
        .unwrap();
    last.map(|bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()))
}

/// Every thread's changes are there up to some change not before `acknowledged`, whole and as they were written.
fn check(store: &dyn MetaStore, acknowledged: &BTreeMap<u64, u64>) {
    for thread in 0..THREADS {
        let last = last(store, thread);
        if let Some(acknowledged) = acknowledged.get(&thread) {
            assert!(
                last >= Some(*acknowledged),
                "thread {thread}: {last:?} where {acknowledged} was acknowledged"
            );
        }
        let Some(last) = last else { continue };
        for side in ["a", "b"] {
            let mut found = Vec::new();
            store
                .view(&mut |tx| {
                    tx.scan(format!("{side}/{thread}/").as_bytes(), &mut |key, data| {
                        let n: u64 = String::from_utf8_lossy(&key[key.len() - 8..]).parse().unwrap();
                        assert!(data == value(thread, n), "{side}/{thread}/{n} is damaged");
                        found.push(n);
                        Ok(true)
                    })
                })
                .unwrap();
            let want: Vec<u64> = ((last + 1).saturating_sub(50)..=last).collect();
            assert_eq!(found, want, "{side}/{thread}");
        }
    }
}

/// Not a test of its own: what the killed process runs.
#[test]
#[ignore = "run by the test below"]
fn child() {
    let engine = if std::env::var(ENGINE).unwrap() == "Redb" { Choice::Redb } else { Choice::Sled };
    let store = open(Path::new(&std::env::var(ROOT).unwrap()), options(engine)).unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in last(&*store, thread).map_or(0, |last| last + 1).. {
                    change(&*store, thread, n).unwrap();
                    println!("ack {thread} {n}");
                    std::io::stdout().flush().unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Reads `ack <thread> <n>` wherever it stands in a line: consoles mix lines.
fn note(line: &str, acknowledged: &mut BTreeMap<u64, u64>) {
    let Some(at) = line.find("ack ") else { return };
    let mut numbers = line[at + 4..].split_whitespace().map_while(|n| n.parse::<u64>().ok());
    if let (Some(thread), Some(n)) = (numbers.next(), numbers.next()) {
        acknowledged.insert(thread, n);
    }
}

/// Not a test of its own: what `power-cut.sh` runs on the disk of a machine whose power was cut.
#[test]
#[ignore = "run by power-cut.sh"]
fn verify() {
    let engine = if std::env::var(ENGINE).unwrap() == "Redb" { Choice::Redb } else { Choice::Sled };
    let mut acknowledged = BTreeMap::new();
    // The last line may have been cut off by the power cut too.
    let console = fs::read(std::env::var("METASTORE_CRASH_CONSOLE").unwrap()).unwrap();
    let console = String::from_utf8_lossy(&console).into_owned();
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    whole.lines().for_each(|line| note(line, &mut acknowledged));
    let root = std::env::var(ROOT).unwrap();
    check(&*open(Path::new(&root), options(engine)).unwrap(), &acknowledged);
    println!("verified {acknowledged:?}");
}

fn killed_at_random(engine: Choice) {
    let root = tempfile::tempdir().unwrap();
    for round in 0..25u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(ROOT, root.path())
            .env(ENGINE, format!("{engine:?}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = BTreeMap::new();
        let mut count = 0;
        // A different number of changes each time; in some rounds it dies while it opens.
        let until = (round * 7919) % 160;
        while let Some(Ok(line)) = lines.next() {
            note(&line, &mut acknowledged);
            count += 1;
            if count >= until {
                child.kill().ok();
            }
        }
        child.wait().unwrap();
        check(&*open(root.path(), options(engine)).unwrap(), &acknowledged);
    }
}

#[test]
fn sled_survives_kills() {
    killed_at_random(Choice::Sled);
}

#[test]
fn redb_survives_kills() {
    killed_at_random(Choice::Redb);
}

// --- files that hold only a part ---

type Files = BTreeMap<std::path::PathBuf, Vec<u8>>;

fn files_of(dir: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(data) = fs::read(&path) {
                files.insert(path.strip_prefix(dir).unwrap().to_owned(), data);
            }
        }
    }
    files
}

/// What a disk may hold after a power cut: everything of `synced`, and of what came `later` each 512 bytes or not.
fn torn(synced: &Files, later: &Files, random: &AtomicU64) -> Files {
    let coin = || {
        let mut x = random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        random.store(x, Ordering::Relaxed);
        x & 4 == 0
    };
    let mut torn = Files::new();
    for (path, new) in later {
        let empty = Vec::new();
        let old = synced.get(path).unwrap_or(&empty);
        let mut data = old.clone();
        data.resize(new.len(), 0);
        for (at, sector) in new.chunks(512).enumerate() {
            let range = at * 512..at * 512 + sector.len();
            if data[range.clone()] != *sector && coin() {
                data[range].copy_from_slice(sector);
            }
        }
        torn.insert(path.clone(), data);
    }
    torn
}

fn power_cuts(engine: Choice) {
    let root = tempfile::tempdir().unwrap();
    let name = format!("{engine:?}").to_lowercase();
    let random = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    for round in 0..30u64 {
        let store = open(root.path(), options(engine)).unwrap();
        let mut acknowledged = BTreeMap::new();
        let commit = |store: &Arc<dyn MetaStore>| {
            for thread in 0..THREADS {
                let n = last(&**store, thread).map_or(0, |last| last + 1);
                change(&**store, thread, n).unwrap();
            }
        };
        for _ in 0..1 + round % 9 {
            commit(&store);
        }
        for thread in 0..THREADS {
            acknowledged.insert(thread, last(&*store, thread).unwrap());
        }
        let synced = files_of(&root.path().join(&name));
        // One more commit: with the next, a disk that honours syncs holds all of this one.
        let thread = round % THREADS;
        change(&*store, thread, acknowledged[&thread] + 1).unwrap();
        let later = files_of(&root.path().join(&name));
        drop(store);
        for attempt in 0..4 {
            let cut = tempfile::tempdir().unwrap();
            let files = torn(&synced, &later, &random);
            for (path, data) in &files {
                let path = cut.path().join(&name).join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, data).unwrap();
            }
            fs::create_dir_all(cut.path().join(&name).join("blobs")).unwrap();
            let store = open(cut.path(), options(engine)).unwrap_or_else(|error| {
                panic!("round {round}.{attempt}: {}", error.chain());
            });
            check(&*store, &acknowledged);
        }
    }
}

#[test]
fn sled_survives_torn_files() {
    power_cuts(Choice::Sled);
}

#[test]
fn redb_survives_torn_files() {
    power_cuts(Choice::Redb);
}
