//! Locks by name, so that only those wait for each other who work on the same thing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A name: the kind of thing, and which.
pub(crate) type Name = (&'static str, String);

type Held = HashMap<Name, Arc<AsyncMutex<()>>>;

/// One lock per name, kept only while somebody has or wants it.
#[derive(Clone, Default)]
pub(crate) struct Locks(Arc<Mutex<Held>>);

/// Held until dropped.
pub(crate) struct Guard {
    locks: Locks,
    name: Name,
    lock: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("the locks are changed without panics")
    }

    fn named(&self, name: &Name) -> Arc<AsyncMutex<()>> {
        self.held().entry(name.clone()).or_default().clone()
    }

    /// Waits for the lock.
    pub(crate) async fn lock(&self, name: Name) -> Guard {
        // The guard is there before the wait, so that a caller who gives up leaves no entry behind.
        let mut guard = Guard { locks: self.clone(), name, lock: None };
        let lock = self.named(&guard.name);
        guard.lock = Some(lock.lock_owned().await);
        guard
    }

    /// Waits for several, in an order that all share.
    pub(crate) async fn lock_all(&self, names: impl IntoIterator<Item = Name>) -> Vec<Guard> {
        let mut guards = Vec::new();
        for name in BTreeSet::from_iter(names) {
            guards.push(self.lock(name).await);
        }
        guards
    }

    /// The lock where nobody has it.
    pub(crate) fn try_lock(&self, name: Name) -> Option<Guard> {
        let lock = self.named(&name).try_lock_owned().ok()?;
        Some(Guard { locks: self.clone(), name, lock: Some(lock) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        self.lock = None;
        if held.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            held.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        ("test", text.to_owned())
    }

    #[tokio::test]
    async fn equal_names_exclude_each_other_and_leave_nothing() {
        let locks = Locks::default();
        let first = locks.lock(name("a")).await;
        assert!(locks.try_lock(name("a")).is_none());
        assert!(locks.try_lock(name("b")).is_some());
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock(name("a")).await) }
        });
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), locks.lock(name("a"))).await;
        assert!(given_up.is_err());
        drop(first);
        waiting.await.unwrap();
        let both = locks.lock_all([name("b"), name("a"), name("b")]).await;
        assert_eq!(both.len(), 2);
        drop(both);
        assert!(locks.held().is_empty());
    }
}
