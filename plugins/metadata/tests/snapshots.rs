//! Snapshotters as namespaces see them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, class, labels};
use futures::TryStreamExt;
use windlass_core::event::Event;
use windlass_core::metadata::Database as _;
use windlass_core::snapshot::{CommitOptions, Info, Kind, LABEL_REF};
use windlass_core::{Class, Context, FieldMask, Filters, Labels};

fn commit(labels: Labels) -> CommitOptions {
    CommitOptions { labels, ..CommitOptions::default() }
}

fn event_names(f: &Fixture) -> String {
    let events = f.events.take();
    let name = |event: &Event| match event {
        Event::SnapshotPrepare { key, parent, snapshotter } => {
            format!("prepare {key} {parent} {snapshotter}")
        }
        Event::SnapshotCommit { key, name, snapshotter } => format!("commit {key} {name} {snapshotter}"),
        Event::SnapshotRemove { key, snapshotter } => format!("remove {key} {snapshotter}"),
        other => format!("{other:?}"),
    };
    events.iter().map(|(_, event)| name(event)).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn a_snapshots_life() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    let own = labels(&[("mine", "1"), ("containerd.io/snapshot/x", "2"), ("containerd.io/gc.root", "3")]);
    let mounts = s.prepare(cx, "key", "", own.clone()).await.unwrap();
    assert!(mounts[0].source.starts_with("n/") && mounts[0].source.ends_with("/key"), "{mounts:?}");
    assert_eq!(s.mounts(cx, "key").await.unwrap(), mounts);
    assert_eq!(f.snapshots.labels_of(&mounts[0].source), labels(&[("containerd.io/snapshot/x", "2")]));
    let info = s.stat(cx, "key").await.unwrap();
    assert_eq!((info.kind, info.name.as_str(), &info.labels), (Kind::Active, "key", &own));
    assert_eq!(s.usage(cx, "key").await.unwrap().size, 2);
    assert_eq!(class(s.prepare(cx, "key", "", labels(&[])).await), Some(Class::AlreadyExists));
    assert_eq!(class(s.prepare(cx, "k2", "none", labels(&[])).await), Some(Class::NotFound));
    s.commit(cx, "name", "key", commit(labels(&[("c", "1")]))).await.unwrap();
    let info = s.stat(cx, "name").await.unwrap();
    assert_eq!((info.kind, &info.labels), (Kind::Committed, &labels(&[("c", "1")])));
    assert_eq!(class(s.stat(cx, "key").await), Some(Class::NotFound));
    assert_eq!(class(s.commit(cx, "other", "key", commit(labels(&[]))).await), Some(Class::NotFound));

    s.prepare(cx, "child", "name", labels(&[])).await.unwrap();
    s.view(cx, "look", "name", labels(&[])).await.unwrap();
    assert_eq!(s.stat(cx, "look").await.unwrap().parent, "name");
    assert_eq!(class(s.commit(cx, "name", "child", commit(labels(&[]))).await), Some(Class::AlreadyExists));
    assert_eq!(class(s.remove(cx, "name").await), Some(Class::FailedPrecondition));
    s.remove(cx, "child").await.unwrap();
    s.remove(cx, "look").await.unwrap();
    s.remove(cx, "name").await.unwrap();
    assert_eq!(class(s.remove(cx, "name").await), Some(Class::NotFound));
    assert_eq!(
        event_names(&f),
        "prepare key  fake; commit key name fake; prepare child name fake; remove child fake; remove look fake; \
         remove name fake"
    );
    assert_eq!(f.snapshots.names().len(), 3, "data goes with a collection");
    f.collect().await;
    assert!(f.snapshots.names().is_empty());
}

#[tokio::test]
async fn namespaces_do_not_meet() {
    let f = Fixture::new();
    let (one, two, s) = (&Context::new("one"), &Context::new("two"), f.snapshotter());
    f.layer(one, "same", "", labels(&[])).await;
    assert_eq!(class(s.stat(two, "same").await), Some(Class::NotFound));
    assert_eq!(class(s.prepare(two, "k", "same", labels(&[])).await), Some(Class::NotFound));
    f.layer(two, "same", "", labels(&[])).await;
    assert_eq!(f.snapshots.names().len(), 2);
    s.remove(one, "same").await.unwrap();
    f.collect().await;
    assert_eq!(f.snapshots.names().len(), 0, "nothing held the other");
    let list: Vec<_> = s.list(two, &Filters::all()).try_collect().await.unwrap();
    assert!(list.is_empty());
}

