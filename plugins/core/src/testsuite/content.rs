//! What every [`Store`] must show.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::TryStreamExt;

use crate::content::{Store, Sync, Writer, WriterOptions, read_all};
use crate::{Class, Context, Digest, FieldMask, Filters, Labels, Result};

/// A store under test. It must be empty, and the context's namespace must exist.
pub struct Env<'a> {
    pub store: &'a dyn Store,
    pub cx: Context,
    /// Whether it keeps labels.
    pub labels: bool,
    /// Waits a little: a store in another process hears of a dropped writer a moment later.
    pub pause: &'a (dyn Fn() -> BoxFuture<'static, ()> + std::marker::Sync),
}

/// Runs all cases.
pub async fn run(env: &Env<'_>) {
    blobs_are_written_read_listed_and_deleted(env).await;
    statuses_follow_the_writer(env).await;
    a_reference_has_one_writer(env).await;
    an_ingest_is_resumed(env).await;
    a_cut_back_ingest_is_written_anew(env).await;
    what_is_there_is_not_written_again(env).await;
    a_failed_commit_leaves_the_ingest(env).await;
    other_algorithms_are_known(env).await;
    reads_are_bounded_by_the_blob(env).await;
    missing_things_are_not_found(env).await;
    blobs_without_a_sync_of_their_own_are_there(env).await;
    if env.labels {
        labels_are_kept_and_changed(env).await;
    }
}

fn bytes(seed: u8, len: usize) -> Bytes {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(31).wrapping_add((n >> 8) as u8) ^ seed)
        .collect::<Vec<_>>()
        .into()
}

impl Env<'_> {
    async fn open(&self, options: WriterOptions) -> Result<Box<dyn Writer>> {
        for _ in 0..200 {
            match self.store.writer(&self.cx, options.clone()).await {
                Err(error) if error.is(Class::Unavailable) => (self.pause)().await,
                other => return other,
            }
        }
        panic!("the reference {:?} stays locked", options.reference);
    }

    async fn writer(&self, reference: &str) -> Box<dyn Writer> {
        self.open(named(reference)).await.unwrap()
    }

    async fn put(&self, reference: &str, data: &Bytes) -> Digest {
        let mut writer = self.writer(reference).await;
        writer.write(data.clone()).await.unwrap();
        let digest = Digest::of(data);
        writer.commit(data.len() as u64, Some(&digest), Labels::new()).await.unwrap()
    }

    async fn read(&self, digest: &Digest) -> Bytes {
        read_all(self.store, &self.cx, digest, 64 << 20).await.unwrap()
    }

    async fn references(&self) -> Vec<String> {
        let all = self.store.list_statuses(&self.cx, &Filters::all()).await.unwrap();
        let mut names: Vec<String> = all.into_iter().map(|s| s.reference).collect();
        names.sort();
        names
    }
}

fn named(reference: &str) -> WriterOptions {
    WriterOptions { reference: reference.into(), ..WriterOptions::default() }
}

fn class<T>(result: Result<T>) -> Class {
    result.err().expect("an error").class()
}

async fn blobs_are_written_read_listed_and_deleted(env: &Env<'_>) {
    let mut all = Vec::new();
    // Empty, small, just below and above what is written at once, and large.
    for (n, len) in [0, 1, 4095, (256 << 10) - 1, 256 << 10, 3_000_001].into_iter().enumerate() {
        let data = bytes(n as u8, len);
        let mut writer = env.writer(&format!("blob-{n}")).await;
        for part in data.chunks(1_000_000) {
            writer.write(data.slice_ref(part)).await.unwrap();
        }
        let digest = writer.commit(0, None, Labels::new()).await.unwrap();
        assert_eq!(digest, Digest::of(&data));
        assert_eq!(env.read(&digest).await, data);
        let info = env.store.info(&env.cx, &digest).await.unwrap();
        assert_eq!((info.digest.clone(), info.size), (digest.clone(), len as u64));
        all.push(digest);
    }
    all.sort();
    let listed: Vec<_> = env.store.list(&env.cx, &Filters::all()).try_collect().await.unwrap();
    let mut digests: Vec<_> = listed.iter().map(|i| i.digest.clone()).collect();
    digests.sort();
    assert_eq!(digests, all);
    let filter = Filters::parse(&[format!("digest=={}", all[0])]).unwrap();
    let found: Vec<_> = env.store.list(&env.cx, &filter).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(env.references().await.is_empty(), "a commit ends the ingest");
    for digest in &all {
        let open = env.store.reader(&env.cx, digest).await.unwrap();
        env.store.delete(&env.cx, digest).await.unwrap();
        assert_eq!(class(env.store.info(&env.cx, digest).await), Class::NotFound);
        // Who has it open goes on.
        if env.labels {
            drop(open);
        } else {
            assert_eq!(open.read_at(0, 10).await.unwrap().len() as u64, open.size().min(10));
        }
    }
}

