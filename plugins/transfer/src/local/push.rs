//! Image store → registry: blobs first, then manifests, then indexes from the inside out.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use windlass_core::content::read_all;
use windlass_core::image::Image;
use windlass_core::transfer::{ImageStore, Registry};
use windlass_core::{Descriptor, Digest, Error, Result};

use super::Job;
use crate::document::{Document, MAX_DOCUMENT};
use crate::progress::Tracker;
use crate::registry::{Client, Pushed, Sent, mount_candidates, source_key};
use crate::select::Wanted;
use crate::{media, registry, step};

/// Indexes within indexes.
const MAX_DEPTH: usize = 8;

/// What is to be pushed.
#[derive(Default)]
struct Plan {
    /// With the repositories that have each, as labels say.
    blobs: HashMap<Digest, (Descriptor, String)>,
    manifests: Vec<(Descriptor, Bytes)>,
    /// Outermost first.
    indexes: Vec<(Descriptor, Bytes)>,
}

pub async fn push(job: Job, from: ImageStore, to: Registry) -> Result<Vec<Image>> {
    super::lease::under(job, async |job| run(job, from, to).await).await
}

async fn run(job: Job, from: ImageStore, to: Registry) -> Result<Vec<Image>> {
    let image = job.local.parts.images.get(&job.cx, &from.name).await?;
    let name = format!("OCI Registry ({})", to.reference);
    let tracker = Arc::new(Tracker::new(job.progress.clone(), &image.name, "uploading"));
    tracker.say(format!("Pushing to {name}"));
    tracker.image("pushing content", &image.name, &image.target);
    let client = job.local.client(&to, Default::default())?;
    let plan = plan(&job, &client, &tracker, &image.target, &Wanted::new(&from.platforms)).await?;
    step!("push.after-plan");
    let root = image.target.digest.clone();
    push_blobs(&job, &client, &tracker, plan.blobs).await?;
    step!("push.after-blobs");
    for (descriptor, data) in plan.manifests.into_iter().chain(plan.indexes.into_iter().rev()) {
        job.go_on()?;
        let pushed = job
            .unless_canceled(client.push_document(&descriptor, data, &root))
            .await?
            .map_err(|e| incomplete(&descriptor, e))?;
        match pushed {
            Pushed::Exists => tracker.exists(&descriptor),
            _ => tracker.complete(&descriptor),
        }
    }
    tracker.image("pushed content", &image.name, &image.target);
    tracker.say(format!("Completed push to {name}"));
    Ok(Vec::new())
}

/// Registries refuse an index of which they do not have everything.
fn incomplete(descriptor: &Descriptor, error: registry::Error) -> Error {
    let missing = media::is_index(&descriptor.media_type)
        && matches!(&error, registry::Error::Status { status, .. } if status.as_u16() == 400);
    let error = Error::from(error).context(format!("push {}", descriptor.digest));
    if !missing {
        return error;
    }
    error.context(
        "manifest list/index references to blobs and/or manifests are missing in your target registry: push all \
         platforms, or a single platform's manifest",
    )
}

async fn plan(
    job: &Job,
    client: &Client,
    tracker: &Tracker,
    root: &Descriptor,
    wanted: &Wanted,
) -> Result<Plan> {
    let content = &*job.local.parts.content;
    let key = source_key(client.spec().hostname());
    let mut plan = Plan::default();
    let mut level = vec![(root.clone(), String::new())];
    tracker.add(root, None);
    for depth in 0.. {
        if level.is_empty() {
            break;
        }
        if depth == MAX_DEPTH {
            return Err(Error::invalid(format!("image index nests more than {MAX_DEPTH} deep")));
        }
        for (descriptor, inherited) in std::mem::take(&mut level) {
            let label = async |of: &Descriptor| match content.info(&job.cx, &of.digest).await {
                Ok(info) => Ok(info.labels.get(&key).cloned().unwrap_or_default()),
                Err(error) if error.is_not_found() => Ok(String::new()),
                Err(error) => Err(error),
            };
            let media_type = descriptor.media_type.as_str();
            if !media::is_manifest(media_type) && !media::is_index(media_type) {
                return Err(Error::invalid(format!(
                    "{} of type {media_type:?} is no image",
                    descriptor.digest
                )));
            }
            let data = read_all(content, &job.cx, &descriptor.digest, MAX_DOCUMENT).await?;
            let document = Document::parse(&descriptor, &data)?;
            let own = format!("{},{inherited}", label(&descriptor).await?);
            match document {
                Document::Index(entries) => {
                    let entries: Vec<Descriptor> = entries
                        .into_iter()
                        .filter(|e| e.platform.as_ref().is_none_or(|p| wanted.matches(p)))
                        .collect();
                    for entry in entries {
                        tracker.add(&entry, Some(&descriptor));
                        if media::is_manifest(&entry.media_type) || media::is_index(&entry.media_type) {
                            level.push((entry, own.clone()));
                        } else {
                            let source = format!("{},{own}", label(&entry).await?);
                            plan.blobs.insert(entry.digest.clone(), (entry, source));
                        }
                    }
                    plan.indexes.push((descriptor, data));
                }
                Document::Manifest(manifest) => {
                    for child in std::iter::once(manifest.config).chain(manifest.layers) {
                        tracker.add(&child, Some(&descriptor));
                        let source = format!("{},{own}", label(&child).await?);
                        plan.blobs.insert(child.digest.clone(), (child, source));
                    }
                    plan.manifests.push((descriptor, data));
                }
            }
        }
    }
    Ok(plan)
}

async fn push_blobs(
    job: &Job,
    client: &Arc<Client>,
    tracker: &Arc<Tracker>,
    blobs: HashMap<Digest, (Descriptor, String)>,
) -> Result<()> {
    let mut left = blobs.into_values();
    let mut tasks = JoinSet::new();
    loop {
        while tasks.len() < job.local.config.uploads() {
            let Some((descriptor, sources)) = left.next() else { break };
            let (job, client, tracker) = (job.clone(), client.clone(), tracker.clone());
            tasks.spawn(async move { push_blob(&job, &client, &tracker, descriptor, &sources).await });
        }
        // Dropping the set on an error ends the other uploads.
        match tasks.join_next().await {
            None => return Ok(()),
            Some(done) => done.map_err(|e| Error::internal("an upload's task ended").with_source(e))??,
        }
    }
}

async fn push_blob(
    job: &Job,
    client: &Client,
    tracker: &Arc<Tracker>,
    descriptor: Descriptor,
    sources: &str,
) -> Result<()> {
    let blob = job.local.parts.content.reader(&job.cx, &descriptor.digest).await?;
    if blob.size() != descriptor.size {
        return Err(Error::data_loss(format!(
            "content {} has {} bytes, its descriptor says {}",
            descriptor.digest,
            blob.size(),
            descriptor.size
        )));
    }
    let sources = mount_candidates(sources, client.spec().repository());
    let sent: Sent = {
        let (tracker, descriptor) = (tracker.clone(), descriptor.clone());
        Arc::new(move |offset| tracker.moved(&descriptor, offset))
    };
    let pushed = job
        .unless_canceled(client.push_blob(&descriptor, blob, &sources, sent))
        .await?
        .map_err(|e| Error::from(e).context(format!("push {}", descriptor.digest)))?;
    match pushed {
        Pushed::Uploaded => tracker.complete(&descriptor),
        Pushed::Exists | Pushed::Mounted(_) => tracker.exists(&descriptor),
    }
    step!("push.after-blob");
    Ok(())
}
