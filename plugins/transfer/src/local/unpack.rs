//! Layers into snapshots. Where the snapshotter can set a parent at commit, all layers of an image are unpacked at
//! once, each while it is fetched, and committed in the chain's order after one sync; else one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use windlass_core::content::Sync;
use windlass_core::diff::{Applied, ApplyOptions, Differ};
use windlass_core::lease::Resource;
use windlass_core::mount::{self, Mount};
use windlass_core::platform::Platform;
use windlass_core::snapshot::{self, CommitOptions, Usage};
use windlass_core::{Class, Descriptor, Digest, Error, Labels, Result};

use super::blobs::{Blobs, Got, Pipe, Tee, wrong_diff_id};
use super::lease::unique;
use super::on_thread;
use crate::document::Config;
use crate::locks::Guard;
use crate::media;

/// How the keys of snapshots begin that layers are unpacked into.
pub const EXTRACT: &str = "extract";
const LABEL_DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const LABEL_PARENT: &str = "containerd.io/snapshot/parent-chain-id";
/// Label of snapshots that a remote snapshotter made up without any content.
const LABEL_REMOTE: &str = "containerd.io/snapshot/remote";
/// Layers that take up more are written back before the others are there, in bytes.
const EARLY_SYNC: u64 = 8 << 20;
/// Most layers of one image.
const MAX_LAYERS: usize = 1000;

/// What can be unpacked where.
pub struct Unpacker {
    /// Images for this platform.
    pub platform: Platform,
    /// Any image of the platform's operating system.
    pub only_os: bool,
    /// Media type of configs; empty for any image config.
    pub config_type: String,
    pub layer_types: Vec<String>,
    /// Id of the snapshotter.
    pub id: String,
    pub snapshotter: snapshot::Shared,
    /// Asked in order until one knows the layer's media type.
    pub differs: Vec<Arc<dyn Differ>>,
}

impl Unpacker {
    pub fn serves(&self, platform: &Platform) -> bool {
        if self.only_os {
            self.platform.normalized().os == platform.normalized().os
        } else {
            self.platform.matches(platform)
        }
    }

    fn is_layer(&self, media_type: &str) -> bool {
        media::is_layer(media_type) || self.layer_types.iter().any(|t| t == media_type)
    }
}

/// A layer that is being unpacked.
struct Pending {
    layer: Descriptor,
    chain: String,
    parent: Option<String>,
    key: String,
    labels: Labels,
    mounts: Vec<Mount>,
    guard: Guard,
    /// `None` once it has been awaited.
    task: Option<JoinHandle<Result<Usage>>>,
    usage: Option<Usage>,
}

enum Prepared {
    /// The snapshot is there; of a remote one there is no content.
    Present {
        remote: bool,
    },
    Active {
        key: String,
        mounts: Vec<Mount>,
        labels: Labels,
    },
}

/// An image's layers on their way into snapshots.
pub struct Unpack {
    blobs: Blobs,
    with: Arc<Unpacker>,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    chains: Vec<String>,
    parallel: bool,
    at_once: Arc<Semaphore>,
    /// One early sync at a time.
    syncing: Arc<AtomicBool>,
}