#[tokio::test]
async fn lists_and_updates() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    f.layer(cx, "base", "", labels(&[("l", "base")])).await;
    for n in 0..250 {
        s.prepare(cx, &format!("k{n}"), "base", labels(&[("n", &n.to_string())])).await.unwrap();
    }
    let count = |filter: &'static str| {
        let s = s.clone();
        async move {
            let filters = Filters::parse(&[filter]).unwrap();
            s.list(cx, &filters).try_collect::<Vec<_>>().await.unwrap().len()
        }
    };
    for (filter, want) in [
        ("", 251),
        ("kind==committed", 1),
        ("kind==active", 250),
        ("parent==base", 250),
        ("name==k7", 1),
        ("labels.n==7", 1),
        ("labels.l", 1),
    ] {
        assert_eq!(count(filter).await, want, "{filter}");
    }
    let info = s.stat(cx, "base").await.unwrap();
    let change = Info { labels: labels(&[("l", "new"), ("containerd.io/snapshot/y", "1")]), ..info.clone() };
    let paths = FieldMask::of(&["labels.l", "labels.containerd.io/snapshot/y"]);
    let updated = s.update(cx, change.clone(), &paths).await.unwrap();
    assert_eq!((&updated.labels, updated.name.as_str()), (&change.labels, "base"));
    assert_eq!(s.stat(cx, "base").await.unwrap(), updated);
    assert!(updated.updated_at >= info.updated_at && updated.created_at == info.created_at);
    assert_eq!(class(s.update(cx, change, &FieldMask::of(&["parent"])).await), Some(Class::InvalidArgument));
    let gone = Info { name: "gone".into(), ..info };
    assert_eq!(class(s.update(cx, gone, &FieldMask::all()).await), Some(Class::NotFound));
}

#[tokio::test]
async fn a_remote_snapshotters_layers_are_taken_over() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    f.db.leases().create(cx, "l", labels(&[])).await.unwrap();
    let cx = &cx.clone().with_lease("l");
    f.snapshots.offer("chain-1");
    f.snapshots.offer("chain-2");
    let target = |name: &str| labels(&[(LABEL_REF, name), ("other", "x")]);
    let error = s.prepare(cx, "extract-1", "", target("chain-1")).await.unwrap_err();
    assert!(error.is(Class::AlreadyExists), "{error}");
    let info = s.stat(cx, "chain-1").await.unwrap();
    assert_eq!((info.kind, &info.labels), (Kind::Committed, &target("chain-1")));
    assert_eq!(class(s.stat(cx, "extract-1").await), Some(Class::NotFound));
    assert_eq!(class(s.prepare(cx, "e", "chain-1", target("chain-2")).await), Some(Class::AlreadyExists));
    assert_eq!(s.stat(cx, "chain-2").await.unwrap().parent, "chain-1");
    // Known now: the raw snapshotter is not asked.
    let error = s.prepare(cx, "extract-2", "", target("chain-1")).await.unwrap_err();
    assert!(error.message().contains("target snapshot \"chain-1\""), "{error}");
    // Not offered: unpacked as usual.
    s.prepare(cx, "extract-3", "chain-2", target("chain-3")).await.unwrap();
    s.commit(cx, "chain-3", "extract-3", commit(labels(&[]))).await.unwrap();
    f.collect().await;
    assert_eq!(f.snapshots.names().len(), 3);
    // In another namespace the snapshotter makes or finds it again, and it gets a second record.
    let other = &Context::new("m");
    assert_eq!(class(s.prepare(other, "e", "", target("chain-1")).await), Some(Class::AlreadyExists));
    assert_eq!(s.stat(other, "chain-1").await.unwrap().name, "chain-1");
    f.db.leases().delete(&Context::new("n"), "l").await.unwrap();
    f.collect().await;
    assert!(f.snapshots.names().is_empty());
}

#[tokio::test]
async fn a_snapshot_gets_its_parent_at_commit() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    f.layer(cx, "base", "", labels(&[])).await;
    s.prepare(cx, "k", "", labels(&[])).await.unwrap();
    let options = CommitOptions { parent: Some("none".into()), ..CommitOptions::default() };
    assert_eq!(class(s.commit(cx, "top", "k", options).await), Some(Class::NotFound));
    let options = CommitOptions { parent: Some("base".into()), ..CommitOptions::default() };
    s.commit(cx, "top", "k", options).await.unwrap();
    assert_eq!(s.stat(cx, "top").await.unwrap().parent, "base");
    assert_eq!(class(s.remove(cx, "base").await), Some(Class::FailedPrecondition));
    let raw = f.snapshots.names();
    let raw_base = raw.iter().find(|n| n.ends_with("/base")).unwrap();
    let raw_top = raw.iter().find(|n| n.ends_with("/top")).unwrap();
    use windlass_core::snapshot::Snapshotter as _;
    assert_eq!(f.snapshots.stat(cx, raw_top).await.unwrap().parent, *raw_base);
}

