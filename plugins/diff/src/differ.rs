//! The differ as others see it.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::content::{self, Blob};
use windlass_core::diff::{Applied, ApplyOptions, CompareOptions, Differ};
use windlass_core::mount::Mount;
use windlass_core::{Context, Descriptor, Error, Result};

use crate::apply::{Target, apply, sync_filesystem};
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
    fail::fail_point!("diff.apply.begin", |_| Err(Error::internal("failpoint").into()));
    let applied = apply(layer, compression, limit, &target)?;
    if sync {
        sync_filesystem(target.path())?;
    }
    fail::fail_point!("diff.apply.end", |_| Err(Error::internal("failpoint").into()));
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let task = tokio::task::spawn_blocking(work);
    task.await.unwrap_or_else(|_| Err(Error::internal("differ: the blocking thread panicked")))
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
        _cx: &Context,
        _lower: &[Mount],
        _upper: &[Mount],
        _o: CompareOptions,
    ) -> Result<Descriptor> {
        Err(Error::unimplemented("layers are not made yet"))
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
