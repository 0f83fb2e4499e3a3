//! Objects of an image on their way into the content store: documents through memory, layers as streams.
//!
//! An object asked for by several transfers is fetched once: a lock by digest makes the others wait, and then they
//! find it.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use windlass_core::content::{Sync, Writer, WriterOptions, read_all};
use windlass_core::diff::Applied;
use windlass_core::digest::Hasher;
use windlass_core::{Class, Descriptor, Digest, Error, FieldMask, Labels, Result};

use super::Job;
use crate::document::MAX_DOCUMENT;
use crate::locks::Guard;
use crate::media::{self, ref_key};
use crate::progress::Tracker;
use crate::registry::{Client, Fetch, source_key, source_label};

/// Parts of a layer that may wait for the unpacking side.
const QUEUE: usize = 8;
/// First and longest pause while another client writes the same ingest.
const BUSY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Brings objects into the content store.
#[derive(Clone)]
pub struct Blobs {
    pub job: Job,
    pub tracker: Arc<Tracker>,
    /// None: everything must be there already.
    pub client: Option<Arc<Client>>,
}

/// How a layer came.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Its bytes went to the unpacking side too, and it has been unpacked.
    Applied(Applied),
    /// It is in the content store.
    Stored,
}

/// The unpacking side of a layer that is fetched.
pub struct Tee<'a> {
    /// Starts unpacking what the reader yields.
    pub start: Box<dyn FnOnce(Pipe) -> BoxFuture<'static, Result<Applied>> + Send + 'a>,
    /// What the uncompressed layer must be.
    pub diff_id: Digest,
}

enum Part {
    Data(Bytes),
    End,
}

/// The blocking end of a layer's stream. Without a proper end it yields an error, never a short layer.
pub struct Pipe {
    parts: mpsc::Receiver<Part>,
    current: Bytes,
    ended: bool,
    /// Whether anything has been read.
    pub touched: bool,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.touched = true;
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.parts.blocking_recv() {
                Some(Part::Data(data)) => self.current = data,
                Some(Part::End) => self.ended = true,
                None => return Err(std::io::Error::other("the download was cut off")),
            }
        }
        let n = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

impl Blobs {
    fn content(&self) -> &dyn windlass_core::content::Store {
        &*self.job.local.parts.content
    }

    async fn lock(&self, digest: &Digest) -> Result<Guard> {
        self.job.unless_canceled(self.job.local.blobs.lock(digest.to_string())).await
    }

    /// Labels that say where an object came from.
    fn source(&self, present: Option<&Labels>) -> Labels {
        let mut labels = Labels::new();
        if let Some(client) = &self.client {
            let spec = client.spec();
            let key = source_key(spec.hostname());
            let have = present.and_then(|labels| labels.get(&key)).map(String::as_str);
            if let Some(value) = source_label(have, spec.repository(), &key) {
                labels.insert(key, value);
            }
        }
        labels
    }

    /// Adds labels that are missing or differ.
    async fn label(&self, digest: &Digest, present: &Labels, mut wanted: Labels) -> Result<()> {
        wanted.retain(|key, value| present.get(key) != Some(value));
        if wanted.is_empty() {
            return Ok(());
        }
        let mask = FieldMask(wanted.keys().map(|key| format!("labels.{key}")).collect());
        let now = std::time::SystemTime::now();
        let info = windlass_core::content::Info {
            digest: digest.clone(),
            size: 0,
            created_at: now,
            updated_at: now,
            labels: wanted,
        };
        self.content().update(&self.job.cx, info, &mask).await.map(|_| ())
    }

    /// Adds labels to an object that is there.
    pub async fn add_labels(&self, digest: &Digest, labels: Labels) -> Result<()> {
        let info = self.content().info(&self.job.cx, digest).await?;
        self.label(digest, &info.labels, labels).await
    }

    /// A manifest, index or config: answers its bytes, verified, once it is stored with the labels that `labels` makes
    /// of it. What `labels` refuses is not stored.
    pub async fn document(
        &self,
        descriptor: &Descriptor,
        labels: impl FnOnce(&[u8]) -> Result<Labels>,
    ) -> Result<Bytes> {
        let digest = &descriptor.digest;
        if descriptor.size > MAX_DOCUMENT || descriptor.size == 0 {
            return Err(Error::invalid(format!(
                "{} {digest} of {} bytes: at least 1 and at most {MAX_DOCUMENT} are accepted",
                descriptor.media_type, descriptor.size
            )));
        }
        let _guard = self.lock(digest).await?;
        let Some(mut writer) = self.writer(descriptor).await? else {
            return self.present_document(descriptor, labels).await;
        };
        // All of it is there where another namespace has it, or where a transfer ended just before its commit.
        if writer.status().offset == descriptor.size
            && let Ok(_) = writer.commit(descriptor.size, Some(digest), Labels::new()).await
        {
            return self.present_document(descriptor, labels).await;
        }
        match self.new_document(descriptor, writer, labels).await {
            Ok(data) => {
                self.tracker.complete(descriptor);
                crate::step!("pull.after-document");
                Ok(data)
            }
            Err(error) => {
                self.abort(descriptor).await;
                Err(error)
            }
        }
    }

