//! What is kept between two requests: a little with each container and pod, which goes when they go.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use windlass_core::snapshot::Usage;

use super::cgroup::Group;
use super::rate::{Rate, Window};

/// Kept with a container or a pod.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    place: Place,
    rate: Rate,
    layer: Option<Layer>,
}

/// Where its control group is.
#[derive(Clone, Debug, Default)]
pub enum Place {
    #[default]
    Unknown,
    /// What its specification calls it.
    Named(Arc<str>),
    Found(Arc<Group>),
}

/// What its writable layer took up.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub usage: Usage,
    pub at: SystemTime,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds what is kept")
    }

    pub fn place(&self) -> Place {
        self.lock().place.clone()
    }

    pub fn set_place(&self, place: Place) {
        self.lock().place = place;
    }

    /// See [`Rate::take`]; `began` for what began a short while ago.
    pub fn rate(&self, at: Instant, usage: u64, window: Window, began: Option<Instant>) -> Option<u64> {
        let mut inner = self.lock();
        if let Some(began) = began {
            inner.rate.begin(began);
        }
        inner.rate.take(at, usage, window)
    }

    pub fn layer(&self) -> Option<Layer> {
        self.lock().layer
    }

    pub fn set_layer(&self, layer: Option<Layer>) {
        self.lock().layer = layer;
    }
}
