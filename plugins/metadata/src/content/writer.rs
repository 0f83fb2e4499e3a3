//! Writers of a namespace's ingests.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use windlass_core::content::{Status, Writer as Contract, WriterOptions};
use windlass_core::event::Event;
use windlass_core::{Class, Context, Digest, Error, Labels, Result, validate};

use super::{blob_key, blob_lock, ingest_key};
use crate::db::{Db, exists, now};
use crate::keys::object;
use crate::record;

/// Bytes copied at once when shared content is written on.
const COPY: usize = 1 << 20;

struct Writer {
    db: Arc<Db>,
    cx: Context,
    options: WriterOptions,
    /// The ingest's reference in the raw store.
    backend: String,
    started: SystemTime,
    /// The raw store's writer; none while the content is merely shared.
    inner: Option<Box<dyn Contract>>,
    shared: Option<(Digest, u64)>,
}

/// A writer for an ingest whose record is there. With `shared` content nothing is opened in the raw store until
/// somebody writes.
pub(super) async fn open(
    db: Arc<Db>,
    cx: Context,
    options: WriterOptions,
    backend: String,
    shared: Option<(Digest, u64)>,
) -> Result<Box<dyn Contract>> {
    let mut writer = Writer { db, cx, options, backend, started: now(), inner: None, shared };
    if writer.shared.is_none() {
        writer.open_inner(writer.options.total).await?;
    }
    Ok(Box::new(writer))
}

impl Writer {
    /// The digest that the caller expects stays out of this: whether the namespace has it was looked up, and whether
    /// the raw store has it must not be told. Only one of another algorithm goes along, so that it is the one computed.
    async fn open_inner(&mut self, total: u64) -> Result<&mut Box<dyn Contract>> {
        let mut options = WriterOptions { reference: self.backend.clone(), total, ..self.options.clone() };
        options.expected = options.expected.filter(|digest| digest.algorithm() != "sha256");
        let inner = match self.db.content.writer(&self.cx, options.clone()).await {
            Err(error) if error.is(Class::AlreadyExists) => {
                self.db.content.writer(&self.cx, WriterOptions { expected: None, ..options }).await?
            }
            other => other?,
        };
        Ok(self.inner.insert(inner))
    }

    /// Turns shared content into an ingest of its own that begins with the first `size` bytes.
    async fn unshare(&mut self, size: u64) -> Result<&mut Box<dyn Contract>> {
        let digest = self.shared.take().map(|(digest, _)| digest);
        let (db, cx) = (self.db.clone(), self.cx.clone());
        let inner = self.open_inner(self.options.total).await?;
        if let Some(digest) = digest
            && size > 0
        {
            inner.truncate(0).await?;
            let blob = db.content.reader(&cx, &digest).await?;
            let mut offset = 0;
            while offset < size {
                let part = blob.read_at(offset, COPY.min((size - offset) as usize)).await?;
                if part.is_empty() {
                    return Err(Error::data_loss(format!(
                        "content {digest} ends at {offset} of {size} bytes"
                    )));
                }
                offset += part.len() as u64;
                inner.write(part).await?;
            }
        }
        Ok(inner)
    }

    fn closed(&self) -> Error {
        Error::precondition(format!("writer of {:?} is closed", self.options.reference))
    }

    /// Checks and finishes the bytes; answers digest and size.
    async fn finish(&mut self, size: u64, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        if let Some((digest, have)) = &self.shared {
            if size != 0 && size != *have {
                return Err(Error::precondition(format!(
                    "{:?} failed size validation: {have} != {size}: failed precondition",
                    self.options.reference
                )));
            }
            if expected.is_some_and(|expected| expected != digest) {
                return Err(Error::precondition(format!(
                    "{:?} unexpected digest: failed precondition",
                    self.options.reference
                )));
            }
            return Ok((digest.clone(), *have));
        }
        let Some(mut inner) = self.inner.take() else { return Err(self.closed()) };
        let written = inner.status().offset;
        let digest = expected.cloned().unwrap_or_else(|| inner.digest());
        match inner.commit(size, expected, Labels::new()).await {
            Ok(digest) => Ok((digest, written)),
            // Another namespace has it, or a crash came between the blob and its record.
            Err(error) if error.is(Class::AlreadyExists) => Ok((digest, written)),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Contract for Writer {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if let Some((_, size)) = self.shared {
            return self.unshare(size).await?.write(data).await;
        }
        match &mut self.inner {
            Some(inner) => inner.write(data).await,
            None => Err(self.closed()),
        }
    }

    fn status(&self) -> Status {
        let reference = self.options.reference.clone();
        match (&self.inner, &self.shared) {
            (Some(inner), _) => Status { reference, ..inner.status() },
            (None, shared) => {
                let size = shared.as_ref().map_or(0, |(_, size)| *size);
                Status {
                    reference,
                    offset: size,
                    total: size,
                    expected: shared.as_ref().map(|(digest, _)| digest.clone()),
                    started_at: self.started,
                    updated_at: self.started,
                }
            }
        }
    }

    fn digest(&self) -> Digest {
        match (&self.inner, &self.shared) {
            (Some(inner), _) => inner.digest(),
            (None, Some((digest, _))) => digest.clone(),
            (None, None) => Digest::of(b""),
        }
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if let Some((_, have)) = self.shared {
            if size == have {
                return Ok(());
            }
            return self.unshare(size.min(have)).await?.truncate(size).await;
        }
        match &mut self.inner {
            Some(inner) => inner.truncate(size).await,
            None => Err(self.closed()),
        }
    }

    async fn commit(&mut self, size: u64, expected: Option<&Digest>, mut labels: Labels) -> Result<Digest> {
        validate::labels(&labels).map_err(|e| e.context("info.Labels"))?;
        labels.retain(|_, value| !value.is_empty());
        let target = expected.cloned().unwrap_or_else(|| self.digest());
        let lock = self.db.locks.lock(blob_lock(target.as_str())).await;
        let (digest, size) = self.finish(size, expected).await?;
        fail::fail_point!("content.committed");
        let (cx, reference, committed) = (self.cx.clone(), self.options.reference.clone(), digest.clone());
        let there = self
            .db
            .update(move |tx| {
                tx.delete(&ingest_key(&cx.namespace, &reference))?;
                tx.unlease(&cx, object::INGESTS, &reference)?;
                tx.lease(&cx, object::CONTENT, digest.as_str())?;
                let key = blob_key(&cx.namespace, digest.as_str());
                if tx.has(&key)? {
                    return Ok(true);
                }
                tx.ensure_namespace(&cx.namespace)?;
                let created = now().into();
                tx.put(&key, &record::Blob { labels, created, updated: created, size })?;
                tx.event(&cx.namespace, Event::ContentCreate { digest, size });
                Ok(false)
            })
            .await;
        drop(lock);
        match there {
            Ok(false) => Ok(committed),
            Ok(true) => Err(exists(format_args!("content {committed}"))),
            Err(error) => {
                self.db.left_behind(|garbage| garbage.content = true);
                Err(error)
            }
        }
    }
}
