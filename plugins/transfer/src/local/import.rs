//! Archive → image store: an OCI layout, or what `docker save` writes, plain or compressed.
//!
//! Blobs go straight into the content store; only the two small documents that say what the archive is are kept in
//! memory, and those are bounded.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use windlass_core::content::{Sync, Writer, WriterOptions, read_all};
use windlass_core::image::Image;
use windlass_core::transfer::{ByteSource, ImageStore, NoProgress};
use windlass_core::{Class, Descriptor, Digest, Error, Labels, Result};

use super::blobs::Blobs;
use super::lease::{self, unique};
use super::pull::{manifest_content, walk};
use super::{Job, made, on_thread, records};
use crate::archive::reader::{Entry, Kind, Reader};
use crate::document::{Config, Document, MAX_DOCUMENT};
use crate::progress::Tracker;
use crate::{Spec, media, reference, step};

/// Largest `oci-layout` and `manifest.json`, in bytes.
const MAX_JSON: u64 = 4 << 20;
/// How the names of an import's ingests begin.
pub const INGEST: &str = "import";
/// Entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// Bytes copied at once.
const PART: usize = 256 << 10;
/// Compressors read this far ahead.
const MAX_WINDOW_LOG: u32 = 27;

pub async fn import(
    job: Job,
    media_type: String,
    compress: bool,
    bytes: Box<dyn ByteSource>,
    to: ImageStore,
) -> Result<Vec<Image>> {
    lease::under(job, async |job| run(job, media_type, compress, bytes, to).await).await
}

async fn run(
    job: Job,
    media_type: String,
    compress: bool,
    bytes: Box<dyn ByteSource>,
    to: ImageStore,
) -> Result<Vec<Image>> {
    let said = Tracker::new(job.progress.clone(), &to.name, "importing");
    said.say("Importing".into());
    let index = {
        let reader = SourceReader {
            job: job.clone(),
            handle: Handle::current(),
            source: bytes,
            current: Bytes::new(),
        };
        let inside = job.clone();
        // Reading and decompressing block; the content store is awaited from there.
        let found = on_thread("import", move || read(&inside, reader, &media_type)).await?;
        found.index(&job, compress).await?
    };
    step!("import.after-read");
    let inner = Job { cancel: job.cancel.child_token(), ..job.clone() };
    // Only the whole is told of: the objects are all there by now.
    let tracker = Arc::new(Tracker::new(Arc::new(NoProgress), &to.name, "importing"));
    let blobs = Blobs { job: inner, tracker, client: None };
    let manifests = walk(&blobs, &index, &to, true).await?;
    if manifests.is_empty() {
        return Err(Error::not_found(
            "image might be filtered out: the archive has nothing for the wanted platforms",
        ));
    }
    for manifest in &manifests {
        job.go_on()?;
        manifest_content(&blobs, manifest, &to).await?;
    }
    job.local.parts.content.sync().await?;
    step!("import.before-image-record");
    let mut images = Vec::new();
    for descriptor in named(&job, index).await? {
        let stored = match records::store(&job, &to, descriptor).await {
            Err(error) if error.is_not_found() => continue,
            stored => stored?,
        };
        for image in &stored {
            said.image("saved", &image.name, &image.target);
        }
        images.extend(stored);
    }
    said.say("Completed import".into());
    Ok(images)
}

/// The archive's index, then its entries, each marked as one whose names are in its annotations.
async fn named(job: &Job, index: Descriptor) -> Result<Vec<Descriptor>> {
    let data = read_all(&*job.local.parts.content, &job.cx, &index.digest, MAX_DOCUMENT).await?;
    let Document::Index(mut entries) = Document::parse(&index, &data)? else { return Ok(vec![index]) };
    for entry in &mut entries {
        entry.annotations.insert(records::ANNOTATION_SOURCE.into(), "annotation".into());
    }
    entries.insert(0, index);
    Ok(entries)
}

/// A client's bytes for blocking readers.
struct SourceReader {
    job: Job,
    handle: Handle,
    source: Box<dyn ByteSource>,
    current: Bytes,
}

