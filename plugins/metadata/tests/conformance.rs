//! core's suites over the database, on both engines.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, class, labels};
use windlass_core::metadata::Database as _;
use windlass_core::namespace::Namespace;
use windlass_core::{Class, Context, Descriptor, testsuite};
use windlass_metadata::Policy;
use windlass_metastore::{Choice, Options, open};

async fn suites(engine: Choice) {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Options { engine, ..Options::default() }).unwrap();
    let f = Fixture::with(store, Policy::Shared);
    testsuite::container::run(&*f.db.containers()).await;
    testsuite::image::run(&*f.db.images()).await;
    testsuite::lease::run(&*f.db.leases()).await;
    testsuite::namespace::run(&*f.db.namespaces()).await;
    testsuite::sandbox::run(&*f.db.sandboxes()).await;
    namespaces_are_deleted_empty(&f).await;
}

#[tokio::test]
async fn all_suites_on_sled() {
    suites(Choice::Sled).await;
}

#[tokio::test]
async fn all_suites_on_redb() {
    suites(Choice::Redb).await;
}

async fn namespaces_are_deleted_empty(f: &Fixture) {
    let cx = &Context::new("full");
    let digest = f.blob(cx, "blob", labels(&[])).await;
    let image = windlass_core::image::Image {
        name: "i".into(),
        target: Descriptor::new("m", digest.clone(), 4),
        labels: labels(&[]),
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
    };
    f.db.images().create(cx, image).await.unwrap();
    f.layer(cx, "layer", "", labels(&[])).await;
    f.db.leases().create(cx, "lease", labels(&[])).await.unwrap();
    let namespaces = f.db.namespaces();
    assert!(
        namespaces.list().await.unwrap().iter().any(|n| n.name == "full"),
        "it came with its first thing"
    );
    let full = Namespace { name: "full".into(), labels: labels(&[]) };
    assert_eq!(class(namespaces.create(full).await), Some(Class::AlreadyExists));
    let error = namespaces.delete("full").await.unwrap_err();
    assert!(error.is(Class::FailedPrecondition));
    assert!(error.message().contains("images, blobs, snapshots on \"fake\" snapshotter"), "{error}");
    f.db.images().delete(cx, "i", None).await.unwrap();
    f.db.content().delete(cx, &digest).await.unwrap();
    f.snapshotter().remove(cx, "layer").await.unwrap();
    namespaces.delete("full").await.unwrap();
    assert!(f.db.leases().list(cx, &windlass_core::Filters::all()).await.unwrap().is_empty());
}
