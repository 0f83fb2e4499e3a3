//! What every [`MetaStore`] must show.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use bytes::Bytes;

use crate::metastore::{MetaStore, Read};
use crate::{Class, Error, Result};

/// Opens the same directory again.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn MetaStore>;

/// Runs all cases; `open` answers the store of one directory, fresh at the first call. Before each further call all
/// handles have been dropped.
pub fn run(open: Open<'_>) {
    reads_see_writes(&*open());
    scans_are_ordered_and_stop(&*open());
    failed_bodies_change_nothing(&*open());
    bodies_see_their_own_writes(&*open());
    panics_are_contained(&*open());
    large_values(&*open());
    writers_in_parallel_lose_nothing(open());
    views_see_one_state(open());
    reopened(open);
}

fn put(store: &dyn MetaStore, key: &[u8], value: &[u8]) {
    let (key, value) = (key.to_vec(), value.to_vec());
    store.update(Box::new(move |tx| tx.put(&key, &value))).unwrap();
}

fn get(store: &dyn MetaStore, key: &[u8]) -> Option<Bytes> {
    let mut found = None;
    store
        .view(&mut |tx| {
            found = tx.get(key)?;
            Ok(())
        })
        .unwrap();
    found
}

fn keys(tx: &dyn Read, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    tx.scan(prefix, &mut |key, _| {
        keys.push(key.to_vec());
        Ok(true)
    })?;
    Ok(keys)
}

fn all(store: &dyn MetaStore, prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    store
        .view(&mut |tx| {
            found = keys(tx, prefix)?;
            Ok(())
        })
        .unwrap();
    found
}

fn reads_see_writes(store: &dyn MetaStore) {
    assert_eq!(get(store, b"a/none"), None);
    put(store, b"a/1", b"one");
    put(store, b"a/empty", b"");
    assert_eq!(get(store, b"a/1").as_deref(), Some(&b"one"[..]));
    assert_eq!(get(store, b"a/empty").as_deref(), Some(&b""[..]));
    put(store, b"a/1", b"uno");
    assert_eq!(get(store, b"a/1").as_deref(), Some(&b"uno"[..]));
    store.update(Box::new(|tx| tx.delete(b"a/1"))).unwrap();
    store.update(Box::new(|tx| tx.delete(b"a/never"))).unwrap();
    assert_eq!(get(store, b"a/1"), None);
}

fn scans_are_ordered_and_stop(store: &dyn MetaStore) {
    for key in [&b"s/c"[..], b"s/a", b"s/b", b"s", b"s0", b"s/\xff\xff", b"s/a\x00", b"t"] {
        put(store, key, key);
    }
    let want: Vec<Vec<u8>> =
        [&b"s/a"[..], b"s/a\x00", b"s/b", b"s/c", b"s/\xff\xff"].iter().map(|k| k.to_vec()).collect();
    assert_eq!(all(store, b"s/"), want);
    assert_eq!(all(store, b"s/\xff"), [b"s/\xff\xff".to_vec()]);
    assert!(all(store, b"nothing").is_empty());
    assert!(all(store, b"").len() >= want.len(), "the empty prefix is all keys");
    let mut later = Vec::new();
    store
        .view(&mut |tx| {
            tx.scan_from(b"s/", b"s/a\x00", &mut |key, _| {
                later.push(key.to_vec());
                Ok(true)
            })?;
            tx.scan_from(b"s/", b"r", &mut |key, _| {
                later.push(key.to_vec());
                Ok(false)
            })
        })
        .unwrap();
    assert_eq!(later[..4], want[1..]);
    assert_eq!(later[4..], want[..1], "a start before the prefix");
    let mut seen = 0;
    store
        .view(&mut |tx| {
            tx.scan(b"s/", &mut |_, _| {
                seen += 1;
                Ok(seen < 2)
            })
        })
        .unwrap();
    assert_eq!(seen, 2);
    let failed = store.view(&mut |tx| tx.scan(b"s/", &mut |_, _| Err(Error::aborted("enough"))));
    assert!(failed.unwrap_err().is(Class::Aborted));
}

fn failed_bodies_change_nothing(store: &dyn MetaStore) {
    put(store, b"f/old", b"1");
    let result = store.update(Box::new(|tx| {
        tx.put(b"f/old", b"2")?;
        tx.put(b"f/new", b"2")?;
        tx.delete(b"f/old")?;
        Err(Error::precondition("no"))
    }));
    assert!(result.unwrap_err().is(Class::FailedPrecondition));
    assert_eq!(get(store, b"f/old").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(store, b"f/new"), None);
}

