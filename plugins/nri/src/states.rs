//! Where pods and containers are, as far as plugins have been told, so that nobody is told twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Created,
    Running,
    Stopped,
}

/// By id of pod or container. What is not there has been removed, or was never told of.
#[derive(Default)]
pub struct States(Mutex<HashMap<String, Life>>);

impl States {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that there is.
    pub fn reset(&self, all: impl Iterator<Item = (String, Life)>) {
        *self.all() = all.collect();
    }

    pub fn set(&self, id: &str, life: Life) {
        self.all().insert(id.to_owned(), life);
    }

    /// Whether its stop is to be told; it is stopped then.
    pub fn stop(&self, id: &str) -> bool {
        match self.all().get_mut(id) {
            Some(life) if *life != Life::Stopped => {
                *life = Life::Stopped;
                true
            }
            _ => false,
        }
    }

    /// Whether its removal is to be told; it is gone then.
    pub fn remove(&self, id: &str) -> bool {
        self.all().remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_once() {
        let states = States::default();
        assert!(!states.stop("a") && !states.remove("a"));
        for life in [Life::Created, Life::Running] {
            states.set("a", life);
            assert!(states.stop("a") && !states.stop("a"));
            assert!(states.remove("a") && !states.remove("a"));
        }
        states.set("b", Life::Running);
        states.reset([("c".to_owned(), Life::Stopped)].into_iter());
        assert!(!states.remove("b") && !states.stop("c") && states.remove("c"));
    }
}
