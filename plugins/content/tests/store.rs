//! The local store against the contract, and what only a store of files can show.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use windlass_content::Store;
use windlass_core::content::{Store as _, Sync, WriterOptions, read_all};
use windlass_core::testsuite::content;
use windlass_core::{Context, Digest, Labels};

fn cx() -> Context {
    Context::new("test")
}

fn named(reference: &str) -> WriterOptions {
    WriterOptions { reference: reference.into(), ..WriterOptions::default() }
}

fn files(root: &Path, directory: &str) -> usize {
    std::fs::read_dir(root.join(directory)).map_or(0, Iterator::count)
}

#[tokio::test]
async fn the_contract_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pause = || -> futures::future::BoxFuture<'static, ()> { Box::pin(tokio::task::yield_now()) };
    content::run(&content::Env { store: &store, cx: cx(), labels: false, pause: &pause }).await;
    assert_eq!((files(dir.path(), "ingest"), files(dir.path(), "unsynced")), (0, 0));
}

#[tokio::test]
async fn an_ingest_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        let options = WriterOptions { total: 10, ..named("later") };
        let mut writer = store.writer(&cx(), options).await.unwrap();
        writer.write(Bytes::from_static(b"hello")).await.unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    let status = store.status(&cx(), "later").await.unwrap();
    assert_eq!((status.offset, status.total), (5, 10));
    let mut writer = store.writer(&cx(), named("later")).await.unwrap();
    assert_eq!(writer.status().total, 10);
    writer.write(Bytes::from_static(b"world")).await.unwrap();
    let digest = writer.commit(10, None, Labels::new()).await.unwrap();
    assert_eq!(digest, Digest::of(b"helloworld"));
}

#[tokio::test]
async fn a_start_sweeps_what_a_crash_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    // Made but not filled; renamed away but not removed.
    std::fs::create_dir(dir.path().join("ingest/empty")).unwrap();
    std::fs::create_dir(dir.path().join("ingest/committed")).unwrap();
    std::fs::write(dir.path().join("ingest/committed/ref"), "r").unwrap();
    Store::open(dir.path()).unwrap();
    assert_eq!(files(dir.path(), "ingest"), 0);
}

#[tokio::test]
async fn torn_blobs_do_not_survive_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    {
        let store = Store::open(dir.path()).unwrap();
        for text in ["whole", "torn", "synced"] {
            let options = WriterOptions { sync: Sync::Caller, ..named(text) };
            let mut writer = store.writer(&cx(), options).await.unwrap();
            writer.write(Bytes::from_static(text.as_bytes())).await.unwrap();
            digests.push(writer.commit(0, None, Labels::new()).await.unwrap());
        }
    }
    assert_eq!(files(dir.path(), "unsynced"), 3);
    // What a power cut does to a file that was never synced.
    let torn = dir.path().join("blobs/sha256").join(digests[1].encoded());
    std::fs::set_permissions(&torn, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&torn, "").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(files(dir.path(), "unsynced"), 0);
    assert_eq!(read_all(&store, &cx(), &digests[0], 100).await.unwrap(), "whole");
    assert!(store.info(&cx(), &digests[1]).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn nobody_else_can_look() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let mut writer = store.writer(&cx(), named("modes")).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    let digest = writer.commit(0, None, Labels::new()).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    for directory in ["", "blobs", "ingest", "unsynced"] {
        assert_eq!(mode(&root.join(directory)), 0o700, "{directory}");
    }
    assert_eq!(mode(&root.join("blobs/sha256").join(digest.encoded())), 0o400);
}

#[tokio::test]
async fn a_caller_that_gives_up_frees_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut writer = store.writer(&cx(), named("given-up")).await.unwrap();
    {
        let write = writer.write(Bytes::from(vec![1; 8 << 20]));
        let mut write = std::pin::pin!(write);
        // Begun, and dropped before it ends.
        let _ = futures::poll!(write.as_mut());
    }
    assert!(writer.write(Bytes::from_static(b"more")).await.is_err(), "the writer is closed");
    drop(writer);
    loop {
        match store.writer(&cx(), named("given-up")).await {
            Ok(writer) => {
                assert_eq!(writer.status().offset, 8 << 20);
                break;
            }
            Err(error) => assert!(error.is(windlass_core::Class::Unavailable), "{}", error.chain()),
        }
        tokio::task::yield_now().await;
    }
}