impl Unpack {
    /// `children`: what the manifest lists as layers; `at_once`: how many are unpacked at a time.
    pub fn new(
        blobs: Blobs,
        with: Arc<Unpacker>,
        children: &[Descriptor],
        config: &Config,
        at_once: usize,
    ) -> Result<Self> {
        let layers: Vec<Descriptor> =
            children.iter().filter(|l| with.is_layer(&l.media_type)).cloned().collect();
        let diff_ids = config.rootfs.diff_ids.clone();
        if layers.len() != diff_ids.len() {
            return Err(Error::invalid(format!(
                "number of layers and diffIDs don't match: {} != {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        if layers.len() > MAX_LAYERS {
            return Err(Error::invalid(format!(
                "{} layers, at most {MAX_LAYERS} are unpacked",
                layers.len()
            )));
        }
        let chains = (1..=diff_ids.len())
            .map(|n| snapshot::chain_id(&diff_ids[..n]).expect("at least one diff id").to_string())
            .collect();
        let rebase = with.snapshotter.capabilities().iter().any(|c| c == snapshot::CAPABILITY_REBASE);
        let parallel = rebase && at_once > 1;
        let at_once = Arc::new(Semaphore::new(at_once));
        Ok(Self { blobs, with, layers, diff_ids, chains, parallel, at_once, syncing: Arc::default() })
    }

    /// Makes the snapshots that are missing; answers the uppermost chain id. After an error no snapshot of a layer that
    /// had not been committed is left.
    pub async fn run(self) -> Result<Option<String>> {
        let this = Arc::new(self);
        let mut pending = Vec::new();
        let mut fetching = Vec::new();
        let result = this.clone().layers(&mut pending, &mut fetching).await;
        let result = match result {
            Ok(()) => this.commit_all(&mut pending).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            this.blobs.job.cancel.cancel();
        }
        let mut first = result.err();
        // Every task is awaited: nothing of this image moves when the answer is given.
        for task in fetching {
            keep(&mut first, joined(task.await));
        }
        for layer in pending {
            if let Some(task) = layer.task {
                keep(&mut first, joined(task.await).map(|_| ()));
            }
            this.remove(&layer.key).await;
        }
        match first {
            Some(error) => Err(error),
            None => Ok(this.chains.last().cloned()),
        }
    }

    async fn layers(
        self: Arc<Self>,
        pending: &mut Vec<Pending>,
        fetching: &mut Vec<JoinHandle<Result<()>>>,
    ) -> Result<()> {
        let top = match self.chains.last() {
            Some(top) => self.committed(top).await?,
            None => return Ok(()),
        };
        let mut fetched_ahead = false;
        for n in 0..self.layers.len() {
            self.blobs.job.go_on()?;
            let guard = self.lock(n).await?;
            let prepared = match top {
                Some(remote) => Prepared::Present { remote },
                None => self.prepare(n).await?,
            };
            let (key, mounts, labels) = match prepared {
                Prepared::Present { remote } => {
                    drop(guard);
                    if !remote {
                        fetching.push(self.fetch(n));
                    }
                    continue;
                }
                Prepared::Active { key, mounts, labels } => (key, mounts, labels),
            };
            if !self.parallel && !fetched_ahead {
                // This layer is unpacked as it comes; those above it wait in the content store for their turn.
                fetched_ahead = true;
                fetching.extend((n + 1..self.layers.len()).map(|later| self.fetch(later)));
            }
            let task = self.start(n, &mounts, &key);
            pending.push(Pending {
                layer: self.layers[n].clone(),
                chain: self.chains[n].clone(),
                parent: (self.parallel && n > 0).then(|| self.chains[n - 1].clone()),
                key,
                labels,
                mounts,
                guard,
                task: Some(task),
                usage: None,
            });
            if !self.parallel {
                self.commit_all(pending).await?;
            }
        }
        while let Some(task) = fetching.pop() {
            joined(task.await)?;
        }
        Ok(())
    }

    fn fetch(self: &Arc<Self>, n: usize) -> JoinHandle<Result<()>> {
        let this = self.clone();
        tokio::spawn(async move { this.stopping(this.blobs.blob(&this.layers[n], None).await.map(|_| ())) })
    }

    /// A failure stops the other layers of the image.
    fn stopping<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.blobs.job.cancel.cancel();
        }
        result
    }

    async fn lock(&self, n: usize) -> Result<Guard> {
        let job = &self.blobs.job;
        let name = format!("{}/{}/{}", job.cx.namespace, self.with.id, self.chains[n]);
        job.unless_canceled(job.local.chains.lock(name)).await
    }

    /// Whether a chain's snapshot is there, and then whether it is a remote one. The transfer's lease refers to it from
    /// then on: what was only looked at may be collected a moment later.
    async fn committed(&self, chain: &str) -> Result<Option<bool>> {
        let found = self.remote(chain).await?;
        let job = &self.blobs.job;
        let (Some(_), Some(lease)) = (found, &job.cx.lease) else { return Ok(found) };
        let resource = Resource { id: chain.to_owned(), kind: format!("snapshots/{}", self.with.id) };
        job.local.parts.leases.add_resource(&job.cx, lease, resource).await?;
        // It may have gone before the lease referred to it.
        self.remote(chain).await
    }

    async fn remote(&self, chain: &str) -> Result<Option<bool>> {
        match self.with.snapshotter.stat(&self.blobs.job.cx, chain).await {
            Ok(info) => Ok(Some(info.labels.contains_key(LABEL_REMOTE))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.context(format!("failed to stat snapshot {chain}"))),
        }
    }

    async fn prepare(&self, n: usize) -> Result<Prepared> {
        let (cx, chain) = (&self.blobs.job.cx, &self.chains[n]);
        if let Some(remote) = self.committed(chain).await? {
            return Ok(Prepared::Present { remote });
        }
        let annotations = self.layers[n].annotations.iter();
        let mut labels: Labels = annotations
            .filter(|(key, _)| key.starts_with(snapshot::LABEL_PREFIX))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        labels.insert(snapshot::LABEL_REF.into(), chain.clone());
        labels.insert(LABEL_DIFF_ID.into(), self.diff_ids[n].to_string());
        if n > 0 {
            labels.insert(LABEL_PARENT.into(), self.chains[n - 1].clone());
        }
        let parent = if n > 0 && !self.parallel { self.chains[n - 1].as_str() } else { "" };
        for _ in 0..3 {
            let key = format!("{} {chain}", unique(EXTRACT));
            match self.with.snapshotter.prepare(cx, &key, parent, labels.clone()).await {
                Ok(mounts) => {
                    crate::step!("pull.after-prepare");
                    let whiteouts = self.parallel && n > 0;
                    let mounts = if whiteouts { as_upper(mounts) } else { mounts };
                    return Ok(Prepared::Active { key, mounts, labels });
                }
                // A remote snapshotter has the whole layer at hand.
                Err(error) if error.is(Class::AlreadyExists) => {
                    if self.committed(chain).await?.is_some() {
                        return Ok(Prepared::Present { remote: true });
                    }
                }
                Err(error) => {
                    return Err(error.context(format!("failed to prepare extraction snapshot {key:?}")));
                }
            }
        }
        Err(Error::exists(format!("unable to prepare extraction snapshot for {chain}")))
    }

    /// Starts to fetch and unpack a layer.
    fn start(self: &Arc<Self>, n: usize, mounts: &[Mount], key: &str) -> JoinHandle<Result<Usage>> {
        let (this, mounts, key) = (self.clone(), mounts.to_vec(), key.to_owned());
        tokio::spawn(async move { this.stopping(this.measured_layer(n, mounts, &key).await) })
    }

    /// Measures a layer as soon as it is there, while others are still on their way.
    async fn measured_layer(&self, n: usize, mounts: Vec<Mount>, key: &str) -> Result<Usage> {
        self.layer(n, mounts.clone()).await?;
        let usage = self.with.snapshotter.usage(&self.blobs.job.cx, key).await?;
        if usage.size > EARLY_SYNC && self.layers.len() > 1 {
            self.sync_early(mounts);
        }
        Ok(usage)
    }

    /// Has the disk busy while the network still is: what is written back now need not be waited for at the end.
    fn sync_early(&self, mounts: Vec<Mount>) {
        if self.syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        let syncing = self.syncing.clone();
        tokio::task::spawn_blocking(move || {
            // The sync before the commits is the one that counts, and that tells errors.
            let _ = mount::sync(&mounts);
            syncing.store(false, Ordering::Release);
        });
    }

    async fn layer(&self, n: usize, mounts: Vec<Mount>) -> Result<()> {
        let job = &self.blobs.job;
        let _permit = job.unless_canceled(self.at_once.acquire()).await?;
        let _thread = job.unless_canceled(job.local.unpacking.acquire()).await?;
        let (layer, diff_id) = (&self.layers[n], &self.diff_ids[n]);
        let tee = Tee {
            start: Box::new(|pipe| self.unpack_stream(layer, mounts.clone(), pipe)),
            diff_id: diff_id.clone(),
        };
        if self.blobs.blob(layer, Some(tee)).await? == Got::Stored {
            self.blobs.tracker.extracting(layer, 0);
            let got = self.unpack_stored(layer, &mounts).await.map_err(|e| {
                e.context(format!("failed to extract layer ({} {})", layer.media_type, layer.digest))
            })?;
            if got != *diff_id {
                return Err(wrong_diff_id(&got, diff_id, &layer.digest));
            }
            let label = (media::LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string());
            self.blobs.add_labels(&layer.digest, Labels::from([label])).await?;
            crate::step!("pull.after-apply");
        }
        self.blobs.tracker.extracted(layer);
        Ok(())
    }

    fn unpack_stream(
        &self,
        layer: &Descriptor,
        mounts: Vec<Mount>,
        mut pipe: Pipe,
    ) -> BoxFuture<'static, Result<Applied>> {
        let (differs, media_type) = (self.with.differs.clone(), layer.media_type.clone());
        on_thread("unpack", move || {
            let mut last = no_differ(&media_type);
            for differ in &differs {
                match differ.apply_stream(&media_type, &mut pipe, &mounts) {
                    Err(error) if error.is(Class::Unimplemented) && !pipe.touched => last = error,
                    other => return other,
                }
            }
            Err(last)
        })
        .boxed()
    }

