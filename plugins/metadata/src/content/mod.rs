//! The content store as a namespace sees it: which blobs are its own, under which labels, over one raw store for all.
//!
//! A blob's bytes are there once, however many namespaces have a record of it. Opening a writer or committing holds the
//! lock of the digest concerned, so that the sweep never takes a blob away from under a new record.

mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use windlass_core::content::{Blob, Info, Status, Store as Contract, Writer, WriterOptions};
use windlass_core::event::Event;
use windlass_core::metastore::Read;
use windlass_core::{Class, Context, Digest, Error, FieldMask, Filters, Result, namespace, validate};

use crate::db::{Db, Policy, exists, not_found, now, page};
use crate::keys::{self, object};
use crate::locks::Name;
use crate::record;

/// How long an ingest without a lease is kept.
const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Records read at once in a list.
const PAGE: usize = 256;

pub(crate) struct Store(pub(crate) Arc<Db>);

pub(crate) fn blob_key(namespace: &str, digest: &str) -> Vec<u8> {
    keys::one(namespace, object::BLOBS, digest)
}

pub(crate) fn ingest_key(namespace: &str, reference: &str) -> Vec<u8> {
    keys::one(namespace, object::INGESTS, reference)
}

/// The lock under which a blob gets its record, or is taken away.
pub(crate) fn blob_lock(digest: &str) -> Name {
    (object::BLOBS, digest.to_owned())
}

fn no_content(digest: &Digest) -> Error {
    not_found(format_args!("content digest {digest}"))
}

fn no_reference(reference: &str) -> Error {
    not_found(format_args!("reference {reference}"))
}

impl Store {
    fn require(&self, cx: &Context, digest: &Digest) -> Result<()> {
        self.0.view(|tx| {
            let found = tx.get(&blob_key(&cx.namespace, digest.as_str()))?;
            found.map(drop).ok_or_else(|| no_content(digest))
        })
    }

    fn backend_ref(&self, cx: &Context, reference: &str) -> Result<String> {
        let found: Option<record::Ingest> =
            self.0.view(|tx| record::get(tx, &ingest_key(&cx.namespace, reference)))?;
        found.map(|ingest| ingest.backend).ok_or_else(|| no_reference(reference))
    }