#[tokio::test]
async fn leases_refer_to_what_is_prepared_under_them() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    let leased = &cx.clone().with_lease("l");
    assert_eq!(class(s.prepare(leased, "k", "", labels(&[])).await), Some(Class::NotFound));
    f.db.leases().create(cx, "l", labels(&[])).await.unwrap();
    let held = || async {
        let list = f.db.leases().list_resources(cx, "l").await.unwrap();
        list.into_iter().map(|r| format!("{} {}", r.kind, r.id)).collect::<Vec<_>>().join("; ")
    };
    s.prepare(leased, "k", "", labels(&[])).await.unwrap();
    assert_eq!(held().await, "snapshots/fake k");
    s.commit(leased, "name", "k", commit(labels(&[]))).await.unwrap();
    assert_eq!(held().await, "snapshots/fake name");
    f.layer(cx, "loose", "name", labels(&[])).await;
    assert_eq!(class(s.prepare(leased, "loose", "", labels(&[])).await), Some(Class::AlreadyExists));
    assert_eq!(held().await, "snapshots/fake loose; snapshots/fake name");
    f.collect().await;
    s.stat(cx, "loose").await.unwrap();
    s.remove(leased, "loose").await.unwrap();
    assert_eq!(held().await, "snapshots/fake name");
}

#[tokio::test]
async fn a_commit_that_was_cut_off_is_finished_by_the_next_call() {
    let f = Fixture::new();
    let (cx, s) = (&Context::new("n"), f.snapshotter());
    f.db.leases().create(cx, "l", labels(&[])).await.unwrap();
    let cx = &cx.clone().with_lease("l");
    s.prepare(cx, "k", "", labels(&[])).await.unwrap();
    let raw = f.snapshots.names().pop().unwrap();
    f.snapshots.commit_alone(&raw.replace("/k", "/name"), &raw);
    let f = f.restarted();
    f.collect().await;
    assert_eq!(f.snapshots.names().len(), 1, "it is kept while its active snapshot has a record");
    let s = f.snapshotter();
    assert_eq!(class(s.commit(cx, "other", "k", commit(labels(&[]))).await), Some(Class::NotFound));
    s.commit(cx, "name", "k", commit(labels(&[]))).await.unwrap();
    assert_eq!(s.stat(cx, "name").await.unwrap().kind, Kind::Committed);
    f.collect().await;
    assert_eq!(f.snapshots.names().len(), 1);
}

#[tokio::test]
async fn a_raw_snapshot_without_record_is_swept_after_a_restart() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    f.layer(cx, "base", "", labels(&[("containerd.io/gc.root", "1")])).await;
    let base = f.snapshots.names().pop().unwrap();
    f.snapshots.put("n/77/lost", &base, Kind::Active);
    f.snapshots.put("n/78/lost", "", Kind::Committed);
    f.snapshots.put("foreign", "n/78/lost", Kind::Committed);
    let f = f.restarted();
    f.collect().await;
    assert_eq!(f.snapshots.names(), [base]);
}

#[tokio::test]
async fn records_whose_data_is_gone_are_removed_after_a_restart() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let root = || labels(&[("containerd.io/gc.root", "1")]);
    f.layer(cx, "base", "", root()).await;
    f.layer(cx, "lost", "base", root()).await;
    f.layer(cx, "top", "lost", root()).await;
    let kept = f.blob(cx, "kept", root()).await;
    let gone = f.blob(cx, "gone", root()).await;
    f.collect().await;
    f.content.lose(&gone);
    f.snapshots.lose("/lost");
    f.snapshots.lose("/top");
    f.collect().await;
    f.db.content().info(cx, &gone).await.unwrap();
    let f = f.restarted();
    f.collect().await;
    assert_eq!(class(f.db.content().info(cx, &gone).await), Some(Class::NotFound));
    f.db.content().info(cx, &kept).await.unwrap();
    f.layer(cx, "lost", "base", root()).await;
    f.layer(cx, "top", "lost", root()).await;
    assert_eq!(f.snapshots.names().len(), 3);
}