    async fn unpack_stored(&self, layer: &Descriptor, mounts: &[Mount]) -> Result<Digest> {
        let mut last = no_differ(&layer.media_type);
        for differ in &self.with.differs {
            match differ.apply(&self.blobs.job.cx, layer, mounts, ApplyOptions::default()).await {
                Err(error) if error.is(Class::Unimplemented) => last = error,
                other => return Ok(other?.digest),
            }
        }
        Err(last)
    }

    /// Waits for layers in order and commits them: all at once at the end, or those that are done as soon as another
    /// transfer waits for one of them.
    async fn commit_all(&self, pending: &mut Vec<Pending>) -> Result<()> {
        let mut done = 0;
        while done < pending.len() {
            let (ready, rest) = pending.split_at_mut(done);
            let wanted = async {
                if ready.is_empty() {
                    std::future::pending::<()>().await;
                }
                select_all(ready.iter().map(|p| Box::pin(p.guard.wanted()))).await;
            };
            let task = rest[0].task.as_mut().expect("layers behind the done ones have not been awaited");
            tokio::select! {
                outcome = task => {
                    // A handle that has answered must not be awaited again.
                    rest[0].task = None;
                    rest[0].usage = Some(joined(outcome)?);
                    done += 1;
                }
                () = wanted => {
                    self.commit(pending, done).await?;
                    done = 0;
                }
            }
        }
        self.commit(pending, done).await
    }