    async fn present_document(
        &self,
        descriptor: &Descriptor,
        labels: impl FnOnce(&[u8]) -> Result<Labels>,
    ) -> Result<Bytes> {
        let digest = &descriptor.digest;
        let data = read_all(self.content(), &self.job.cx, digest, MAX_DOCUMENT).await?;
        let info = self.content().info(&self.job.cx, digest).await?;
        let mut wanted = labels(&data)?;
        wanted.extend(self.source(Some(&info.labels)));
        self.label(digest, &info.labels, wanted).await?;
        self.tracker.exists(descriptor);
        Ok(data)
    }

    async fn new_document(
        &self,
        descriptor: &Descriptor,
        mut writer: Box<dyn Writer>,
        labels: impl FnOnce(&[u8]) -> Result<Labels>,
    ) -> Result<Bytes> {
        let data = self.download_document(descriptor).await?;
        let mut wanted = labels(&data)?;
        wanted.extend(self.source(None));
        if writer.status().offset != 0 {
            writer.truncate(0).await?;
        }
        writer.write(data.clone()).await?;
        match writer.commit(descriptor.size, Some(&descriptor.digest), wanted.clone()).await {
            Err(error) if error.is(Class::AlreadyExists) => {
                self.add_labels(&descriptor.digest, wanted).await?
            }
            committed => _ = committed?,
        }
        Ok(data)
    }

    async fn download_document(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let mut fetch = self.open(descriptor, 0).await?;
        let mut data = Vec::with_capacity(descriptor.size as usize);
        let mut hasher = Hasher::new(Some(&descriptor.digest));
        while let Some(part) = self.job.unless_canceled(fetch.next()).await?? {
            hasher.update(&part);
            data.extend_from_slice(&part);
        }
        if hasher.digest() != descriptor.digest {
            return Err(Error::precondition(format!(
                "unexpected digest {} of what the registry gave as {}",
                hasher.digest(),
                descriptor.digest
            )));
        }
        Ok(data.into())
    }

    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Fetch> {
        let client = self.client.as_ref().expect("callers have checked that there is one");
        Ok(self.job.unless_canceled(client.fetch(descriptor, offset)).await??)
    }

