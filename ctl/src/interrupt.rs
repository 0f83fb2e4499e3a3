//! Ctrl-C while the daemon is at work: the first lets what was begun come to an end, so that it can be cleared away; the
//! second does not wait.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::Interrupted;

/// How long what was begun may take after an interrupt.
const GRACE: Duration = Duration::from_secs(5);

/// The result of `work`; [`Interrupted`] where the person asked for the end meanwhile, whatever came of it. The caller
/// clears away.
pub async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupts = signal(SignalKind::interrupt()).context("handle signals")?;
    let mut ends = signal(SignalKind::terminate()).context("handle signals")?;
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        _ = interrupts.recv() => {}
        _ = ends.recv() => {}
    }
    tokio::select! {
        // Its error would say no more than that it did not come to its end.
        _ = &mut work => {}
        _ = interrupts.recv() => {}
        _ = ends.recv() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    Err(Interrupted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ends_by_itself_is_answered() {
        assert_eq!(unless_interrupted(async { Ok(5) }).await.unwrap(), 5);
        let failed: Result<()> = unless_interrupted(async { anyhow::bail!("no") }).await;
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
