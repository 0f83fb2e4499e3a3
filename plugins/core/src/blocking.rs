//! Work that blocks, kept off the threads that must not.

use crate::{Error, Result};

/// Runs work on files on the pool of threads that may block. It goes on to its end even if nobody waits any more.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("work on files ended early").with_source(error))?
}