    /// Opens the ingest; `None` where the object is there, which the transfer's lease refers to from then on: what was
    /// only looked at may be collected a moment later. `None` also where there is nowhere to fetch from. Waits while
    /// another client writes it.
    async fn writer(&self, descriptor: &Descriptor) -> Result<Option<Box<dyn Writer>>> {
        if self.client.is_none() {
            return Ok(None);
        }
        let mut pause = BUSY.0;
        loop {
            let options = WriterOptions {
                reference: ref_key(descriptor),
                total: descriptor.size,
                expected: Some(descriptor.digest.clone()),
                sync: Sync::Caller,
            };
            match self.content().writer(&self.job.cx, options).await {
                Ok(writer) => return Ok(Some(writer)),
                Err(error) if error.is(Class::AlreadyExists) => return Ok(None),
                Err(error) if error.is(Class::Unavailable) => {
                    tracing::debug!(digest = %descriptor.digest, "another client writes this, waiting");
                    self.job.unless_canceled(tokio::time::sleep(pause)).await?;
                    pause = (pause * 2).min(BUSY.1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings a blob into the content store; its bytes go to `tee` on the way where they come as a whole from the
    /// network, and it is committed only when it has been unpacked as well.
    pub async fn blob(&self, descriptor: &Descriptor, tee: Option<Tee<'_>>) -> Result<Got> {
        let digest = &descriptor.digest;
        let _guard = self.lock(digest).await?;
        if descriptor.size == 0 && self.client.is_some() {
            return Err(Error::invalid(format!(
                "unable to fetch descriptor ({digest}) which reports content size of zero"
            )));
        }
        let Some(mut writer) = self.writer(descriptor).await? else {
            let info = self.content().info(&self.job.cx, digest).await;
            let info = info.map_err(|e| e.context(format!("layer {digest}")))?;
            self.label(digest, &info.labels, self.source(Some(&info.labels))).await?;
            self.tracker.exists(descriptor);
            return Ok(Got::Stored);
        };
        let result = self.new_blob(descriptor, &mut *writer, tee).await;
        if let Err(error) = &result {
            // What may be resumed stays: a good beginning, and what came whole but could not be unpacked here.
            let status = writer.status();
            let lies = status.offset >= descriptor.size && writer.digest() != *digest;
            drop(writer);
            if status.offset == 0
                || lies
                || error.is(Class::FailedPrecondition)
                || error.is(Class::InvalidArgument)
            {
                self.abort(descriptor).await;
            }
        }
        result
    }

    async fn new_blob(
        &self,
        descriptor: &Descriptor,
        writer: &mut dyn Writer,
        tee: Option<Tee<'_>>,
    ) -> Result<Got> {
        let digest = &descriptor.digest;
        if writer.status().offset > descriptor.size {
            writer.truncate(0).await?;
        }
        let mut labels = self.source(None);
        let got = match tee.filter(|_| writer.status().offset == 0) {
            None => {
                self.download(descriptor, writer, None).await?;
                Got::Stored
            }
            Some(tee) => {
                let applied = self.download_and_unpack(descriptor, writer, tee).await?;
                crate::step!("pull.after-apply");
                labels.insert(media::LABEL_UNCOMPRESSED.into(), applied.diff_id.to_string());
                Got::Applied(applied)
            }
        };
        crate::step!("pull.after-fetch");
        match writer.commit(descriptor.size, Some(digest), labels.clone()).await {
            Err(error) if error.is(Class::AlreadyExists) => self.add_labels(digest, labels).await?,
            committed => _ = committed.map_err(|e| e.context(format!("commit layer {digest}")))?,
        }
        self.tracker.complete(descriptor);
        crate::step!("pull.after-content-commit");
        Ok(got)
    }

    async fn download_and_unpack(
        &self,
        descriptor: &Descriptor,
        writer: &mut dyn Writer,
        tee: Tee<'_>,
    ) -> Result<Applied> {
        let (sender, parts) = mpsc::channel(QUEUE);
        let unpacking = (tee.start)(Pipe { parts, current: Bytes::new(), ended: false, touched: false });
        let downloaded = self.download(descriptor, writer, Some(sender)).await;
        let applied = unpacking.await;
        // Where the download broke off, that is why the unpacking failed too; not the other way round.
        let applied = match (downloaded, applied) {
            (Err(error), Err(cause)) if error.is(Class::Aborted) => {
                return Err(refused(descriptor, writer, cause));
            }
            (Err(error), _) => return Err(error),
            (Ok(()), Err(cause)) => return Err(refused(descriptor, writer, cause)),
            (Ok(()), Ok(applied)) => applied,
        };
        if applied.diff_id != tee.diff_id {
            // The same of wrong bytes: they are the likelier cause.
            let digest = &descriptor.digest;
            let error = wrong_diff_id(&applied.diff_id, &tee.diff_id, digest);
            return Err(if writer.digest() == *digest { error } else { refused(descriptor, writer, error) });
        }
        Ok(applied)
    }

    async fn abort(&self, descriptor: &Descriptor) {
        let reference = ref_key(descriptor);
        match self.content().abort(&self.job.cx, &reference).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%reference, error = %error.chain(), "a refused ingest is left over");
            }
            _ => {}
        }
    }

    /// Fetches from the writer's offset to the end. *Aborted* where the unpacking side closed.
    async fn download(
        &self,
        descriptor: &Descriptor,
        writer: &mut dyn Writer,
        unpacking: Option<mpsc::Sender<Part>>,
    ) -> Result<()> {
        let mut offset = writer.status().offset;
        if offset < descriptor.size {
            let mut fetch = self.open(descriptor, offset).await?;
            while let Some(data) = self.job.unless_canceled(fetch.next()).await?? {
                offset += data.len() as u64;
                if let Some(unpacking) = &unpacking {
                    let sent = self.job.unless_canceled(unpacking.send(Part::Data(data.clone()))).await?;
                    sent.map_err(|_| Error::aborted("the unpacking side closed"))?;
                }
                writer.write(data).await?;
                self.tracker.moved(descriptor, offset);
            }
        }
        if let Some(unpacking) = &unpacking {
            let sent = self.job.unless_canceled(unpacking.send(Part::End)).await?;
            sent.map_err(|_| Error::aborted("the unpacking side closed"))?;
        }
        Ok(())
    }
}

/// A layer that could not be unpacked: where all of it came and is not what was asked for, that is why.
fn refused(descriptor: &Descriptor, writer: &dyn Writer, cause: Error) -> Error {
    let digest = writer.digest();
    if writer.status().offset == descriptor.size && digest != descriptor.digest {
        let wanted = &descriptor.digest;
        return Error::precondition(format!(
            "unexpected digest {digest} of what the registry gave as {wanted}"
        ))
        .with_source(cause);
    }
    cause.context(format!("failed to extract layer ({} {})", descriptor.media_type, descriptor.digest))
}

pub fn wrong_diff_id(got: &Digest, want: &Digest, layer: &Digest) -> Error {
    Error::invalid(format!(
        "wrong diff id {got} calculated on extraction of {layer}, the image's config says {want}"
    ))
}
