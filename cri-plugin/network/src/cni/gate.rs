//! Who may call plugins: one operation at a time for a pod, any number of pods, and a sweep all alone, as CNI asks for.
//!
//! A sweep waits until it is quiet and keeps nobody waiting until then: a plugin that hangs hurts its own pod only.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pods: HashSet<String>,
    sweeping: bool,
}

/// The right to work on a pod, or on all; it ends when dropped.
pub struct Turn<'a> {
    gate: &'a Gate,
    /// None for a sweep.
    pod: Option<&'a str>,
}

impl Gate {
    pub async fn enter<'a>(&'a self, pod: &'a str) -> Turn<'a> {
        self.wait(|state| {
            !state.sweeping && (!state.pods.contains(pod) && state.pods.insert(pod.to_owned()))
        })
        .await;
        Turn { gate: self, pod: Some(pod) }
    }

    pub async fn sweep(&self) -> Turn<'_> {
        self.wait(|state| {
            let quiet = state.pods.is_empty() && !state.sweeping;
            state.sweeping |= quiet;
            quiet
        })
        .await;
        Turn { gate: self, pod: None }
    }

    async fn wait(&self, mut admit: impl FnMut(&mut State) -> bool) {
        loop {
            // Registered before the look, so that no change is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if admit(&mut self.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        match self.pod {
            Some(pod) => {
                state.pods.remove(pod);
            }
            None => state.sweeping = false,
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Waker};

    fn ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn one_turn_for_a_pod_and_a_sweep_alone() {
        let gate = Gate::default();
        let a = ready(std::pin::pin!(gate.enter("a"))).unwrap();
        let b = ready(std::pin::pin!(gate.enter("b"))).unwrap();
        let mut again = std::pin::pin!(gate.enter("a"));
        let mut sweep = std::pin::pin!(gate.sweep());
        assert!(ready(again.as_mut()).is_none() && ready(sweep.as_mut()).is_none());
        drop(a);
        let again = ready(again.as_mut()).unwrap();
        assert!(ready(sweep.as_mut()).is_none());
        // A waiting sweep keeps nobody out.
        drop(ready(std::pin::pin!(gate.enter("c"))).unwrap());
        drop((again, b));
        let sweeping = ready(sweep.as_mut()).unwrap();
        let mut late = std::pin::pin!(gate.enter("d"));
        assert!(ready(late.as_mut()).is_none());
        drop(sweeping);
        assert!(ready(late.as_mut()).is_some());
    }
}
