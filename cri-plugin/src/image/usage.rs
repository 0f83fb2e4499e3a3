//! What snapshots take up, measured when somebody asks and then good for a while. Committed snapshots do not change: each
//! is asked for once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use windlass_api::cri;
use windlass_core::snapshot::{Kind, Usage};
use windlass_core::{Error, Filters, Result, snapshot};

use super::Images;

/// Snapshots measured at once.
const AT_ONCE: usize = 16;
/// Figures are served again for at least so long, whatever the configuration says.
const MIN_PERIOD: Duration = Duration::from_secs(1);

/// Longest wait for one snapshotter: one that hangs holds up nobody who can do without it.
const LIMIT: Duration = Duration::from_secs(30);

/// The figures of all snapshotters, by id.
#[derive(Default)]
pub struct Figures {
    of: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Figure>>>>,
    hasher: RandomState,
}

/// One snapshotter's.
#[derive(Default)]
struct Figure {
    measured: Option<(Instant, SystemTime)>,
    /// By a hash of the name: names are long, and there are many.
    committed: HashMap<u64, Usage>,
    /// Those that containers write to, by key.
    active: HashMap<String, Usage>,
    all: Usage,
    written: Usage,
}

impl Figure {
    fn at(&self) -> SystemTime {
        self.measured.map_or(UNIX_EPOCH, |(_, at)| at)
    }
}

impl Images {
    /// What images and containers take up where. The default snapshotter comes first: the kubelet reads no further.
    pub async fn fs_info(&self) -> Result<cri::ImageFsInfoResponse> {
        let mut ids = vec![self.config.snapshotter.as_str()];
        for platform in self.config.runtime_platforms.values() {
            let id = platform.snapshotter.as_str();
            if !id.is_empty() && !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut response = cri::ImageFsInfoResponse::default();
        for id in ids {
            let figure = match self.figure(id).await {
                Ok(figure) => figure,
                Err(error) if id == self.config.snapshotter => return Err(error),
                Err(error) => {
                    tracing::warn!(snapshotter = %id, error = %error.chain(), "cannot tell what snapshots take up");
                    continue;
                }
            };
            let place = self.roots.get(id).map_or(Path::new(""), |root| root.as_path());
            response.image_filesystems.push(usage(figure.at(), place, figure.all));
            response.container_filesystems.push(usage(figure.at(), place, figure.written));
        }
        Ok(response)
    }

    /// What a container's snapshot takes up, and when that was measured; `None` for one that is not there.
    pub async fn written(&self, snapshotter: Option<&str>, key: &str) -> Result<Option<(Usage, SystemTime)>> {
        let id = snapshotter.filter(|s| !s.is_empty()).unwrap_or(&self.config.snapshotter);
        let figure = self.figure(id).await?;
        Ok(figure.active.get(key).map(|usage| (*usage, figure.at())))
    }

    /// Where a snapshotter keeps its files, the default one for an empty name; `None` where it does not tell.
    pub fn place(&self, snapshotter: &str) -> Option<&Path> {
        let id = if snapshotter.is_empty() { &self.config.snapshotter } else { snapshotter };
        self.roots.get(id).map(|root| root.as_path())
    }

    /// A snapshotter's figures, measured again where they are too old; whoever asks meanwhile waits for the same ones.
    /// Where that fails, old ones are better than none.
    async fn figure(&self, id: &str) -> Result<OwnedMutexGuard<Figure>> {
        let snapshotter = self.snapshotter(id)?;
        let figure = {
            let mut figures = self.usage.of.lock().unwrap_or_else(PoisonError::into_inner);
            figures.entry(id.to_owned()).or_default().clone()
        };
        let mut figure = figure.lock_owned().await;
        let measured = tokio::time::timeout(LIMIT, self.measure(&snapshotter, &mut figure)).await;
        let measured = measured
            .map_err(|_| Error::deadline(format!("measuring snapshots of {id:?} took longer than {LIMIT:?}")))
            .flatten();
        match measured {
            Err(error) if figure.measured.is_none() => Err(error),
            Err(error) => {
                tracing::warn!(snapshotter = %id, error = %error.chain(), "cannot measure snapshots: old figures are told");
                Ok(figure)
            }
            Ok(()) => Ok(figure),
        }
    }

    async fn measure(&self, snapshotter: &snapshot::Shared, figure: &mut Figure) -> Result<()> {
        let period = self.config.stats_period().max(MIN_PERIOD);
        if figure.measured.is_some_and(|(at, _)| at.elapsed() < period) {
            return Ok(());
        }
        let mut next = Figure::default();
        let mut ask = Vec::new();
        let mut list = snapshotter.list(&self.cx, &Filters::all());
        while let Some(info) = list.next().await {
            let info = info?;
            let hash = self.usage.hasher.hash_one(&info.name);
            match (info.kind, figure.committed.get(&hash)) {
                (Kind::Committed, Some(known)) => {
                    next.all += *known;
                    next.committed.insert(hash, *known);
                }
                (kind, _) => ask.push((kind, hash, info.name)),
            }
        }
        drop(list);
        let asked = futures::stream::iter(ask)
            .map(async |(kind, hash, name)| (kind, hash, snapshotter.usage(&self.cx, &name).await, name));
        let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
        while let Some((kind, hash, usage, name)) = asked.next().await {
            let usage = match usage {
                Ok(usage) => usage,
                // Gone in between, or not to be measured: no reason to tell nothing of the others.
                Err(error) => {
                    if !error.is_not_found() {
                        tracing::warn!(snapshot = %name, error = %error.chain(), "cannot measure a snapshot");
                    }
                    continue;
                }
            };
            next.all += usage;
            match kind {
                Kind::Committed => _ = next.committed.insert(hash, usage),
                Kind::Active => {
                    next.written += usage;
                    next.active.insert(name, usage);
                }
                Kind::View => {}
            }
        }
        next.measured = Some((Instant::now(), SystemTime::now()));
        *figure = next;
        Ok(())
    }
}

fn usage(at: SystemTime, place: &Path, usage: Usage) -> cri::FilesystemUsage {
    let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    cri::FilesystemUsage {
        timestamp: i64::try_from(nanos).unwrap_or(i64::MAX),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: place.to_string_lossy().into_owned() }),
        used_bytes: Some(cri::UInt64Value { value: usage.size }),
        inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
    }
}
