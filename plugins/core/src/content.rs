//! Content: blobs by digest, and the ingests that become blobs.

use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::filter::{self, Fields};
use crate::{Context, Digest, FieldMask, Filters, Labels, Result};

/// A committed blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    pub labels: Labels,
}

/// An ingest under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub reference: String,
    /// Bytes written so far: where a resumed writer goes on.
    pub offset: u64,
    /// Bytes expected, 0 where unknown.
    pub total: u64,
    pub expected: Option<Digest>,
    pub started_at: SystemTime,
    pub updated_at: SystemTime,
}

/// What a writer is opened with.
#[derive(Clone, Debug, Default)]
pub struct WriterOptions {
    /// The ingest's name; required.
    pub reference: String,
    /// Expected bytes, 0 where unknown.
    pub total: u64,
    pub expected: Option<Digest>,
    /// Who syncs the blob to disk.
    pub sync: Sync,
}

/// Who makes a committed blob durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Every commit syncs its blob before the blob is visible.
    #[default]
    Each,
    /// The caller does, once for many blobs, by [`Store::sync`] and before any record names them. A blob that a crash
    /// left unsynced is verified again, or thrown away, when the store is opened.
    Caller,
}

/// A content store.
///
/// - An ingest is named by its reference and outlives its writer and the process: opening the reference again resumes
///   at its offset. A second writer of the same reference gets *unavailable*.
/// - Opening a writer that expects a digest which is there already is *already exists*.
/// - A blob is visible only when it is complete, verified and synced to disk (but see [`Sync::Caller`]).
/// - Filter fields: `digest`, `size`, `labels.<key>`; of statuses: `ref`.
#[async_trait]
pub trait Store: Send + std::marker::Sync {
    async fn info(&self, cx: &Context, digest: &Digest) -> Result<Info>;
    /// Changes labels: paths `labels` and `labels.<key>`; all labels where the mask is empty.
    async fn update(&self, cx: &Context, info: Info, fields: &FieldMask) -> Result<Info>;
    /// All blobs that match, in no particular order.
    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>>;
    async fn delete(&self, cx: &Context, digest: &Digest) -> Result<()>;
    async fn reader(&self, cx: &Context, digest: &Digest) -> Result<Arc<dyn Blob>>;
    async fn status(&self, cx: &Context, reference: &str) -> Result<Status>;
    async fn list_statuses(&self, cx: &Context, filters: &Filters) -> Result<Vec<Status>>;
    /// Throws an ingest away. *Not found* where there is none.
    async fn abort(&self, cx: &Context, reference: &str) -> Result<()>;
    async fn writer(&self, cx: &Context, options: WriterOptions) -> Result<Box<dyn Writer>>;
    /// Makes all blobs durable that were committed with [`Sync::Caller`] before this call: one sync of the store's file
    /// system. The default is for stores that sync each blob anyway.
    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A committed blob opened for reading. It stays readable after deletion until it is dropped.
#[async_trait]
pub trait Blob: Send + std::marker::Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Up to `len` bytes from `offset`; empty at the end.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;
    /// The file behind the blob where it is a local one: blocking code reads it without a detour.
    fn file(&self) -> Option<&File> {
        None
    }
}

/// The writer of one ingest. Dropped without commit, the ingest stays and can be resumed.
#[async_trait]
pub trait Writer: Send {
    /// Appends. Data is on its way to disk, not yet synced.
    async fn write(&mut self, data: Bytes) -> Result<()>;
    fn status(&self) -> Status;
    /// The digest of everything written so far.
    fn digest(&self) -> Digest;
    /// Cuts the ingest back to `size` bytes; only to 0 or to the present offset must be possible.
    async fn truncate(&mut self, size: u64) -> Result<()>;
    /// Verifies, syncs and makes the blob visible, with `labels`. A `size` of 0 and no digest expect nothing.
    /// *Failed precondition* where size or digest differ: the writer is closed, but the ingest stays until it is aborted
    /// or written anew. *Already exists* where the blob was there before: the ingest is gone, the blob has its old labels.
    async fn commit(&mut self, size: u64, expected: Option<&Digest>, labels: Labels) -> Result<Digest>;
}

impl Fields for Info {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest"] => Some(Cow::Borrowed(self.digest.as_str())),
            ["size"] => Some(Cow::Owned(self.size.to_string())),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Status {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        (path == ["ref"]).then_some(Cow::Borrowed(self.reference.as_str()))
    }
}

/// Reads a whole blob that must be small: *failed precondition* above `limit` bytes.
pub async fn read_all(store: &dyn Store, cx: &Context, digest: &Digest, limit: u64) -> Result<Bytes> {
    let blob = store.reader(cx, digest).await?;
    let size = blob.size();
    if size > limit {
        return Err(crate::Error::precondition(format!(
            "content {digest} has {size} bytes, more than the {limit} that are read into memory"
        )));
    }
    let mut data = Vec::with_capacity(size as usize);
    while (data.len() as u64) < size {
        let part = blob.read_at(data.len() as u64, (size as usize) - data.len()).await?;
        if part.is_empty() {
            return Err(crate::Error::data_loss(format!(
                "content {digest} ends at {} of {size} bytes",
                data.len()
            )));
        }
        data.extend_from_slice(&part);
    }
    Ok(data.into())
}