async fn statuses_follow_the_writer(env: &Env<'_>) {
    let data = bytes(1, 256);
    let expected = Digest::of(&data);
    let options = WriterOptions { total: 256, expected: Some(expected.clone()), ..named("status") };
    let mut writer = env.open(options).await.unwrap();
    let begun = writer.status();
    assert_eq!((begun.reference.as_str(), begun.offset, begun.total), ("status", 0, 256));
    assert_eq!(writer.digest(), Digest::of(b""));
    for end in [64, 128, 256] {
        let at = writer.status().offset as usize;
        writer.write(data.slice(at..end)).await.unwrap();
        let status = writer.status();
        assert_eq!(status.offset, end as u64);
        assert_eq!(writer.digest(), Digest::of(&data[..end]));
        assert!(status.updated_at >= status.started_at);
        let stored = env.store.status(&env.cx, "status").await.unwrap();
        assert_eq!((stored.reference.as_str(), stored.offset, stored.total), ("status", end as u64, 256));
    }
    let filter = Filters::parse(&["ref==status"]).unwrap();
    assert_eq!(env.store.list_statuses(&env.cx, &filter).await.unwrap().len(), 1);
    let filter = Filters::parse(&["ref==other"]).unwrap();
    assert!(env.store.list_statuses(&env.cx, &filter).await.unwrap().is_empty());
    writer.commit(256, Some(&expected), Labels::new()).await.unwrap();
    assert_eq!(class(env.store.status(&env.cx, "status").await), Class::NotFound);
    env.store.delete(&env.cx, &expected).await.unwrap();
}

async fn a_reference_has_one_writer(env: &Env<'_>) {
    let first = env.writer("one").await;
    assert_eq!(class(env.store.writer(&env.cx, named("one")).await), Class::Unavailable);
    let other = env.writer("two").await;
    drop(first);
    drop(env.writer("one").await);
    drop(other);
    assert_eq!(class(env.store.writer(&env.cx, named("")).await), Class::InvalidArgument);
    for reference in ["one", "two"] {
        drop(env.writer(reference).await);
        env.store.abort(&env.cx, reference).await.unwrap();
    }
}

