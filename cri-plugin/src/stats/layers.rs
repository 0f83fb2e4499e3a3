//! What containers have written, measured beside the requests: measuring walks directories, and nobody waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use windlass_api::cri;

use super::figures::value;
use super::kept::Layer;
use crate::cri::Cri;
use crate::state::Container;
use crate::state::record::nanos;

/// Layers are not measured more often, whatever the configuration says.
const MIN_PERIOD: Duration = Duration::from_secs(1);

/// When layers were measured.
#[derive(Debug, Default)]
pub struct Layers {
    measuring: AtomicBool,
    last: Mutex<Option<Instant>>,
}

/// Somebody measures, as long as this lives.
struct Turn(Arc<Cri>);

impl Drop for Turn {
    fn drop(&mut self) {
        let layers = &self.0.figures.layers;
        *layers.last.lock().expect("nothing panics while it holds a time") = Some(Instant::now());
        layers.measuring.store(false, Ordering::Release);
    }
}

impl Layers {
    /// Whether it is time, and nobody else's turn.
    fn take_turn(&self, period: Duration) -> bool {
        let last = *self.last.lock().expect("nothing panics while it holds a time");
        last.is_none_or(|last| last.elapsed() >= period) && !self.measuring.swap(true, Ordering::AcqRel)
    }
}

impl Cri {
    /// Begins to measure all containers' layers where that was not done lately; returns at once.
    pub(super) fn measure_layers(self: &Arc<Self>) {
        if !self.figures.layers.take_turn(self.images.config().stats_period().max(MIN_PERIOD)) {
            return;
        }
        let turn = Turn(self.clone());
        tokio::spawn(async move { turn.measure().await });
    }

    /// A container's writable layer as CRI tells it: what it took up when it was last measured. Without a size as long as
    /// it never was.
    pub(super) fn layer(&self, container: &Container, now: i64) -> Option<cri::FilesystemUsage> {
        let place = self.images.place(&container.record.snapshotter);
        let layer = container.kept.layer();
        if place.is_none() && layer.is_none() {
            return None;
        }
        Some(cri::FilesystemUsage {
            timestamp: layer.map_or(now, |layer| nanos(layer.at)),
            fs_id: place
                .map(|place| cri::FilesystemIdentifier { mountpoint: place.to_string_lossy().into_owned() }),
            used_bytes: layer.and_then(|layer| value(layer.usage.size)),
            inodes_used: layer.and_then(|layer| value(layer.usage.inodes)),
        })
    }
}

impl Turn {
    /// The images measure all layers of a snapshotter when the first is asked for; the others are looked up.
    async fn measure(&self) {
        let mut failed = HashMap::new();
        for container in self.0.state.containers.all() {
            let snapshotter = container.record.snapshotter.as_str();
            if failed.contains_key(snapshotter) {
                continue;
            }
            match self.0.images.written(Some(snapshotter), &container.id).await {
                Ok(written) => {
                    let layer = written.map(|(usage, at): (_, SystemTime)| Layer { usage, at });
                    container.kept.set_layer(layer);
                }
                Err(error) => {
                    tracing::warn!(%snapshotter, error = %error.chain(), "cannot tell what containers have written");
                    failed.insert(snapshotter.to_owned(), ());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_measures_at_a_time_and_not_too_often() {
        let layers = Layers::default();
        let hour = Duration::from_secs(3600);
        assert!(layers.take_turn(hour));
        assert!(!layers.take_turn(Duration::ZERO), "somebody measures");
        *layers.last.lock().unwrap() = Some(Instant::now());
        layers.measuring.store(false, Ordering::Release);
        assert!(!layers.take_turn(hour), "it was done just now");
        assert!(layers.take_turn(Duration::ZERO));
    }
}
