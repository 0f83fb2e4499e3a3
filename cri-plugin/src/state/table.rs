//! Entries by id, with names that are taken once.
//!
//! A name is reserved before anything is made under it. A caller that finds its name reserved by a creation that is still
//! under way waits for that one's outcome instead of failing: a client that timed out and asks again gets what its first
//! call made.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use windlass_core::{Error, Result};

/// Something with an id and a name.
pub trait Entry: Send + Sync + 'static {
    fn id(&self) -> &str;
    /// Unique while the entry is there: `name_namespace_uid_attempt` and the like.
    fn name(&self) -> &str;
}

struct Inner<T> {
    /// Ordered, so that prefixes can be looked up.
    entries: BTreeMap<String, Arc<T>>,
    names: HashMap<String, Holder>,
}

enum Holder {
    /// Creation is under way; dropped when it ends.
    Pending(watch::Receiver<()>),
    Id(String),
}

/// Entries by id.
pub struct Table<T>(Arc<Mutex<Inner<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { entries: BTreeMap::new(), names: HashMap::new() })))
    }
}

/// A name held by a creation under way. Dropped without [`Reservation::fill`], the name is free again.
pub struct Reservation<T: Entry> {
    table: Table<T>,
    name: String,
    done: Option<watch::Sender<()>>,
    filled: bool,
}

/// What came of a wish for a name.
pub enum Reserved<T: Entry> {
    /// The caller creates.
    New(Reservation<T>),
    /// Somebody has created it already.
    Taken(Arc<T>),
}

impl<T: Entry> Table<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().expect("nothing panics while it holds the table")
    }

    /// The entry of an id or of a prefix of exactly one id. *Not found* otherwise, *invalid argument* where several fit.
    pub fn get(&self, id: &str) -> Result<Arc<T>> {
        let inner = self.lock();
        if let Some(entry) = inner.entries.get(id) {
            return Ok(entry.clone());
        }
        if id.is_empty() {
            return Err(Error::not_found("an empty id names nothing"));
        }
        let mut fitting = inner
            .entries
            .range::<str, _>((Bound::Included(id), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(id));
        match (fitting.next(), fitting.next()) {
            (Some((_, entry)), None) => Ok(entry.clone()),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("several ids begin with {id:?}; give more of it")))
            }
            (None, _) => Err(Error::not_found(format!("{id:?}: no such id"))),
        }
    }

    /// All entries by id.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().entries.values().cloned().collect()
    }

    /// Takes the name, or waits for the creation that holds it. Cancelled, it leaves nothing.
    pub async fn reserve(&self, name: &str) -> Reserved<T> {
        loop {
            let mut pending = {
                let mut inner = self.lock();
                match inner.names.get(name) {
                    None => {
                        let (done, wait) = watch::channel(());
                        inner.names.insert(name.to_owned(), Holder::Pending(wait));
                        return Reserved::New(Reservation {
                            table: Self(self.0.clone()),
                            name: name.to_owned(),
                            done: Some(done),
                            filled: false,
                        });
                    }
                    Some(Holder::Id(id)) => {
                        let entry = inner.entries.get(id).expect("a name's id has an entry");
                        return Reserved::Taken(entry.clone());
                    }
                    Some(Holder::Pending(wait)) => wait.clone(),
                }
            };
            // The sender is dropped when creation ends, either way.
            while pending.changed().await.is_ok() {}
        }
    }

    /// Puts in what a restart found in the records.
    pub fn restore(&self, entry: Arc<T>) {
        let mut inner = self.lock();
        inner.names.insert(entry.name().to_owned(), Holder::Id(entry.id().to_owned()));
        inner.entries.insert(entry.id().to_owned(), entry);
    }

    /// The same without a hold on its name, for what never became whole: it can be found by its id, to be removed.
    pub fn restore_nameless(&self, entry: Arc<T>) {
        self.lock().entries.insert(entry.id().to_owned(), entry);
    }

    /// Takes an entry out; its name is free again.
    pub fn remove(&self, id: &str) -> Option<Arc<T>> {
        let mut inner = self.lock();
        let entry = inner.entries.remove(id)?;
        if matches!(inner.names.get(entry.name()), Some(Holder::Id(holder)) if holder == id) {
            inner.names.remove(entry.name());
        }
        Some(entry)
    }
}

impl<T: Entry> Reservation<T> {
    /// The entry is made: its id is visible and its name holds.
    pub fn fill(mut self, entry: Arc<T>) {
        debug_assert_eq!(entry.name(), self.name);
        self.filled = true;
        self.table.restore(entry);
        self.done.take();
    }

    /// What could not be made whole, nor be undone, is visible by its id; the name is free for another try.
    pub fn give_up(self, entry: Arc<T>) {
        self.table.restore_nameless(entry);
    }
}

impl<T: Entry> Drop for Reservation<T> {
    fn drop(&mut self) {
        if !self.filled {
            self.table.lock().names.remove(&self.name);
        }
        self.done.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, &'static str);

    impl Entry for Thing {
        fn id(&self) -> &str {
            self.0
        }
        fn name(&self) -> &str {
            self.1
        }
    }

    async fn new(table: &Table<Thing>, name: &str) -> Reservation<Thing> {
        match table.reserve(name).await {
            Reserved::New(reservation) => reservation,
            Reserved::Taken(_) => panic!("{name} is taken"),
        }
    }

    #[tokio::test]
    async fn prefixes_name_one_entry() {
        let table = Table::default();
        for thing in [Thing("abc1", "a"), Thing("abd2", "b")] {
            table.restore(Arc::new(thing));
        }
        assert_eq!(table.get("abc").expect("one fits").0, "abc1");
        assert!(table.get("ab").is_err_and(|e| !e.is_not_found()));
        assert!(table.get("x").is_err_and(|e| e.is_not_found()));
        assert!(table.get("").is_err_and(|e| e.is_not_found()));
        table.remove("abd2").expect("it was there");
        assert_eq!(table.get("ab").expect("one is left").0, "abc1");
    }

    #[tokio::test]
    async fn a_second_caller_gets_what_the_first_made() {
        let table = Arc::new(Table::default());
        let first = new(&table, "pod").await;
        let second = tokio::spawn({
            let table = table.clone();
            async move { matches!(table.reserve("pod").await, Reserved::Taken(thing) if thing.0 == "1") }
        });
        tokio::task::yield_now().await;
        first.fill(Arc::new(Thing("1", "pod")));
        assert!(second.await.expect("the second caller ends"));
    }

    #[tokio::test]
    async fn what_never_became_whole_is_there_and_holds_no_name() {
        let table = Table::default();
        new(&table, "pod").await.give_up(Arc::new(Thing("1", "pod")));
        assert_eq!(table.get("1").expect("it can be found").1, "pod");
        new(&table, "pod").await.fill(Arc::new(Thing("2", "pod")));
        table.remove("1").expect("it can be removed");
        assert!(matches!(table.reserve("pod").await, Reserved::Taken(thing) if thing.0 == "2"));
    }

    #[tokio::test]
    async fn a_failed_creation_frees_its_name() {
        let table = Arc::new(Table::<Thing>::default());
        let first = new(&table, "pod").await;
        let second = tokio::spawn({
            let table = table.clone();
            async move { matches!(table.reserve("pod").await, Reserved::New(_)) }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.expect("the second caller ends"));
    }
}