    /// Syncs what the first `count` layers wrote, then commits them in order.
    async fn commit(&self, pending: &mut Vec<Pending>, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.blobs.job.go_on()?;
        crate::step!("pull.before-sync");
        let mounts: Vec<Mount> = pending[..count].iter().flat_map(|p| p.mounts.clone()).collect();
        tokio::task::spawn_blocking(move || mount::sync(&mounts))
            .await
            .map_err(|e| Error::internal("sync of layers ended").with_source(e))??;
        crate::step!("pull.before-snapshot-commit");
        for _ in 0..count {
            let next = &pending[0];
            let options = CommitOptions {
                labels: next.labels.clone(),
                parent: next.parent.clone(),
                sync: Sync::Caller,
                usage: next.usage,
            };
            match self.with.snapshotter.commit(&self.blobs.job.cx, &next.chain, &next.key, options).await {
                Ok(()) => {
                    pending.remove(0);
                }
                Err(error) if error.is(Class::AlreadyExists) => {
                    let late = pending.remove(0);
                    self.remove(&late.key).await;
                }
                Err(error) => {
                    return Err(
                        error.context(format!("failed to commit snapshot of layer {}", next.layer.digest))
                    );
                }
            }
            crate::step!("pull.after-snapshot-commit");
        }
        Ok(())
    }

    async fn remove(&self, key: &str) {
        match self.with.snapshotter.remove(&self.blobs.job.cx, key).await {
            Err(error) if !error.is_not_found() => {
                tracing::error!(%key, error = %error.chain(), "extraction snapshot is left over");
            }
            _ => {}
        }
    }
}

fn no_differ(media_type: &str) -> Error {
    Error::unimplemented(format!("no differ unpacks media type {media_type:?}"))
}

fn joined<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|e| Error::internal("a layer's task ended").with_source(e))?
}

/// Keeps the error that says most: cancellations follow from others.
fn keep(first: &mut Option<Error>, next: Result<()>) {
    if let Err(error) = next
        && first.as_ref().is_none_or(|f| f.is(Class::Canceled))
    {
        *first = Some(error);
    }
}

/// A layer unpacked without its parents is still an upper one: its whiteouts are kept for the parents that it gets at
/// commit. A bind mount of its directory becomes an overlay with nothing but that upper directory, which is how
/// differs know.
fn as_upper(mounts: Vec<Mount>) -> Vec<Mount> {
    match mounts.as_slice() {
        [m] if m.is_bind() => {
            let mut options: Vec<String> =
                m.options.iter().filter(|o| !matches!(o.as_str(), "rbind" | "bind")).cloned().collect();
            options.push(format!("upperdir={}", m.source));
            vec![Mount {
                kind: "overlay".into(),
                source: "overlay".into(),
                target: m.target.clone(),
                options,
            }]
        }
        _ => mounts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_become_upper_directories() {
        let bind = Mount {
            kind: "bind".into(),
            source: "/s/1/fs".into(),
            target: String::new(),
            options: vec!["rw".into(), "rbind".into()],
        };
        let upper = as_upper(vec![bind]);
        assert_eq!(upper[0].options, ["rw", "upperdir=/s/1/fs"]);
        assert_eq!(upper[0].writes_to(), Some("/s/1/fs"));
        let two = vec![Mount::default(), Mount::default()];
        assert_eq!(as_upper(two.clone()), two);
    }
}
