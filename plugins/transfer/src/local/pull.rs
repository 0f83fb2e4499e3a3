//! Registry → image store.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use windlass_core::image::Image;
use windlass_core::platform::Platform;
use windlass_core::transfer::{ImageStore, Registry};
use windlass_core::{Descriptor, Error, Labels, Result};

use super::blobs::Blobs;
use super::unpack::{Unpack, Unpacker};
use super::{Inner, Job, annotate, lease, records};
use crate::config::DEFAULT_SNAPSHOTTER;
use crate::document::{Config, Document};
use crate::progress::Tracker;
use crate::select::Wanted;
use crate::{media, step};

/// Indexes within indexes.
const MAX_DEPTH: usize = 8;
/// Documents of one image, whatever their depth.
const MAX_DOCUMENTS: usize = 10_000;
/// Documents fetched at once, beside the limit on all fetches.
const AT_ONCE: usize = 4;

/// A manifest of an image, found and stored.
#[derive(Clone, Debug)]
pub struct Found {
    pub descriptor: Descriptor,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    /// Its layers are wanted; else only manifest and config are.
    pub whole: bool,
}

pub async fn pull(job: Job, from: Registry, to: ImageStore) -> Result<Vec<Image>> {
    lease::under(job, async |job| run(job, from, to).await).await
}

async fn run(job: Job, from: Registry, to: ImageStore) -> Result<Vec<Image>> {
    let name = format!("OCI Registry ({})", from.reference);
    let tracker = Arc::new(Tracker::new(job.progress.clone(), &from.reference, "downloading"));
    tracker.say(format!("Resolving from {name}"));
    let client = job.local.client(&from, to.fetching)?;
    let root = job
        .unless_canceled(client.resolve())
        .await?
        .map_err(|e| Error::from(e).context("failed to resolve image"))?;
    if root.media_type == media::DOCKER_SCHEMA1 {
        return Err(Error::invalid("schema 1 image manifests are no longer supported"));
    }
    step!("pull.after-resolve");
    tracker.say(format!("Pulling from {name}"));
    tracker.image("fetching image content", &from.reference, &root);

    // Its own token: what fails here stops the rest of this image and nothing else.
    let inner = Job { cancel: job.cancel.child_token(), ..job.clone() };
    let blobs = Blobs { job: inner, tracker: tracker.clone(), client: Some(client) };
    let result = content(&blobs, &root, &to).await;
    if let Err(error) = result {
        blobs.job.cancel.cancel();
        return Err(error);
    }
    job.go_on()?;
    job.local.parts.content.sync().await?;
    step!("pull.before-image-record");
    let images = records::store(&job, &to, root).await?;
    step!("pull.after-image-record");
    for image in &images {
        tracker.image("saved", &image.name, &image.target);
    }
    tracker.say(format!("Completed pull from {name}"));
    Ok(images)
}

/// Brings everything that is wanted of an image into content and snapshots.
async fn content(blobs: &Blobs, root: &Descriptor, to: &ImageStore) -> Result<()> {
    let manifests = walk(blobs, root, to, false).await?;
    step!("pull.after-manifests");
    for manifest in &manifests {
        blobs.job.go_on()?;
        manifest_content(blobs, manifest, to).await?;
    }
    Ok(())
}

