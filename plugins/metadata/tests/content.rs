//! The content store as namespaces see it.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Fixture, MemoryStore, class, labels};
use futures::TryStreamExt;
use windlass_core::content::{Writer, WriterOptions};
use windlass_core::event::Event;
use windlass_core::metadata::Database as _;
use windlass_core::namespace::Namespace;
use windlass_core::{Class, Context, Digest, FieldMask, Filters, Result};
use windlass_metadata::Policy;

fn options(reference: &str, expected: Option<&Digest>, total: u64) -> WriterOptions {
    WriterOptions {
        reference: reference.into(),
        total,
        expected: expected.cloned(),
        ..WriterOptions::default()
    }
}

async fn open(f: &Fixture, cx: &Context, options: WriterOptions) -> Result<Box<dyn Writer>> {
    f.db.content().writer(cx, options).await
}

async fn read(f: &Fixture, cx: &Context, digest: &Digest) -> Result<Bytes> {
    windlass_core::content::read_all(&*f.db.content(), cx, digest, 1 << 20).await
}

#[tokio::test]
async fn blobs_belong_to_their_namespace() {
    let f = Fixture::new();
    let (cx, other) = (&Context::new("one"), &Context::new("two"));
    let digest = f.blob(cx, "data", labels(&[("a", "1"), ("empty", "")])).await;
    assert_eq!(
        f.events.take(),
        [("one".to_owned(), Event::ContentCreate { digest: digest.clone(), size: 4 })]
    );
    let content = f.db.content();
    let info = content.info(cx, &digest).await.unwrap();
    assert_eq!((info.size, &info.labels), (4, &labels(&[("a", "1")])));
    assert_eq!(read(&f, cx, &digest).await.unwrap(), "data");
    assert_eq!(class(content.info(other, &digest).await), Some(Class::NotFound));
    assert_eq!(class(read(&f, other, &digest).await), Some(Class::NotFound));
    assert_eq!(class(content.delete(other, &digest).await), Some(Class::NotFound));

    let changed = windlass_core::content::Info { labels: labels(&[("b", "2")]), ..info.clone() };
    let one = content.update(cx, changed.clone(), &FieldMask::of(&["labels.b"])).await.unwrap();
    assert_eq!(one.labels, labels(&[("a", "1"), ("b", "2")]));
    assert!(one.updated_at >= info.updated_at && one.created_at == info.created_at);
    assert_eq!(content.update(cx, changed.clone(), &FieldMask::all()).await.unwrap().labels.len(), 1);
    assert_eq!(
        class(content.update(cx, changed, &FieldMask::of(&["size"])).await),
        Some(Class::InvalidArgument)
    );

    content.delete(cx, &digest).await.unwrap();
    assert_eq!(f.events.take().pop().unwrap().1, Event::ContentDelete { digest: digest.clone() });
    assert_eq!(class(content.info(cx, &digest).await), Some(Class::NotFound));
    assert_eq!(f.content.digests().len(), 1, "the bytes go with a collection");
    f.collect().await;
    assert!(f.content.digests().is_empty());
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let f = Fixture::new();
    let cx = &Context::new("many");
    for n in 0..600 {
        f.blob(cx, &format!("blob {n}"), labels(&[("odd", if n % 2 == 1 { "yes" } else { "no" })])).await;
    }
    let content = f.db.content();
    let count = |filter: &'static str| {
        let content = content.clone();
        async move {
            let filters = Filters::parse(&[filter]).unwrap();
            content.list(cx, &filters).try_collect::<Vec<_>>().await.unwrap().len()
        }
    };
    assert_eq!(count("").await, 600);
    assert_eq!(count("labels.odd==yes").await, 300);
    let digest = Digest::of(b"blob 7");
    let filters = Filters::parse(&[format!("digest=={digest}")]).unwrap();
    let found: Vec<_> = content.list(cx, &filters).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(content.list(&Context::new("none"), &Filters::all()).try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn ingests_are_named_per_namespace_and_resume() {
    let f = Fixture::new();
    let (cx, other) = (&Context::new("one"), &Context::new("two"));
    assert_eq!(class(open(&f, cx, options("", None, 0)).await), Some(Class::InvalidArgument));
    let mut writer = open(&f, cx, options("ref", None, 8)).await.unwrap();
    writer.write("half".into()).await.unwrap();
    assert_eq!(class(open(&f, cx, options("ref", None, 8)).await), Some(Class::Unavailable));
    let there = open(&f, other, options("ref", None, 0)).await.unwrap();
    drop(there);
    drop(writer);

    let content = f.db.content();
    let status = content.status(cx, "ref").await.unwrap();
    assert_eq!((status.reference.as_str(), status.offset), ("ref", 4));
    assert_eq!(content.list_statuses(cx, &Filters::parse(&["ref==ref"]).unwrap()).await.unwrap().len(), 1);
    assert_eq!(content.list_statuses(cx, &Filters::parse(&["ref==x"]).unwrap()).await.unwrap().len(), 0);
    content.abort(other, "ref").await.unwrap();
    assert_eq!(class(content.abort(other, "ref").await), Some(Class::NotFound));
    assert_eq!(class(content.status(other, "ref").await), Some(Class::NotFound));

    let f = f.restarted();
    f.collect().await;
    let mut writer = open(&f, cx, options("ref", None, 8)).await.unwrap();
    assert_eq!(writer.status().offset, 4);
    writer.write("half".into()).await.unwrap();
    let digest = Digest::of(b"halfhalf");
    assert_eq!(class(writer.commit(3, None, labels(&[])).await), Some(Class::FailedPrecondition));
    let mut writer = open(&f, cx, options("ref", None, 8)).await.unwrap();
    assert_eq!(writer.commit(8, Some(&digest), labels(&[])).await.unwrap(), digest);
    assert_eq!(class(f.db.content().status(cx, "ref").await), Some(Class::NotFound));
    assert!(f.content.references().is_empty());
}

#[tokio::test]
async fn content_is_shared_by_digest_without_a_copy() {
    let f = Fixture::new();
    let (cx, other) = (&Context::new("one"), &Context::new("two"));
    let digest = f.blob(cx, "shared", labels(&[("of", "one")])).await;
    assert_eq!(class(open(&f, cx, options("again", Some(&digest), 6)).await), Some(Class::AlreadyExists));
    let mut writer = open(&f, other, options("mine", Some(&digest), 6)).await.unwrap();
    assert_eq!((writer.status().offset, writer.digest()), (6, digest.clone()));
    assert!(f.content.references().is_empty(), "nothing is written");
    // What is shared stays, even if its first owner lets go of it.
    f.db.content().delete(cx, &digest).await.unwrap();
    f.collect().await;
    let wrong = Digest::of(b"wrong");
    assert_eq!(class(writer.commit(5, None, labels(&[])).await), Some(Class::FailedPrecondition));
    assert_eq!(class(writer.commit(0, Some(&wrong), labels(&[])).await), Some(Class::FailedPrecondition));
    writer.commit(6, Some(&digest), labels(&[("of", "two")])).await.unwrap();
    assert_eq!(read(&f, other, &digest).await.unwrap(), "shared");
    assert_eq!(f.db.content().info(other, &digest).await.unwrap().labels, labels(&[("of", "two")]));

    // A size that differs is not shared; who writes on gets a copy.
    let writer = open(&f, cx, options("larger", Some(&digest), 9)).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    drop(writer);
    let mut writer = open(&f, cx, options("longer", Some(&digest), 0)).await.unwrap();
    writer.write("".into()).await.unwrap();
    writer.write("!".into()).await.unwrap();
    assert_eq!(writer.commit(7, None, labels(&[])).await.unwrap(), Digest::of(b"shared!"));
    let mut writer = open(&f, cx, options("afresh", Some(&digest), 0)).await.unwrap();
    writer.truncate(0).await.unwrap();
    writer.write("new".into()).await.unwrap();
    assert_eq!(writer.commit(3, None, labels(&[])).await.unwrap(), Digest::of(b"new"));
}

#[tokio::test]
async fn isolated_content_must_be_sent_unless_it_is_shareable() {
    let f = Fixture::with(std::sync::Arc::new(MemoryStore::default()), Policy::Isolated);
    let (cx, other) = (&Context::new("one"), &Context::new("two"));
    let digest = f.blob(cx, "secret", labels(&[])).await;
    let mut writer = open(&f, other, options("mine", Some(&digest), 6)).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    writer.write("secret".into()).await.unwrap();
    writer.commit(6, Some(&digest), labels(&[])).await.unwrap();
    assert_eq!(read(&f, other, &digest).await.unwrap(), "secret");
    let shareable =
        Namespace { name: "one".into(), labels: labels(&[(windlass_core::namespace::LABEL_SHARED, "true")]) };
    f.db.namespaces().update(shareable, &FieldMask::all()).await.unwrap();
    let third = &Context::new("three");
    let writer = open(&f, third, options("mine", Some(&digest), 6)).await.unwrap();
    assert_eq!(writer.status().offset, 6);
}

#[tokio::test]
async fn leases_refer_to_what_is_written_under_them() {
    let f = Fixture::new();
    let cx = &Context::new("n");
    let leased = &cx.clone().with_lease("l");
    assert_eq!(class(open(&f, leased, options("r", None, 0)).await), Some(Class::NotFound));
    let leases = f.db.leases();
    leases.create(cx, "l", labels(&[])).await.unwrap();
    let kinds = || async {
        let list = leases.list_resources(cx, "l").await.unwrap();
        list.into_iter().map(|r| r.kind).collect::<Vec<_>>().join(" ")
    };
    let mut writer = open(&f, leased, options("r", None, 0)).await.unwrap();
    assert_eq!(kinds().await, "ingests");
    writer.write("x".into()).await.unwrap();
    f.collect().await;
    let digest = writer.commit(1, None, labels(&[])).await.unwrap();
    assert_eq!(kinds().await, "content");
    f.collect().await;
    let loose = f.blob(cx, "loose", labels(&[])).await;
    assert_eq!(class(open(&f, leased, options("r", Some(&loose), 0)).await), Some(Class::AlreadyExists));
    assert_eq!(kinds().await, "content content", "what is there already is held too");
    f.collect().await;
    assert_eq!(f.content.digests().len(), 2);
    leases.delete(cx, "l").await.unwrap();
    f.collect().await;
    assert!(f.content.digests().is_empty());
    assert_eq!(class(f.db.content().info(cx, &digest).await), Some(Class::NotFound));
}
