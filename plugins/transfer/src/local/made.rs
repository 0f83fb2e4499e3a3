//! What an import makes itself: documents that the archive does not have, and compressed layers.

use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use tokio::runtime::Handle;
use windlass_core::content::{Info, Sync, WriterOptions};
use windlass_core::{Class, Descriptor, Digest, Error, Filters, Labels, Result};

use super::import::INGEST;
use super::lease::unique;
use super::{Job, on_thread};
use crate::media;

/// Bytes compressed at once.
const PART: usize = 256 << 10;

/// Stores a document.
pub async fn document(job: &Job, document: &impl Serialize, media_type: &str) -> Result<Descriptor> {
    let data: Bytes =
        serde_json::to_vec(document).map_err(|e| Error::internal("write JSON").with_source(e))?.into();
    let descriptor = Descriptor::new(media_type, Digest::of(&data), data.len() as u64);
    let options = WriterOptions {
        reference: unique(INGEST),
        total: descriptor.size,
        expected: Some(descriptor.digest.clone()),
        sync: Sync::Caller,
    };
    let mut writer = match job.local.parts.content.writer(&job.cx, options).await {
        Err(error) if error.is(Class::AlreadyExists) => return Ok(descriptor),
        writer => writer?,
    };
    writer.write(data).await?;
    match writer.commit(descriptor.size, Some(&descriptor.digest), Labels::new()).await {
        Err(error) if !error.is(Class::AlreadyExists) => Err(error),
        _ => Ok(descriptor),
    }
}

/// The descriptor of a layer file: a compressed form of it that the store has already is taken instead.
pub async fn layer(job: &Job, digest: Digest, size: u64, compress: bool) -> Result<Descriptor> {
    let content = &*job.local.parts.content;
    let filter = format!("labels.\"{}\"=={digest}", media::LABEL_UNCOMPRESSED);
    let known: Option<Info> = content.list(&job.cx, &Filters::parse(&[filter])?).next().await.transpose()?;
    let (digest, size) = known.map_or((digest, size), |info| (info.digest, info.size));
    let start = content.reader(&job.cx, &digest).await?.read_at(0, 10).await?;
    let compressed = matches!(&start[..], [0x1f, 0x8b, 0x08, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]);
    let media_type = match &start[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => media::DOCKER_LAYER_ZSTD,
        [0x1f, 0x8b, 0x08, ..] => media::DOCKER_LAYER_GZIP,
        _ => media::DOCKER_LAYER,
    };
    if compressed || !compress {
        return Ok(Descriptor::new(media_type, digest, size));
    }
    let (job, handle) = (job.clone(), Handle::current());
    on_thread("compress", move || gzip(&job, &handle, &digest, size)).await
}

fn gzip(job: &Job, handle: &Handle, digest: &Digest, size: u64) -> Result<Descriptor> {
    use std::io::Write;
    let content = &job.local.parts.content;
    let blob = handle.block_on(content.reader(&job.cx, digest))?;
    let reference = unique(INGEST);
    let options =
        WriterOptions { reference: reference.clone(), total: 0, expected: None, sync: Sync::Caller };
    let mut writer = handle.block_on(content.writer(&job.cx, options))?;
    let result = (|| {
        let mut encoder =
            flate2::write::GzEncoder::new(Vec::with_capacity(PART), flate2::Compression::default());
        let mut at = 0;
        while at < size {
            job.go_on()?;
            let data = handle.block_on(blob.read_at(at, PART))?;
            if data.is_empty() {
                return Err(Error::data_loss(format!("content {digest} ends at {at} of {size} bytes")));
            }
            at += data.len() as u64;
            encoder.write_all(&data).map_err(|e| Error::io("compress a layer", e))?;
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                handle.block_on(writer.write(out.into()))?;
            }
        }
        let rest = encoder.finish().map_err(|e| Error::io("compress a layer", e))?;
        handle.block_on(writer.write(rest.into()))?;
        let (size, made) = (writer.status().offset, writer.digest());
        let labels = Labels::from([(media::LABEL_UNCOMPRESSED.to_owned(), digest.to_string())]);
        match handle.block_on(writer.commit(size, Some(&made), labels)) {
            Err(error) if !error.is(Class::AlreadyExists) => Err(error),
            _ => Ok(Descriptor::new(media::DOCKER_LAYER_GZIP, made, size)),
        }
    })();
    if result.is_err() {
        drop(writer);
        let _ = handle.block_on(content.abort(&job.cx, &reference));
    }
    result
}