/// Config and layers of one manifest.
pub async fn manifest_content(blobs: &Blobs, manifest: &Found, to: &ImageStore) -> Result<()> {
    let config = &manifest.config;
    if blobs.client.is_none() && (to.unpacks.is_empty() || !manifest.whole) {
        return Ok(());
    }
    blobs.tracker.add(config, Some(&manifest.descriptor));
    let readable = media::is_config(&config.media_type)
        || blobs.job.local.parts.unpackers.iter().any(|u| u.config_type == config.media_type);
    let parsed = if readable {
        let data = blobs.document(config, |_| Ok(Labels::new())).await?;
        // What is only carried along need not make sense.
        if manifest.whole && !to.unpacks.is_empty() {
            Some(Config::parse(&config.digest, &data)?)
        } else {
            None
        }
    } else if blobs.client.is_some() {
        blobs.blob(config, None).await?;
        None
    } else {
        None
    };
    if !manifest.whole {
        return Ok(());
    }
    for layer in &manifest.layers {
        blobs.tracker.add(layer, Some(&manifest.descriptor));
    }
    let with = parsed.as_ref().and_then(|parsed| blobs.job.local.unpacker(to, manifest, parsed));
    let (Some(with), Some(parsed)) = (with, parsed) else {
        return fetch_all(blobs, &manifest.layers, to).await;
    };
    let at_once = blobs.job.local.unpacks(to.fetching);
    let annotated = to.fetching.annotate_snapshots.then(|| annotate::layers(&to.name, manifest));
    let layers = annotated.as_ref().unwrap_or(&manifest.layers);
    let unpack = Unpack::new(blobs.clone(), with.clone(), layers, &parsed, at_once)?;
    let others: Vec<Descriptor> =
        manifest.layers.iter().filter(|l| !media::is_layer(&l.media_type)).cloned().collect();
    let unpacked = unpack.run().await?;
    fetch_all(blobs, &others, to).await?;
    if let Some(chain) = unpacked {
        let label = (format!("{}.{}", media::LABEL_REF_SNAPSHOT, with.id), chain);
        blobs.add_labels(&config.digest, Labels::from([label])).await?;
    }
    Ok(())
}

async fn fetch_all(blobs: &Blobs, layers: &[Descriptor], to: &ImageStore) -> Result<()> {
    if blobs.client.is_none() {
        return Ok(());
    }
    let at_once = blobs.job.local.downloads(to.fetching);
    let mut tasks = tokio::task::JoinSet::new();
    let mut left = layers.iter();
    let mut first = Ok(());
    loop {
        while tasks.len() < at_once && first.is_ok() {
            let Some(layer) = left.next().cloned() else { break };
            let blobs = blobs.clone();
            tasks.spawn(async move { blobs.blob(&layer, None).await.map(|_| ()) });
        }
        let Some(done) = tasks.join_next().await else { return first };
        let done = done.map_err(|e| Error::internal("a layer's task ended").with_source(e)).flatten();
        if let Err(error) = done
            && first.is_ok()
        {
            blobs.job.cancel.cancel();
            first = Err(error);
        }
    }
}

/// A descriptor on the way down.
struct Node {
    descriptor: Descriptor,
    whole: bool,
}

