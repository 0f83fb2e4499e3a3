//! Image store → archive: an OCI layout, with Docker's `manifest.json` beside it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use windlass_core::content::read_all;
use windlass_core::digest::Hasher;
use windlass_core::image::Image;
use windlass_core::platform::Platform;
use windlass_core::transfer::{ByteSink, ExportOptions, ImageStore};
use windlass_core::{Descriptor, Digest, Error, Result};

use super::Job;
use crate::archive::writer;
use crate::document::{Document, MAX_DOCUMENT};
use crate::progress::Tracker;
use crate::select::Wanted;
use crate::{Spec, media, reference, step};

/// Bytes read from the content store at once.
const PART: usize = 256 << 10;
/// Indexes within indexes.
const MAX_DEPTH: usize = 8;

/// What goes under a name of the archive.
enum Record {
    Directory,
    Bytes { data: Bytes, mode: u32 },
    Blob(Box<Descriptor>),
}

struct Export<'a> {
    job: &'a Job,
    options: &'a ExportOptions,
    wanted: Wanted,
    records: BTreeMap<String, Record>,
    algorithms: BTreeSet<String>,
    /// Manifests that Docker loads, with their names; in the order in which they came.
    docker: Vec<(Descriptor, Vec<String>)>,
}

pub async fn export(
    job: Job,
    from: ImageStore,
    options: ExportOptions,
    to: Box<dyn ByteSink>,
) -> Result<Vec<Image>> {
    super::lease::under(job, async |job| run(&job, from, options, to).await).await
}

async fn run(
    job: &Job,
    from: ImageStore,
    options: ExportOptions,
    mut to: Box<dyn ByteSink>,
) -> Result<Vec<Image>> {
    let tracker = Tracker::new(job.progress.clone(), &from.name, "exporting");
    tracker.say("Exporting".into());
    let images = lookup(job, &from).await?;
    let platforms =
        if options.platforms.is_empty() { vec![Platform::host()] } else { options.platforms.clone() };
    let mut export = Export {
        job,
        options: &options,
        wanted: Wanted::new(&platforms),
        records: BTreeMap::new(),
        algorithms: BTreeSet::new(),
        docker: Vec::new(),
    };
    export.collect(images).await?;
    step!("export.before-write");
    let records = std::mem::take(&mut export.records);
    for (name, record) in records {
        job.go_on()?;
        write(job, &mut *to, &name, record).await?;
    }
    to.send(writer::end().into()).await?;
    to.finish().await?;
    tracker.say("Completed export".into());
    Ok(Vec::new())
}

async fn lookup(job: &Job, from: &ImageStore) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    if !from.name.is_empty() {
        images.push(job.local.parts.images.get(&job.cx, &from.name).await?);
    }
    for reference in &from.extra_references {
        if reference.is_prefix {
            return Err(Error::unimplemented("prefix lookup on export not implemented"));
        }
        images.push(job.local.parts.images.get(&job.cx, &reference.name).await?);
    }
    if images.is_empty() {
        return Err(Error::invalid("no image named for export"));
    }
    Ok(images)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [Descriptor],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.encoded())
}