impl Read for SourceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let next = self.handle.block_on(self.job.unless_canceled(self.source.next()));
            match next.flatten() {
                Ok(Some(data)) => self.current = data,
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let n = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

/// What has been found in an archive.
#[derive(Default)]
struct Archive {
    layout: Option<Layout>,
    docker: Option<Vec<DockerManifest>>,
    links: BTreeMap<String, String>,
    blobs: HashMap<String, (Digest, u64)>,
}

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |e| match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => Error::invalid(format!("read archive: {what}")).with_source(e),
    }
}

fn read(job: &Job, source: SourceReader, media_type: &str) -> Result<Archive> {
    let mut source = BufReader::with_capacity(PART, source);
    let plain: Box<dyn Read> = if media_type.is_empty() {
        let start = source.fill_buf().map_err(failed("its first bytes"))?;
        match start {
            [0x1f, 0x8b, 0x08, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(failed("zstd"))?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed("zstd"))?;
                Box::new(decoder)
            }
            _ => Box::new(source),
        }
    } else {
        Box::new(source)
    };
    let mut reader = Reader::new(plain);
    let mut archive = Archive::default();
    let mut entries = 0;
    let name = unique(INGEST);
    while let Some(entry) = reader.entry().map_err(failed("tar"))? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Error::invalid(format!("archive of more than {MAX_ENTRIES} entries")));
        }
        job.go_on()?;
        archive.entry(job, entry, &mut reader, &format!("{name}-{entries}"))?;
    }
    // The client's side ends only when everything has been taken.
    io::copy(&mut reader_rest(reader), &mut io::sink()).map_err(failed("its end"))?;
    Ok(archive)
}

fn reader_rest(reader: Reader<Box<dyn Read>>) -> impl Read {
    // An archive may be followed by padding of its last record; a little of it is read.
    reader.into_inner().take(16 << 20)
}

/// `./a//b/../c` → `a/c`.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Archive {
    fn entry(&mut self, job: &Job, entry: Entry, data: &mut dyn Read, ingest: &str) -> Result<()> {
        let name = clean(&entry.name);
        match entry.kind {
            Kind::Symlink(target) => {
                let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                let target = clean(&format!("{dir}/{target}"));
                self.links.insert(name, target);
            }
            Kind::File => match name.as_str() {
                "oci-layout" => self.layout = Some(json(data, "oci-layout")?),
                "manifest.json" => self.docker = Some(json(data, "manifest.json")?),
                _ => {
                    let digest = store(job, &name, entry.size, data, ingest)?;
                    self.blobs.insert(name, (digest, entry.size));
                }
            },
            Kind::Directory | Kind::Other => {}
        }
        Ok(())
    }

    /// The index of what is in the archive; made where it has none of its own.
    async fn index(mut self, job: &Job, compress: bool) -> Result<Descriptor> {
        if let Some(layout) = &self.layout {
            if layout.version != "1.0.0" {
                return Err(Error::invalid(format!("unsupported OCI version {:.64}", layout.version)));
            }
            let (digest, size) = self
                .blobs
                .get("index.json")
                .ok_or_else(|| Error::invalid("missing index.json in OCI layout 1.0.0"))?;
            return Ok(Descriptor::new(media::INDEX, digest.clone(), *size));
        }
        let manifests = self.docker.take().ok_or_else(|| Error::invalid("unrecognized image format"))?;
        for (name, target) in std::mem::take(&mut self.links) {
            let blob = self.blobs.get(&target).cloned().ok_or_else(|| {
                Error::invalid(format!("no target for symlink layer from {name:?} to {target:?}"))
            })?;
            self.blobs.insert(name, blob);
        }
        let mut entries = Vec::new();
        for manifest in manifests {
            entries.extend(self.docker_image(job, manifest, compress).await?);
        }
        made::document(job, &Index { schema_version: 2, manifests: entries }, media::INDEX).await
    }

    fn blob(&self, what: &str, name: &str) -> Result<(Digest, u64)> {
        self.blobs
            .get(&clean(name))
            .cloned()
            .ok_or_else(|| Error::invalid(format!("{what} {name:?} not found in the archive")))
    }

    async fn docker_image(&self, job: &Job, of: DockerManifest, compress: bool) -> Result<Vec<Descriptor>> {
        let (digest, size) = self.blob("image config", &of.config)?;
        let mut layers = Vec::new();
        for name in of.layers.unwrap_or_default() {
            let (digest, size) = self.blob("layer", &name)?;
            layers.push(made::layer(job, digest, size, compress).await?);
        }
        let data = read_all(&*job.local.parts.content, &job.cx, &digest, MAX_DOCUMENT).await?;
        let config = Config::parse(&digest, &data)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::DOCKER_MANIFEST,
            config: Descriptor::new(media::DOCKER_CONFIG, digest, size),
            layers,
        };
        let mut descriptor = made::document(job, &manifest, media::DOCKER_MANIFEST).await?;
        descriptor.platform = Some(config.platform.normalized());
        let tags = of.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            return Ok(vec![descriptor]);
        }
        let tagged = |tag: &String| {
            let name = reference::normalize(tag)?;
            let tag = Spec::parse(&name)?.tag().map(str::to_owned);
            let mut descriptor = descriptor.clone();
            descriptor
                .annotations
                .insert(media::ANNOTATION_REF_NAME.into(), tag.unwrap_or_else(|| name.clone()));
            descriptor.annotations.insert(media::ANNOTATION_IMAGE_NAME.into(), name);
            Ok(descriptor)
        };
        tags.iter().map(tagged).collect()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