    /// The blob's size where the namespace may have it without sending it: it is in the raw store, and the policy or
    /// another namespace's label allows it.
    async fn shareable(&self, cx: &Context, digest: &Digest, size: u64) -> Result<Option<u64>> {
        if self.0.policy == Policy::Isolated && !self.0.view(|tx| in_shared_namespace(tx, digest))? {
            return Ok(None);
        }
        match self.0.content.info(cx, digest).await {
            // A size that differs is an error which the commit will find.
            Ok(info) if size == 0 || size == info.size => Ok(Some(info.size)),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn in_shared_namespace(tx: &dyn Read, digest: &Digest) -> Result<bool> {
    let mut shared = Vec::new();
    tx.scan(&keys::namespaces(), &mut |key, value| {
        let record: record::Namespace = record::decode(key, value)?;
        if record.labels.get(namespace::LABEL_SHARED).is_some_and(|value| value == "true") {
            shared.push(keys::name(key));
        }
        Ok(true)
    })?;
    for namespace in shared {
        if tx.get(&blob_key(&namespace, digest.as_str()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[async_trait]
impl Contract for Store {
    async fn info(&self, cx: &Context, digest: &Digest) -> Result<Info> {
        let key = blob_key(&cx.namespace, digest.as_str());
        let found: Option<record::Blob> = self.0.view(|tx| record::get(tx, &key))?;
        found.map(|blob| blob.into_info(digest.clone())).ok_or_else(|| no_content(digest))
    }

    async fn update(&self, cx: &Context, info: Info, fields: &FieldMask) -> Result<Info> {
        let (cx, fields) = (cx.clone(), fields.clone());
        self.0
            .update(move |tx| {
                let key = blob_key(&cx.namespace, info.digest.as_str());
                let mut blob = tx.find::<record::Blob>(&key)?.ok_or_else(|| no_content(&info.digest))?;
                let all = ["labels".to_owned()];
                for path in if fields.is_all() { &all[..] } else { &fields.0[..] } {
                    if !FieldMask::apply_labels(path, &info.labels, &mut blob.labels) {
                        return FieldMask::refused(path, &format!("content info {:?}", info.digest.as_str()));
                    }
                }
                validate::labels(&blob.labels).map_err(|e| e.context("info.Labels"))?;
                blob.updated = now().into();
                tx.put(&key, &blob)?;
                // Labels that are gone may have been references.
                tx.deleted();
                Ok(blob.into_info(info.digest))
            })
            .await
    }

    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let prefix = keys::all(&cx.namespace, object::BLOBS);
        let filters = filters.clone();
        let pages = stream::try_unfold(Some(None::<Vec<u8>>), move |after| {
            let (prefix, filters) = (prefix.clone(), filters.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let page: Vec<(_, record::Blob)> =
                    self.0.view(|tx| page(tx, &prefix, after.as_deref(), PAGE))?;
                let next = (page.len() == PAGE).then(|| page.last().map(|(key, _)| key.clone()));
                let mut infos = Vec::with_capacity(page.len());
                for (key, blob) in page {
                    let info = blob.into_info(keys::name(&key).parse()?);
                    if filters.matches(&info) {
                        infos.push(Ok(info));
                    }
                }
                Ok(Some((stream::iter(infos), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn delete(&self, cx: &Context, digest: &Digest) -> Result<()> {
        let (cx, digest) = (cx.clone(), digest.clone());
        self.0
            .update(move |tx| {
                let key = blob_key(&cx.namespace, digest.as_str());
                if !tx.has(&key)? {
                    return Err(no_content(&digest));
                }
                tx.delete(&key)?;
                tx.unlease(&cx, object::CONTENT, digest.as_str())?;
                tx.content_garbage();
                tx.event(&cx.namespace, Event::ContentDelete { digest });
                Ok(())
            })
            .await
    }

    async fn reader(&self, cx: &Context, digest: &Digest) -> Result<Arc<dyn Blob>> {
        self.require(cx, digest)?;
        self.0.content.reader(cx, digest).await
    }

    async fn status(&self, cx: &Context, reference: &str) -> Result<Status> {
        let backend = self.backend_ref(cx, reference)?;
        let mut status = self.0.content.status(cx, &backend).await?;
        status.reference = reference.to_owned();
        Ok(status)
    }

    async fn list_statuses(&self, cx: &Context, filters: &Filters) -> Result<Vec<Status>> {
        let mut ingests = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::all(&cx.namespace, object::INGESTS), &mut |key, value| {
                let ingest: record::Ingest = record::decode(key, value)?;
                ingests.push((keys::name(key), ingest.backend));
                Ok(true)
            })
        })?;
        let mut list = Vec::with_capacity(ingests.len());
        for (reference, backend) in ingests {
            match self.0.content.status(cx, &backend).await {
                Ok(mut status) => {
                    status.reference = reference;
                    if filters.matches(&status) {
                        list.push(status);
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    async fn abort(&self, cx: &Context, reference: &str) -> Result<()> {
        let (at, name) = (cx.clone(), reference.to_owned());
        let ingest = self
            .0
            .update(move |tx| {
                let key = ingest_key(&at.namespace, &name);
                let ingest = tx.find::<record::Ingest>(&key)?.ok_or_else(|| no_reference(&name))?;
                tx.delete(&key)?;
                tx.unlease(&at, object::INGESTS, &name)?;
                Ok(ingest)
            })
            .await?;
        if ingest.expected.is_some() {
            return Ok(());
        }
        match self.0.content.abort(cx, &ingest.backend).await {
            Err(error) if !error.is_not_found() => {
                self.0.left_behind(|garbage| garbage.content = true);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    async fn writer(&self, cx: &Context, options: WriterOptions) -> Result<Box<dyn Writer>> {
        if options.reference.is_empty() {
            return Err(Error::invalid("ref must not be empty"));
        }
        let mut lock = None;
        let mut shared = None;
        if let Some(digest) = &options.expected {
            lock = Some(self.0.locks.lock(blob_lock(digest.as_str())).await);
            if self.lease_present(cx, digest).await? {
                return Err(exists(format_args!("content {digest}")));
            }
            shared = self.shareable(cx, digest, options.total).await?.map(|size| (digest.clone(), size));
        }
        let backend = self.ingest(cx, &options.reference, shared.as_ref().map(|(digest, _)| digest)).await?;
        drop(lock);
        writer::open(self.0.clone(), cx.clone(), options, backend, shared).await
    }

    async fn sync(&self) -> Result<()> {
        self.0.content.sync().await
    }
}

impl Store {
    /// Whether the namespace has the blob; the context's lease refers to it then.
    async fn lease_present(&self, cx: &Context, digest: &Digest) -> Result<bool> {
        match self.require(cx, digest) {
            Err(error) if error.is(Class::NotFound) => return Ok(false),
            other => other?,
        }
        if cx.lease.is_none() {
            return Ok(true);
        }
        let (cx, digest) = (cx.clone(), digest.clone());
        self.0
            .update(move |tx| {
                let present = tx.has(&blob_key(&cx.namespace, digest.as_str()))?;
                if present {
                    tx.lease(&cx, object::CONTENT, digest.as_str())?;
                }
                Ok(present)
            })
            .await
    }

    /// Finds or makes the record of an ingest; answers its reference in the raw store.
    async fn ingest(&self, cx: &Context, reference: &str, expected: Option<&Digest>) -> Result<String> {
        let number = self.0.number().await?;
        let (cx, reference) = (cx.clone(), reference.to_owned());
        let expected = expected.map(Digest::to_string);
        self.0
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                let key = ingest_key(&cx.namespace, &reference);
                let leased = tx.lease(&cx, object::INGESTS, &reference)?;
                let before = tx.find::<record::Ingest>(&key)?;
                let backend = before
                    .as_ref()
                    .map_or_else(|| format!("{}/{number}/{reference}", cx.namespace), |b| b.backend.clone());
                let expires = match &before {
                    _ if !leased => Some((now() + INGEST_LIFE).into()),
                    Some(before) => before.expires,
                    None => None,
                };
                let expected = expected.or_else(|| before.and_then(|before| before.expected));
                tx.put(&key, &record::Ingest { backend: backend.clone(), expires, expected })?;
                Ok(backend)
            })
            .await
    }
}

// === impl record::Blob ===

impl record::Blob {
    pub(crate) fn into_info(self, digest: Digest) -> Info {
        Info {
            digest,
            size: self.size,
            created_at: self.created.into(),
            updated_at: self.updated.into(),
            labels: self.labels,
        }
    }
}