impl Export<'_> {
    async fn collect(&mut self, images: Vec<Image>) -> Result<()> {
        let mut targets = Vec::with_capacity(images.len());
        for image in images {
            let target = self.target(image).await?;
            self.image(&target).await?;
            targets.push(target);
        }
        self.bytes("oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let index = Index { schema_version: 2, media_type: media::INDEX, manifests: &targets };
        self.bytes("index.json", 0o644, json(&index)?);
        if !self.options.skip_compatibility_manifest && !self.docker.is_empty() {
            let manifests = self.docker_manifests().await?;
            self.bytes("manifest.json", 0o644, json(&manifests)?);
        }
        if !self.algorithms.is_empty() {
            self.records.insert("blobs/".into(), Record::Directory);
            for algorithm in &self.algorithms {
                self.records.insert(format!("blobs/{algorithm}/"), Record::Directory);
            }
        }
        Ok(())
    }

    fn bytes(&mut self, name: &str, mode: u32, data: Vec<u8>) {
        self.records.insert(name.into(), Record::Bytes { data: data.into(), mode });
    }

    /// The image's descriptor as the archive's index has it: with its name, and where it came from.
    async fn target(&self, image: Image) -> Result<Descriptor> {
        let mut target = image.target;
        let tag = Spec::parse(&image.name).ok().and_then(|s| s.tag().map(|_| s.object().to_owned()));
        let name = image.name.clone();
        target.annotations.insert(media::ANNOTATION_IMAGE_NAME.into(), image.name);
        target.annotations.insert(media::ANNOTATION_REF_NAME.into(), tag.unwrap_or(name));
        let info = self.job.local.parts.content.info(&self.job.cx, &target.digest).await?;
        let sources = info.labels.into_iter().filter(|(key, _)| key.starts_with(media::LABEL_SOURCE));
        target.annotations.extend(sources);
        Ok(target)
    }

    async fn image(&mut self, target: &Descriptor) -> Result<()> {
        let name = target.annotations.get(media::ANNOTATION_IMAGE_NAME).cloned();
        if media::is_manifest(&target.media_type) {
            self.tree(target.clone()).await?;
            self.docker_name(target, name);
            return Ok(());
        }
        if !media::is_index(&target.media_type) {
            return Err(Error::invalid("only manifests may be exported"));
        }
        let Document::Index(entries) = self.read(target).await? else { return Ok(()) };
        self.blob(target.clone());
        let picked = self.wanted.choose(&entries, 0);
        let picked = match picked {
            Err(error)
                if error.is_not_found()
                    && self.options.all_platforms
                    && self.options.platforms.is_empty() =>
            {
                Vec::new()
            }
            picked => picked?,
        };
        let all = if self.options.all_platforms { entries } else { picked.clone() };
        for entry in all {
            self.tree(entry).await?;
        }
        if let Some(best) = picked.into_iter().find(|m| media::is_manifest(&m.media_type)) {
            self.docker_name(&best, name);
        }
        Ok(())
    }

    fn docker_name(&mut self, manifest: &Descriptor, name: Option<String>) {
        match self.docker.iter_mut().find(|(m, _)| m.digest == manifest.digest) {
            Some((_, names)) => names.extend(name),
            None => self.docker.push((manifest.clone(), name.into_iter().collect())),
        }
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Document> {
        let content = &*self.job.local.parts.content;
        let data = read_all(content, &self.job.cx, &descriptor.digest, MAX_DOCUMENT).await?;
        Document::parse(descriptor, &data)
    }

    fn blob(&mut self, descriptor: Descriptor) {
        if self.options.skip_non_distributable && media::is_non_distributable(&descriptor.media_type) {
            return;
        }
        self.algorithms.insert(descriptor.digest.algorithm().to_owned());
        self.records.insert(path(&descriptor.digest), Record::Blob(Box::new(descriptor)));
    }

    /// A descriptor and everything below it.
    async fn tree(&mut self, root: Descriptor) -> Result<()> {
        let mut level = vec![root];
        for depth in 0.. {
            if level.is_empty() {
                break;
            }
            if depth == MAX_DEPTH {
                return Err(Error::invalid(format!("image index nests more than {MAX_DEPTH} deep")));
            }
            for descriptor in std::mem::take(&mut level) {
                let media_type = descriptor.media_type.as_str();
                if (media::is_manifest(media_type) || media::is_index(media_type))
                    && !self.records.contains_key(&path(&descriptor.digest))
                {
                    level.extend(self.read(&descriptor).await?.children());
                }
                self.blob(descriptor);
            }
        }
        Ok(())
    }

    async fn docker_manifests(&self) -> Result<Vec<DockerManifest>> {
        let mut result = Vec::new();
        for (descriptor, names) in &self.docker {
            let Document::Manifest(manifest) = self.read(descriptor).await? else { continue };
            let tags = names.iter().map(|n| reference::familiar(n)).collect::<Result<Vec<_>>>()?;
            result.push(DockerManifest {
                config: path(&manifest.config.digest),
                repo_tags: (!tags.is_empty()).then_some(tags),
                layers: manifest.layers.iter().map(|l| path(&l.digest)).collect(),
            });
        }
        Ok(result)
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("write JSON").with_source(e))
}

async fn write(job: &Job, to: &mut dyn ByteSink, name: &str, record: Record) -> Result<()> {
    let descriptor = match record {
        Record::Directory => return to.send(writer::header(name, 0o755, 0, b'5').into()).await,
        Record::Bytes { data, mode } => {
            let size = data.len() as u64;
            to.send(writer::header(name, mode, size, b'0').into()).await?;
            to.send(data).await?;
            return pad(to, size).await;
        }
        Record::Blob(descriptor) => descriptor,
    };
    let digest = &descriptor.digest;
    let blob = job
        .local
        .parts
        .content
        .reader(&job.cx, digest)
        .await
        .map_err(|e| e.context(format!("export {digest}")))?;
    if blob.size() != descriptor.size {
        return Err(Error::data_loss(format!("unexpected copy size for {name}: {} bytes", blob.size())));
    }
    to.send(writer::header(name, 0o444, descriptor.size, b'0').into()).await?;
    let mut hasher = Hasher::new(Some(digest));
    let mut at = 0;
    while at < descriptor.size {
        let data = blob.read_at(at, PART).await?;
        if data.is_empty() {
            return Err(Error::data_loss(format!(
                "content {digest} ends at {at} of {} bytes",
                descriptor.size
            )));
        }
        at += data.len() as u64;
        hasher.update(&data);
        job.unless_canceled(to.send(data)).await??;
    }
    if hasher.digest() != *digest {
        return Err(Error::data_loss(format!("unexpected digest {} copied for {digest}", hasher.digest())));
    }
    pad(to, descriptor.size).await
}

async fn pad(to: &mut dyn ByteSink, size: u64) -> Result<()> {
    match writer::padding(size) {
        [] => Ok(()),
        zeros => to.send(Bytes::from_static(zeros)).await,
    }
}