fn json<T: for<'de> Deserialize<'de>>(data: &mut dyn Read, what: &str) -> Result<T> {
    let mut text = Vec::new();
    data.take(MAX_JSON + 1).read_to_end(&mut text).map_err(failed(what))?;
    if text.len() as u64 > MAX_JSON {
        return Err(Error::invalid(format!("{what} of more than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("untar {what}")).with_source(e))
}

/// Stores one file of the archive. Names that are digests are held to them.
fn store(job: &Job, name: &str, size: u64, data: &mut dyn Read, ingest: &str) -> Result<Digest> {
    let expected = match name.split('/').collect::<Vec<_>>()[..] {
        ["blobs", algorithm, encoded] => format!("{algorithm}:{encoded}").parse::<Digest>().ok(),
        _ => None,
    };
    let handle = Handle::current();
    let content = &job.local.parts.content;
    let options = WriterOptions {
        reference: ingest.to_owned(),
        total: size,
        expected: expected.clone(),
        sync: Sync::Caller,
    };
    let mut writer = match handle.block_on(content.writer(&job.cx, options)) {
        Ok(writer) => writer,
        Err(error) if error.is(Class::AlreadyExists) => {
            return expected.ok_or_else(|| error.context("ingest of an archive's file"));
        }
        Err(error) => return Err(error),
    };
    let result = (|| {
        // Another namespace has the blob already, or an earlier import came this far.
        let there = writer.status().offset;
        if there == size && size > 0 && expected.is_some() {
            return finish(&handle, &mut *writer, size, expected.as_ref());
        }
        if there > 0 {
            handle.block_on(writer.truncate(0))?;
        }
        let mut buffer = vec![0; PART.min(usize::try_from(size).unwrap_or(PART)).max(1)];
        loop {
            match data.read(&mut buffer).map_err(failed(format!("{name:?}")))? {
                0 => break,
                n => handle.block_on(writer.write(Bytes::copy_from_slice(&buffer[..n])))?,
            }
        }
        finish(&handle, &mut *writer, size, expected.as_ref())
    })();
    result.map_err(|error: Error| {
        drop(writer);
        if let Err(left) = handle.block_on(content.abort(&job.cx, ingest))
            && !left.is_not_found()
        {
            tracing::warn!(%ingest, error = %left.chain(), "an ingest of an archive is left over");
        }
        error.context(format!("failed to ingest {name:?}"))
    })
}

fn finish(handle: &Handle, writer: &mut dyn Writer, size: u64, expected: Option<&Digest>) -> Result<Digest> {
    let digest = writer.digest();
    match handle.block_on(writer.commit(size, expected, Labels::new())) {
        Ok(digest) => Ok(digest),
        Err(error) if error.is(Class::AlreadyExists) => Ok(digest),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        for (name, want) in
            [("./a//b/../c", "a/c"), ("../../x", "x"), ("/oci-layout", "oci-layout"), (".", "")]
        {
            assert_eq!(clean(name), want);
        }
    }
}
