//! Garbage collection: who runs it and what a run did.

use std::time::Duration;

use async_trait::async_trait;

use crate::Result;

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub elapsed: Duration,
    /// Time that writers were held up.
    pub paused: Duration,
    pub removed: u64,
}

/// Marks and sweeps.
#[async_trait]
pub trait Collector: Send + Sync {
    /// Removes all that nothing refers to. Writers wait for one batch at most.
    async fn collect(&self) -> Result<Stats>;
    /// Calls `observer` after every mutation, with whether it was a deletion that may have left garbage.
    fn on_mutation(&self, observer: Box<dyn Fn(bool) + Send + Sync>);
}

/// Decides when to collect.
#[async_trait]
pub trait Scheduler: Send + Sync {
    /// Collects now and answers when done (`sync` of image and lease deletion).
    async fn collect_now(&self) -> Result<Stats>;
}