async fn an_ingest_is_resumed(env: &Env<'_>) {
    let data = bytes(2, 700_000);
    let mut writer = env.writer("resume").await;
    writer.write(data.slice(..300_000)).await.unwrap();
    drop(writer);
    assert_eq!(env.references().await, ["resume"]);
    let mut writer = env.writer("resume").await;
    assert_eq!(writer.status().offset, 300_000);
    assert_eq!(writer.digest(), Digest::of(&data[..300_000]));
    writer.write(data.slice(300_000..)).await.unwrap();
    let digest = writer.commit(700_000, Some(&Digest::of(&data)), Labels::new()).await.unwrap();
    assert_eq!(env.read(&digest).await, data);
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn a_cut_back_ingest_is_written_anew(env: &Env<'_>) {
    let data = bytes(3, 1000);
    let mut writer = env.writer("truncate").await;
    writer.write(bytes(4, 5000)).await.unwrap();
    writer.truncate(0).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    writer.write(data.clone()).await.unwrap();
    writer.truncate(1000).await.unwrap();
    let digest = writer.commit(1000, None, Labels::new()).await.unwrap();
    assert_eq!(env.read(&digest).await, data);
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn what_is_there_is_not_written_again(env: &Env<'_>) {
    let data = bytes(5, 256);
    let digest = env.put("exists", &data).await;
    let options = WriterOptions { expected: Some(digest.clone()), ..named("exists-open") };
    assert_eq!(class(env.open(options).await), Class::AlreadyExists);
    for expected in [Some(&digest), None] {
        let mut writer = env.writer("exists-commit").await;
        writer.write(data.clone()).await.unwrap();
        assert_eq!(class(writer.commit(256, expected, Labels::new()).await), Class::AlreadyExists);
    }
    assert!(env.references().await.is_empty());
    assert_eq!(env.read(&digest).await, data);
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn a_failed_commit_leaves_the_ingest(env: &Env<'_>) {
    let data = bytes(6, 300);
    let mut writer = env.writer("failed").await;
    writer.write(data.clone()).await.unwrap();
    let error = writer.commit(300, Some(&Digest::of(b"other")), Labels::new()).await.unwrap_err();
    assert!(error.is(Class::FailedPrecondition), "{}", error.chain());
    assert!(error.chain().contains("unexpected commit digest"), "{}", error.chain());
    drop(writer);
    let mut writer = env.writer("failed").await;
    let error = writer.commit(299, None, Labels::new()).await.unwrap_err();
    assert!(error.is(Class::FailedPrecondition), "{}", error.chain());
    assert!(error.chain().contains("unexpected commit size"), "{}", error.chain());
    drop(writer);
    let mut writer = env.writer("failed").await;
    let digest = writer.commit(300, None, Labels::new()).await.unwrap();
    assert_eq!(env.read(&digest).await, data);
    drop(writer);
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn other_algorithms_are_known(env: &Env<'_>) {
    let data = bytes(7, 1000);
    let mut hasher =
        crate::digest::Hasher::new(Some(&format!("sha512:{}", "0".repeat(128)).parse().unwrap()));
    hasher.update(&data);
    let digest = hasher.digest();
    // Told at the beginning, and only at the end.
    for (reference, expected) in [("sha512-open", Some(digest.clone())), ("sha512-commit", None)] {
        let mut writer = env.open(WriterOptions { expected, ..named(reference) }).await.unwrap();
        writer.write(data.clone()).await.unwrap();
        assert_eq!(writer.commit(1000, Some(&digest), Labels::new()).await.unwrap(), digest);
        assert_eq!(env.read(&digest).await, data);
        env.store.delete(&env.cx, &digest).await.unwrap();
    }
}

async fn reads_are_bounded_by_the_blob(env: &Env<'_>) {
    let data = bytes(8, 200_000);
    let digest = env.put("read", &data).await;
    let blob = env.store.reader(&env.cx, &digest).await.unwrap();
    assert_eq!(blob.size(), 200_000);
    assert_eq!(blob.read_at(10, 20).await.unwrap(), data.slice(10..30));
    assert_eq!(blob.read_at(199_990, 100).await.unwrap(), data.slice(199_990..));
    assert!(blob.read_at(200_000, 1).await.unwrap().is_empty());
    assert!(blob.read_at(u64::MAX, 1).await.unwrap_or_default().is_empty());
    assert!(read_all(env.store, &env.cx, &digest, 1000).await.unwrap_err().is(Class::FailedPrecondition));
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn missing_things_are_not_found(env: &Env<'_>) {
    let missing = Digest::of(b"never written");
    assert_eq!(class(env.store.info(&env.cx, &missing).await), Class::NotFound);
    assert_eq!(class(env.store.reader(&env.cx, &missing).await), Class::NotFound);
    assert_eq!(class(env.store.delete(&env.cx, &missing).await), Class::NotFound);
    assert_eq!(class(env.store.status(&env.cx, "never").await), Class::NotFound);
    assert_eq!(class(env.store.abort(&env.cx, "never").await), Class::NotFound);
}

async fn blobs_without_a_sync_of_their_own_are_there(env: &Env<'_>) {
    let data = bytes(9, 5000);
    let mut writer = env.open(WriterOptions { sync: Sync::Caller, ..named("unsynced") }).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    let digest = writer.commit(0, None, Labels::new()).await.unwrap();
    assert_eq!(env.read(&digest).await, data);
    env.store.sync().await.unwrap();
    env.store.delete(&env.cx, &digest).await.unwrap();
}

async fn labels_are_kept_and_changed(env: &Env<'_>) {
    let data = bytes(10, 100);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let mut writer = env.writer("labels").await;
    writer.write(data.clone()).await.unwrap();
    let labels = Labels::from([pair("k1", "v1"), pair("k2", "v2")]);
    let digest = writer.commit(0, None, labels.clone()).await.unwrap();
    let mut info = env.store.info(&env.cx, &digest).await.unwrap();
    assert_eq!(info.labels, labels);
    info.labels = Labels::from([pair("k1", "changed"), pair("k3", "ignored")]);
    let updated = env.store.update(&env.cx, info.clone(), &FieldMask::of(&["labels.k1"])).await.unwrap();
    assert_eq!(updated.labels, Labels::from([pair("k1", "changed"), pair("k2", "v2")]));
    let filter = Filters::parse(&["labels.k1==changed"]).unwrap();
    let found: Vec<_> = env.store.list(&env.cx, &filter).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    info.labels = Labels::from([pair("only", "one")]);
    let updated = env.store.update(&env.cx, info.clone(), &FieldMask::all()).await.unwrap();
    assert_eq!(updated.labels, info.labels);
    assert_eq!(
        class(env.store.update(&env.cx, info, &FieldMask::of(&["size"])).await),
        Class::InvalidArgument
    );
    env.store.delete(&env.cx, &digest).await.unwrap();
}
