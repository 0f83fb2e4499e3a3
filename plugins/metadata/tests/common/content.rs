//! A raw content store in memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use windlass_core::content::{Blob, Info, Status, Store, Writer, WriterOptions};
use windlass_core::{Context, Digest, Error, FieldMask, Filters, Labels, Result};

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Bytes>,
    ingests: BTreeMap<String, (Vec<u8>, u64)>,
    open: HashSet<String>,
}

#[derive(Clone, Default)]
pub struct FakeContent(Arc<Mutex<State>>);

struct FakeWriter {
    store: FakeContent,
    reference: String,
    closed: bool,
}

struct FakeBlob(Bytes);

impl FakeContent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
    pub fn digests(&self) -> Vec<Digest> {
        self.state().blobs.keys().cloned().collect()
    }
    pub fn references(&self) -> Vec<String> {
        self.state().ingests.keys().cloned().collect()
    }
    /// A blob that no record names, or one that a crash took.
    pub fn put(&self, data: &str) -> Digest {
        let digest = Digest::of(data.as_bytes());
        self.state().blobs.insert(digest.clone(), Bytes::from(data.to_owned()));
        digest
    }
    pub fn lose(&self, digest: &Digest) {
        self.state().blobs.remove(digest);
    }
    pub fn close_writers(&self) {
        self.state().open.clear();
    }
    fn status_of(reference: &str, data: &[u8], total: u64) -> Status {
        let now = SystemTime::now();
        let (reference, offset) = (reference.to_owned(), data.len() as u64);
        Status { reference, offset, total, expected: None, started_at: now, updated_at: now }
    }
    fn info_of(digest: &Digest, data: &Bytes) -> Info {
        let now = SystemTime::UNIX_EPOCH;
        let (digest, size) = (digest.clone(), data.len() as u64);
        Info { digest, size, created_at: now, updated_at: now, labels: Labels::new() }
    }
}

#[async_trait]
impl Store for FakeContent {
    async fn info(&self, _: &Context, digest: &Digest) -> Result<Info> {
        let state = self.state();
        let data = state.blobs.get(digest).ok_or_else(|| Error::not_found("no blob"))?;
        Ok(Self::info_of(digest, data))
    }
    async fn update(&self, _: &Context, info: Info, _: &FieldMask) -> Result<Info> {
        Ok(info)
    }
    fn list<'a>(&'a self, _: &Context, _: &Filters) -> BoxStream<'a, Result<Info>> {
        let all: Vec<_> = self.state().blobs.iter().map(|(d, data)| Ok(Self::info_of(d, data))).collect();
        stream::iter(all).boxed()
    }
    async fn delete(&self, _: &Context, digest: &Digest) -> Result<()> {
        self.state().blobs.remove(digest).map(drop).ok_or_else(|| Error::not_found("no blob"))
    }
    async fn reader(&self, _: &Context, digest: &Digest) -> Result<Arc<dyn Blob>> {
        let state = self.state();
        let data = state.blobs.get(digest).ok_or_else(|| Error::not_found("no blob"))?;
        Ok(Arc::new(FakeBlob(data.clone())))
    }
    async fn status(&self, _: &Context, reference: &str) -> Result<Status> {
        let state = self.state();
        let (data, total) = state.ingests.get(reference).ok_or_else(|| Error::not_found("no ingest"))?;
        Ok(Self::status_of(reference, data, *total))
    }
    async fn list_statuses(&self, _: &Context, _: &Filters) -> Result<Vec<Status>> {
        Ok(self.state().ingests.iter().map(|(r, (data, total))| Self::status_of(r, data, *total)).collect())
    }
    async fn abort(&self, _: &Context, reference: &str) -> Result<()> {
        let mut state = self.state();
        state.open.remove(reference);
        state.ingests.remove(reference).map(drop).ok_or_else(|| Error::not_found("no ingest"))
    }
    async fn writer(&self, _: &Context, options: WriterOptions) -> Result<Box<dyn Writer>> {
        let mut state = self.state();
        let reference = options.reference;
        if !state.open.insert(reference.clone()) {
            return Err(Error::unavailable(format!("ref {reference} locked")));
        }
        state.ingests.entry(reference.clone()).or_insert((Vec::new(), options.total));
        Ok(Box::new(FakeWriter { store: self.clone(), reference, closed: false }))
    }
}

#[async_trait]
impl Blob for FakeBlob {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let start = (offset as usize).min(self.0.len());
        Ok(self.0.slice(start..(start + len).min(self.0.len())))
    }
}

impl FakeWriter {
    fn data(&self) -> Vec<u8> {
        self.store.state().ingests.get(&self.reference).map(|(data, _)| data.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl Writer for FakeWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let mut state = self.store.state();
        state.ingests.entry(self.reference.clone()).or_default().0.extend_from_slice(&data);
        Ok(())
    }
    fn status(&self) -> Status {
        FakeContent::status_of(&self.reference, &self.data(), 0)
    }
    fn digest(&self) -> Digest {
        Digest::of(&self.data())
    }
    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.store.state().ingests.entry(self.reference.clone()).or_default().0.truncate(size as usize);
        Ok(())
    }
    async fn commit(&mut self, size: u64, expected: Option<&Digest>, _: Labels) -> Result<Digest> {
        let (data, digest) = (self.data(), self.digest());
        self.closed = true;
        let mut state = self.store.state();
        state.open.remove(&self.reference);
        if (size != 0 && size != data.len() as u64) || expected.is_some_and(|e| *e != digest) {
            return Err(Error::precondition("size or digest"));
        }
        state.ingests.remove(&self.reference);
        if state.blobs.insert(digest.clone(), data.into()).is_some() {
            return Err(Error::exists("there already"));
        }
        Ok(digest)
    }
}

impl Drop for FakeWriter {
    fn drop(&mut self) {
        if !self.closed {
            self.store.state().open.remove(&self.reference);
        }
    }
}
