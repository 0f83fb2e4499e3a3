//! core's suite over both engines, and what is ours: engines that change places.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use windlass_core::metastore::MetaStore;
use windlass_metastore::{Choice, Options, open};

fn options(engine: Choice) -> Options {
    Options { engine, ..Options::default() }
}

#[test]
fn sled_conforms() {
    let root = tempfile::tempdir().unwrap();
    windlass_core::testsuite::metastore::run(&|| open(root.path(), options(Choice::Sled)).unwrap());
}

#[test]
fn redb_conforms() {
    let root = tempfile::tempdir().unwrap();
    windlass_core::testsuite::metastore::run(&|| open(root.path(), options(Choice::Redb)).unwrap());
}

fn records(store: &Arc<dyn MetaStore>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    store
        .view(&mut |tx| {
            tx.scan(b"", &mut |key, value| {
                all.push((key.to_vec(), value.to_vec()));
                Ok(true)
            })
        })
        .unwrap();
    all
}

#[test]
fn records_are_carried_over_when_the_engine_changes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), options(Choice::Sled)).unwrap();
    store
        .update(Box::new(|tx| {
            tx.put(b"large", &vec![7; 3 << 20])?;
            (0..500u32).try_for_each(|n| tx.put(&n.to_be_bytes(), &[n as u8; 100]))
        }))
        .unwrap();
    let before = records(&store);
    drop(store);
    let store = open(root.path(), options(Choice::Redb)).unwrap();
    assert_eq!(records(&store), before);
    store.update(Box::new(|tx| tx.put(b"newer", b""))).unwrap();
    let before = records(&store);
    drop(store);
    let store = open(root.path(), options(Choice::Sled)).unwrap();
    assert_eq!(records(&store), before);
}

#[test]
fn keys_are_bounded() {
    for engine in [Choice::Sled, Choice::Redb] {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path(), options(engine)).unwrap();
        let error = store.update(Box::new(|tx| tx.put(&[1; 40 << 10], b""))).unwrap_err();
        assert!(error.is(windlass_core::Class::InvalidArgument), "{error}");
        // Many of the longest keys: their pages leave sled's log for files of their own.
        let put = |tx: &mut dyn windlass_core::metastore::Write| {
            (0..40u8).try_for_each(|n| tx.put(&[&[n][..], &[n; 32_000]].concat(), &[n; 3000]))
        };
        store.update(Box::new(put)).unwrap();
        drop(store);
        assert_eq!(records(&open(root.path(), options(engine)).unwrap()).len(), 40);
    }
}
