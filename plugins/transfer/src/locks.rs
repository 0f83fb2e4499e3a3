//! Locks by name: what several transfers want is made once, and the others wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedMutexGuard};

/// Locks that exist while somebody holds or awaits them.
#[derive(Default)]
pub struct Locks {
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

#[derive(Default)]
struct Entry {
    lock: Arc<tokio::sync::Mutex<()>>,
    wanted: Notify,
}

/// Holds a name until it is dropped.
pub struct Guard {
    locks: Arc<Locks>,
    name: String,
    entry: Arc<Entry>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    pub async fn lock(self: &Arc<Self>, name: String) -> Guard {
        let entry =
            self.entries.lock().expect("no panic under this lock").entry(name.clone()).or_default().clone();
        // Made before the wait, so that an abandoned wait leaves no entry behind either.
        let mut guard = Guard { locks: self.clone(), name, entry: entry.clone(), held: None };
        guard.held = Some(match entry.lock.clone().try_lock_owned() {
            Ok(held) => held,
            Err(_) => {
                entry.wanted.notify_one();
                entry.lock.clone().lock_owned().await
            }
        });
        guard
    }
}

impl Guard {
    /// Waits until somebody else wants this name.
    pub async fn wanted(&self) {
        self.entry.wanted.notified().await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.held = None;
        let mut entries = self.locks.entries.lock().expect("no panic under this lock");
        // Two: the map's own and this one.
        if Arc::strong_count(&self.entry) == 2 {
            entries.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_held_once_and_forgotten() {
        let locks = Arc::new(Locks::default());
        let first = locks.lock("a".into()).await;
        let other = locks.lock("b".into()).await;
        let second = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock("a".into()).await) }
        });
        first.wanted().await;
        assert!(!second.is_finished());
        drop((first, other));
        second.await.unwrap();
        assert!(locks.entries.lock().unwrap().is_empty());
    }
}
