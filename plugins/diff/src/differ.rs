//! The differ as others see it.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::BytesMut;
use windlass_core::content::{self, Blob, WriterOptions};
use windlass_core::diff::{Applied, ApplyOptions, CompareOptions, Differ};
use windlass_core::mount::Mount;
use windlass_core::{Class, Context, Descriptor, Digest, FieldMask, Labels, Result, blocking};

use crate::apply::{Target, apply, sync_filesystem};
use crate::compare::{Packing, Trees};
use crate::decompress::Limit;
use crate::media;

/// Applies layers and makes them by walking directories.
pub struct Walking {
    content: Arc<dyn content::Store>,
    limit: Limit,
}

impl Walking {
    /// `content` is the store as the namespaces see it.
    pub fn new(content: Arc<dyn content::Store>, limit: Limit) -> Self {
        Self { content, limit }
    }
}

/// Applies a layer to mounts, for whoever has it as a stream. Blocks.
fn apply_to(
    media_type: &str,
    layer: &mut dyn Read,
    mounts: &[Mount],
    limit: Limit,
    sync: bool,
) -> Result<Applied, crate::error::Error> {
    let compression = media::compression(media_type)?;
    let target = Target::open(mounts)?;
    fail::fail_point!("diff.apply.begin", |_| Err(windlass_core::Error::internal("failpoint").into()));
    let applied = apply(layer, compression, limit, &target)?;
    if sync {
        sync_filesystem(target.path())?;
    }
    fail::fail_point!("diff.apply.end", |_| Err(windlass_core::Error::internal("failpoint").into()));
    Ok(applied)
}

/// A blob as a stream.
struct BlobReader {
    blob: Arc<dyn Blob>,
    at: u64,
    runtime: tokio::runtime::Handle,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match self.blob.file() {
            Some(file) => file.read_at(buffer, self.at)?,
            None => {
                let part = self
                    .runtime
                    .block_on(self.blob.read_at(self.at, buffer.len()))
                    .map_err(io::Error::other)?;
                buffer[..part.len()].copy_from_slice(&part);
                part.len()
            }
        };
        self.at += len as u64;
        Ok(len)
    }
}

/// Gathers what a packer writes into larger parts for the store.
struct Upload {
    writer: Box<dyn content::Writer>,
    buffer: BytesMut,
    runtime: tokio::runtime::Handle,
}

const PART: usize = 256 << 10;

impl Upload {
    fn send(&mut self) -> io::Result<()> {
        let part = self.buffer.split().freeze();
        self.runtime.block_on(self.writer.write(part)).map_err(io::Error::other)
    }
}

impl Write for Upload {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PART {
            self.send()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

/// A name for an ingest that nobody else has.
fn unique_reference() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("diff-{}-{}-{}", since.as_nanos(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Walking {
    /// Writes and commits the layer; answers its digest and size.
    async fn write(
        &self,
        cx: &Context,
        writer: Box<dyn content::Writer>,
        trees: Trees,
        packing: Packing,
        not_after: Option<SystemTime>,
        mut labels: Labels,
    ) -> Result<(Digest, u64)> {
        let mut upload =
            Upload { writer, buffer: BytesMut::new(), runtime: tokio::runtime::Handle::current() };
        let (mut writer, plain) = blocking(move || {
            let plain = trees.write(packing, not_after, &mut upload)?;
            upload.flush().map_err(crate::error::Error::Read)?;
            Ok((upload.writer, plain))
        })
        .await?;
        fail::fail_point!("diff.compare.before-commit", |_| Err(windlass_core::Error::internal("failpoint")));
        if packing != Packing::None {
            labels.insert(media::LABEL_UNCOMPRESSED.into(), plain.diff_id.to_string());
        }
        let digest = writer.digest();
        match writer.commit(0, Some(&digest), labels).await {
            Err(error) if !error.is(Class::AlreadyExists) => return Err(error.context("failed to commit")),
            _ => {}
        }
        let mut info = self.content.info(cx, &digest).await?;
        let size = info.size;
        if packing != Packing::None && !info.labels.contains_key(media::LABEL_UNCOMPRESSED) {
            // It was there before, from somebody who did not know what is in it.
            info.labels.insert(media::LABEL_UNCOMPRESSED.into(), plain.diff_id.to_string());
            let field = format!("labels.{}", media::LABEL_UNCOMPRESSED);
            let updated = self.content.update(cx, info, &FieldMask::of(&[&field])).await;
            updated.map_err(|e| e.context("error setting uncompressed label"))?;
        }
        Ok((digest, size))
    }
}

#[async_trait]
impl Differ for Walking {
    async fn apply(
        &self,
        cx: &Context,
        layer: &Descriptor,
        mounts: &[Mount],
        o: ApplyOptions,
    ) -> Result<Descriptor> {
        // Before anything is looked for: another differ may know it.
        media::compression(&layer.media_type)?;
        let blob = self.content.reader(cx, &layer.digest).await;
        let blob = blob.map_err(|e| e.context("failed to get reader from content store"))?;
        let mut reader = BlobReader { blob, at: 0, runtime: tokio::runtime::Handle::current() };
        let (media_type, mounts, limit) = (layer.media_type.clone(), mounts.to_vec(), self.limit);
        let applied =
            blocking(move || Ok(apply_to(&media_type, &mut reader, &mounts, limit, o.sync)?)).await?;
        Ok(Descriptor::new(media::LAYER, applied.diff_id, applied.size))
    }

    async fn compare(
        &self,
        cx: &Context,
        lower: &[Mount],
        upper: &[Mount],
        o: CompareOptions,
    ) -> Result<Descriptor> {
        let (packing, media_type) = Packing::of(&o.media_type)?;
        let media_type = media_type.to_owned();
        let (lower, upper) = (lower.to_vec(), upper.to_vec());
        let trees = blocking(move || Ok(Trees::open(&lower, &upper)?)).await?;
        let named = !o.reference.is_empty();
        let reference = if named { o.reference } else { unique_reference() };
        let options = WriterOptions { reference: reference.clone(), ..WriterOptions::default() };
        let mut writer =
            self.content.writer(cx, options).await.map_err(|e| e.context("failed to open writer"))?;
        if named {
            writer.truncate(0).await?;
        }
        let made = self.write(cx, writer, trees, packing, o.source_date_epoch, o.labels).await;
        match made {
            Ok((digest, size)) => Ok(Descriptor::new(media_type, digest, size)),
            Err(error) => {
                if !named
                    && let Err(left) = self.content.abort(cx, &reference).await
                    && !left.is_not_found()
                {
                    tracing::warn!(reference, error = %left.chain(), "failed to delete diff upload");
                }
                Err(error)
            }
        }
    }

    fn apply_stream(
        &self,
        media_type: &str,
        layer: &mut (dyn Read + Send),
        mounts: &[Mount],
    ) -> Result<Applied> {
        Ok(apply_to(media_type, layer, mounts, self.limit, false)?)
    }
}
