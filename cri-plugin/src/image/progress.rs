//! Whether a pull gets anywhere: it is stalled when something is wanted from the registry and nothing comes.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::transfer::{Progress, ProgressSink};

/// Watches the progress of one pull.
pub struct Watch(Mutex<State>);

struct State {
    /// When something came last.
    last: Instant,
    /// Before the image is resolved, the registry is asked too.
    resolving: bool,
    /// What has been asked for and is not there.
    open: HashSet<String>,
}

impl Watch {
    pub fn new() -> Self {
        Self(Mutex::new(State { last: Instant::now(), resolving: true, open: HashSet::new() }))
    }

    /// Ends once nothing has come for `limit`; never without one.
    pub async fn stalled(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let due = {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if !state.resolving && state.open.is_empty() {
                    // Unpacking and syncing take the time they take.
                    state.last = Instant::now();
                }
                state.last + limit
            };
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl ProgressSink for Watch {
    fn progress(&self, line: Progress) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = Instant::now();
        match line.event.as_str() {
            "fetching image content" => state.resolving = false,
            "waiting" | "downloading" => _ = state.open.insert(line.name),
            "complete" | "already exists" | "extracting" | "extracted" => _ = state.open.remove(&line.name),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn line(event: &str, name: &str) -> Progress {
        Progress { event: event.into(), name: name.into(), ..Progress::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_stall_while_something_is_wanted() {
        let watch = Arc::new(Watch::new());
        let limit = Duration::from_secs(300);
        let start = Instant::now();
        // Nothing but silence from the registry.
        watch.stalled(Some(limit)).await;
        assert_eq!(start.elapsed(), limit);

        watch.progress(line("fetching image content", "image"));
        watch.progress(line("waiting", "layer"));
        let stalled = tokio::spawn({
            let watch = watch.clone();
            async move { watch.stalled(Some(limit)).await }
        });
        for _ in 0..10 {
            tokio::time::sleep(limit / 2).await;
            assert!(!stalled.is_finished());
            watch.progress(line("downloading", "layer"));
        }
        // All is there: what is left may take as long as it likes.
        watch.progress(line("complete", "layer"));
        tokio::time::sleep(limit * 10).await;
        assert!(!stalled.is_finished());
        watch.progress(line("waiting", "another"));
        let begun = Instant::now();
        stalled.await.unwrap();
        assert!(begun.elapsed() >= limit);
    }
}