fn bodies_see_their_own_writes(store: &dyn MetaStore) {
    for key in [b"o/1", b"o/2", b"o/4"] {
        put(store, key, b"x");
    }
    store
        .update(Box::new(|tx| {
            tx.put(b"o/3", b"new")?;
            tx.put(b"o/1", b"over")?;
            tx.delete(b"o/2")?;
            tx.put(b"o/0", b"first")?;
            tx.put(b"o/9", b"last")?;
            assert_eq!(tx.get(b"o/2")?, None);
            assert_eq!(tx.get(b"o/1")?.as_deref(), Some(&b"over"[..]));
            let want: Vec<Vec<u8>> =
                [b"o/0", b"o/1", b"o/3", b"o/4", b"o/9"].iter().map(|k| k.to_vec()).collect();
            assert_eq!(keys(tx, b"o/")?, want);
            tx.delete(b"o/9")
        }))
        .unwrap();
    assert_eq!(all(store, b"o/").len(), 4);
}

fn panics_are_contained(store: &dyn MetaStore) {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = store.update(Box::new(|tx| {
        tx.put(b"p/1", b"half")?;
        panic!("a body's own fault")
    }));
    std::panic::set_hook(quiet);
    assert!(result.unwrap_err().is(Class::Internal));
    assert_eq!(get(store, b"p/1"), None);
    put(store, b"p/2", b"whole");
    assert_eq!(get(store, b"p/2").as_deref(), Some(&b"whole"[..]));
}

fn large_values(store: &dyn MetaStore) {
    for size in [1 << 10, 100 << 10, 600 << 10, 5 << 20] {
        let value: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
        put(store, b"l/large", &value);
        assert_eq!(get(store, b"l/large").as_deref(), Some(&value[..]), "{size} bytes");
    }
    store.update(Box::new(|tx| tx.delete(b"l/large"))).unwrap();
}

fn writers_in_parallel_lose_nothing(store: Arc<dyn MetaStore>) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 25;
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (store, start) = (store.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let failing = round % 5 == 4;
                    let result = store.update(Box::new(move |tx| {
                        let n = tx.get(b"w/count")?.map_or(0, |v| v[0] as usize | (v[1] as usize) << 8);
                        tx.put(b"w/count", &((n + 1) as u16).to_le_bytes())?;
                        tx.put(format!("w/k/{thread}/{round}").as_bytes(), b"")?;
                        if failing { Err(Error::aborted("on purpose")) } else { Ok(()) }
                    }));
                    assert_eq!(result.is_err(), failing);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let done = THREADS * ROUNDS * 4 / 5;
    assert_eq!(get(&*store, b"w/count").as_deref(), Some(&(done as u16).to_le_bytes()[..]));
    assert_eq!(all(&*store, b"w/k/").len(), done);
}

/// Both keys change together, so no view may see them differ.
fn views_see_one_state(store: Arc<dyn MetaStore>) {
    let stop = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (store, stop) = (store.clone(), stop.clone());
        std::thread::spawn(move || {
            for n in 0..200u32 {
                store
                    .update(Box::new(move |tx| {
                        tx.put(b"v/a", &n.to_le_bytes())?;
                        tx.put(b"v/z", &n.to_le_bytes())
                    }))
                    .unwrap();
            }
            stop.store(1, Ordering::Release);
        })
    };
    while stop.load(Ordering::Acquire) == 0 {
        store
            .view(&mut |tx| {
                let first = tx.get(b"v/a")?;
                let mut values = Vec::new();
                tx.scan(b"v/", &mut |_, value| {
                    values.push(value.to_vec());
                    Ok(true)
                })?;
                assert!(values.iter().all(|v| Some(&v[..]) == first.as_deref()), "a view saw half a change");
                Ok(())
            })
            .unwrap();
    }
    writer.join().unwrap();
}

fn reopened(open: Open<'_>) {
    put(&*open(), b"r/1", b"stays");
    assert_eq!(get(&*open(), b"r/1").as_deref(), Some(&b"stays"[..]));
    open().update(Box::new(|tx| tx.delete(b"r/1"))).unwrap();
    assert_eq!(get(&*open(), b"r/1"), None);
}
