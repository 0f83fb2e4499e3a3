//! Work that may block, a bounded amount of it at a time.

use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Threads that one kind of blocking work may occupy.
const WIDTH: usize = 16;

/// Two lanes, because an unmount may hang (a network file system) and must not keep others from being created.
pub struct Pool {
    starts: Semaphore,
    ends: Semaphore,
}

impl Pool {
    pub fn new() -> Self {
        Self { starts: Semaphore::new(WIDTH), ends: Semaphore::new(WIDTH) }
    }

    /// Making bundles and starting binaries.
    pub async fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run(&self.starts, work).await
    }

    /// Unmounting and removing.
    pub async fn end<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run(&self.ends, work).await
    }
}

async fn run<T: Send + 'static>(
    lane: &Semaphore,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let _permit = lane.acquire().await.expect("the lanes are never closed");
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cut("blocking work"))?
}