/// Finds the manifests below `root`, level by level, and stores all documents on the way. `archive`: `root` is an archive's
/// index; that nothing in it is for a wanted platform is no error then.
pub async fn walk(blobs: &Blobs, root: &Descriptor, to: &ImageStore, archive: bool) -> Result<Vec<Found>> {
    let wanted = Wanted::new(&to.platforms);
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut level = vec![Node { descriptor: root.clone(), whole: true }];
    blobs.tracker.add(root, None);
    for depth in 0.. {
        level.retain(|n| seen.insert(n.descriptor.digest.clone()));
        if level.is_empty() {
            break;
        }
        if depth == MAX_DEPTH {
            return Err(Error::invalid(format!("image index nests more than {MAX_DEPTH} deep")));
        }
        if seen.len() > MAX_DOCUMENTS {
            return Err(Error::invalid(format!("image of more than {MAX_DOCUMENTS} manifests")));
        }
        let documents = stream::iter(std::mem::take(&mut level).into_iter().map(|node| one(blobs, node)));
        let documents: Vec<_> = documents.buffered(AT_ONCE).try_collect().await?;
        for (Node { descriptor, whole }, document) in documents {
            match document {
                None => {}
                Some(Document::Manifest(m)) => {
                    found.push(Found { descriptor, config: m.config, layers: m.layers, whole });
                }
                Some(Document::Index(entries)) => {
                    let strict = depth == 0 && !archive;
                    for entry in below(&wanted, entries, to, whole, strict)? {
                        blobs.tracker.add(&entry.descriptor, Some(&descriptor));
                        level.push(entry);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// What of an index is gone into.
fn below(
    wanted: &Wanted,
    entries: Vec<Descriptor>,
    to: &ImageStore,
    whole: bool,
    strict: bool,
) -> Result<Vec<Node>> {
    let picked = match wanted.choose(&entries, to.manifest_limit) {
        Err(error) if strict => return Err(error),
        picked => picked.unwrap_or_default(),
    };
    if !to.all_metadata || to.manifest_limit > 0 {
        return Ok(picked.into_iter().map(|descriptor| Node { descriptor, whole }).collect());
    }
    let picked: HashSet<_> = picked.into_iter().map(|d| d.digest).collect();
    let node =
        |descriptor: Descriptor| Node { whole: whole && picked.contains(&descriptor.digest), descriptor };
    Ok(entries.into_iter().map(node).collect())
}

async fn one(blobs: &Blobs, node: Node) -> Result<(Node, Option<Document>)> {
    let descriptor = &node.descriptor;
    let media_type = descriptor.media_type.as_str();
    if media_type == media::DOCKER_SCHEMA1 {
        return Err(Error::invalid(format!("{media_type} not supported")));
    }
    if !media::is_manifest(media_type) && !media::is_index(media_type) {
        if blobs.client.is_some() {
            blobs.blob(descriptor, None).await?;
        }
        return Ok((node, None));
    }
    let mut document = None;
    blobs
        .document(descriptor, |data| {
            let parsed = Document::parse(descriptor, data)?;
            let labels = media::child_labels(&parsed.children());
            document = Some(parsed);
            Ok(labels)
        })
        .await?;
    Ok((node, document))
}

impl Inner {
    /// The unpacker for an image, as the client asked and the configuration allows.
    fn unpacker(&self, to: &ImageStore, manifest: &Found, config: &Config) -> Option<Arc<Unpacker>> {
        for asked in &to.unpacks {
            let platform = asked.platform.clone().unwrap_or_else(Platform::host);
            let Some(with) = self.supported(&platform, &asked.snapshotter) else {
                tracing::warn!(%platform, snapshotter = %asked.snapshotter, "unpack configuration not supported, skipping");
                continue;
            };
            if !with.config_type.is_empty() && with.config_type != manifest.config.media_type {
                continue;
            }
            if with.config_type.is_empty() && !matches!(config.rootfs.kind.as_str(), "" | "layers") {
                continue;
            }
            // What an index says is what was chosen by; a lone manifest was asked for as it is.
            let serves = match &manifest.descriptor.platform {
                Some(said) => platform.matches(said),
                None => config.platform.os.is_empty() || with.serves(&config.platform),
            };
            if serves {
                return Some(with);
            }
        }
        None
    }

    fn supported(&self, platform: &Platform, snapshotter: &str) -> Option<Arc<Unpacker>> {
        let fit = |u: &&Arc<Unpacker>| u.serves(platform) && (snapshotter.is_empty() || u.id == snapshotter);
        let fitting: Vec<&Arc<Unpacker>> = self.parts.unpackers.iter().filter(fit).collect();
        let preferred = fitting.iter().find(|u| u.id == DEFAULT_SNAPSHOTTER).or(fitting.first());
        if let Some(with) = preferred {
            return Some((*with).clone());
        }
        let named =
            Some(snapshotter).filter(|s| !s.is_empty()).and_then(|id| (self.parts.snapshotters)(id))?;
        Some(Arc::new(Unpacker {
            platform: platform.clone(),
            only_os: !self.config.check_platform_supported,
            config_type: String::new(),
            layer_types: Vec::new(),
            id: snapshotter.to_owned(),
            snapshotter: named,
            differs: self.parts.differs.clone(),
        }))
    }
}
