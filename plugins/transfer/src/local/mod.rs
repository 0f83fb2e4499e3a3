//! The transferrer `io.containerd.transfer.v1.local`: one module per pair of source and destination.
//!
//! Every transfer runs in a task of its own. When its caller goes away it is told so, stops at the next step, takes
//! back what it had begun and keeps what can be resumed.

mod annotate;
mod blobs;
mod export;
mod import;
mod lease;
mod made;
mod pull;
mod push;
mod records;
pub mod recover;
mod unpack;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use windlass_core::diff::Differ;
use windlass_core::image::{self, Image};
use windlass_core::transfer::{
    ByteSink, ByteSource, Destination, Fetching, ImageStore, ProgressSink, Registry, Source, Transferrer,
};
use windlass_core::{Context, Error, Result, content, lease as core_lease, snapshot};

use crate::config::{Config, MAX_CONCURRENT};
use crate::locks::Locks;
use crate::registry::{self, Limits};

pub use unpack::Unpacker;

/// Layers unpacked at once by all transfers together. Far more than make sense, so that many that hang hold up nobody.
const MAX_UNPACKING: usize = 256;

/// What the transferrer works with.
pub struct Parts {
    pub content: Arc<dyn content::Store>,
    pub images: Arc<dyn image::Store>,
    pub leases: Arc<dyn core_lease::Manager>,
    /// What can be unpacked where, in order of preference.
    pub unpackers: Vec<Arc<Unpacker>>,
    /// Differs for snapshotters that a client names and the configuration does not.
    pub differs: Vec<Arc<dyn Differ>>,
    /// Snapshotters by id.
    pub snapshotters: Snapshotters,
}

/// Finds a snapshotter.
pub type Snapshotters = Box<dyn Fn(&str) -> Option<snapshot::Shared> + Send + Sync>;

/// The transferrer.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

pub(crate) struct Inner {
    parts: Parts,
    config: Config,
    limits: Limits,
    /// Blobs that are being fetched, by digest: asked for twice, fetched once.
    blobs: Arc<Locks>,
    /// Layers that are being unpacked by all transfers together: each has a thread.
    unpacking: Arc<Semaphore>,
    /// Snapshots that are being made, by namespace, snapshotter and chain id.
    chains: Arc<Locks>,
}

/// What one transfer carries around.
#[derive(Clone)]
struct Job {
    local: Arc<Inner>,
    cx: Context,
    progress: Arc<dyn ProgressSink>,
    cancel: CancellationToken,
}

impl Job {
    /// *Canceled* once the caller has gone.
    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(canceled()) } else { Ok(()) }
    }

    /// Waits, unless the caller goes.
    async fn unless_canceled<T>(&self, wait: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(canceled()),
            done = wait => Ok(done),
        }
    }
}

/// Runs `work` on a thread of its own: what waits for a network or a client must not fill the pool that the stores
/// do their file work in.
fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send + 'static {
    let (sender, outcome) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _entered = runtime.enter();
        let _ = sender.send(work());
    });
    let failed = format!("thread {name}");
    async move {
        started.map_err(|e| Error::io(format!("start {failed}"), e))?;
        outcome.await.map_err(|e| Error::internal(format!("{failed} ended early")).with_source(e))?
    }
}

fn canceled() -> Error {
    Error::canceled("transfer canceled: its client has gone")
}

impl Local {
    pub fn new(parts: Parts, config: Config) -> Self {
        Self::with_limits(parts, config, Limits::default())
    }

    /// With other time limits towards registries.
    pub fn with_limits(parts: Parts, config: Config, limits: Limits) -> Self {
        let (blobs, chains) = Default::default();
        let unpacking = Arc::new(Semaphore::new(MAX_UNPACKING));
        Self(Arc::new(Inner { parts, config, limits, blobs, unpacking, chains }))
    }
}

impl Inner {
    fn client(&self, registry: &Registry, fetching: Fetching) -> Result<Arc<registry::Client>> {
        let options = registry::Options {
            host_dirs: self.config.config_path.clone(),
            limits: self.limits,
            fetches: self.downloads(fetching),
            range: match fetching.range {
                0 => self.config.concurrent_layer_fetch_buffer,
                range => range,
            },
        };
        Ok(Arc::new(registry::Client::new(registry, &options)?))
    }

    /// Blobs fetched at once.
    fn downloads(&self, fetching: Fetching) -> usize {
        match fetching.at_once {
            0 => self.config.downloads(),
            n => n.min(MAX_CONCURRENT),
        }
    }

    /// Layers unpacked at once: where nothing else is configured, as many as are fetched.
    fn unpacks(&self, fetching: Fetching) -> usize {
        match self.config.max_concurrent_unpacks {
            0 => self.downloads(fetching),
            _ => self.config.unpacks(),
        }
    }
}

/// Cancels when it is dropped: the caller's side of a running transfer.
struct Watch(CancellationToken);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[async_trait]
impl Transferrer for Local {
    async fn transfer(
        &self,
        cx: &Context,
        source: Source,
        destination: Destination,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Vec<Image>> {
        let cancel = CancellationToken::new();
        let _watch = Watch(cancel.clone());
        let job = Job { local: self.0.clone(), cx: cx.clone(), progress, cancel };
        let task = tokio::spawn(run(job, source, destination));
        task.await.map_err(|e| Error::internal("transfer ended unexpectedly").with_source(e))?
    }
}

async fn run(job: Job, source: Source, destination: Destination) -> Result<Vec<Image>> {
    match (source, destination) {
        (Source::Registry(from), Destination::ImageStore(to)) => pull::pull(job, from, to).await,
        (Source::ImageStore(from), Destination::Registry(to)) => push::push(job, from, to).await,
        (Source::Archive { media_type, force_compress, bytes }, Destination::ImageStore(to)) => {
            import::import(job, media_type, force_compress, bytes, to).await
        }
        (Source::ImageStore(from), Destination::Archive { options, bytes }) => {
            export::export(job, from, options, bytes).await
        }
        (Source::ImageStore(from), Destination::ImageStore(to)) => tag(job, from, to).await,
        (Source::Archive { bytes: from, .. }, Destination::Archive { bytes: to, .. }) => {
            echo(job, from, to).await
        }
        (Source::Registry(_), _) | (Source::Archive { .. }, Destination::Registry(_)) => {
            Err(Error::unimplemented("unable to transfer from this source to this destination"))
        }
    }
}

async fn tag(job: Job, from: ImageStore, to: ImageStore) -> Result<Vec<Image>> {
    lease::under(job, async |job| {
        let image = job.local.parts.images.get(&job.cx, &from.name).await?;
        records::store(&job, &to, image.target).await
    })
    .await
}

/// An archive that goes back as it came.
async fn echo(job: Job, mut from: Box<dyn ByteSource>, mut to: Box<dyn ByteSink>) -> Result<Vec<Image>> {
    while let Some(data) = job.unless_canceled(from.next()).await?? {
        job.unless_canceled(to.send(data)).await??;
    }
    to.finish().await?;
    Ok(Vec::new())
}
