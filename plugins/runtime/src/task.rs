//! One task: its bundle, its shim, and what is known of its end.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use protobuf::Message;
use tokio::sync::{Notify, watch};
use windlass_core::task::Exit;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::log::Follower;
use crate::shim::Shim;

/// Exits of execs that are remembered for one task; a waiter that asks for a forgotten one asks the shim.
const MAX_EXITS: usize = 4096;
/// How long a call waits, at least, for what comes of a connection that ended.
const PATIENCE: Duration = Duration::from_secs(15);
/// Status of what was killed.
pub const KILLED: u32 = 137;

pub struct Task {
    pub bundle: Bundle,
    /// The shim's binary.
    pub binary: PathBuf,
    /// Whether the shim was lent by whoever named its address, and who ends it. Any other ends with the last of its tasks.
    pub shared: bool,
    /// The tasks that may share a shim: see [`Table::group`].
    pub group: String,
    pub shim: Shim,
    /// Reads the shim's log.
    log: Mutex<Option<Follower>>,
    pid: AtomicU32,
    /// Whether others can see the task. Until then its end is the business of who creates it.
    pub live: AtomicBool,
    /// Whether the connection ended before the task was live.
    pub closed: AtomicBool,
    /// Held while the task is being ended, by whoever does it; true once it has been.
    pub end: tokio::sync::Mutex<bool>,
    pub finished: AtomicBool,
    known: Mutex<Known>,
    /// Woken when the connection ends and when a deletion was told of.
    changed: Notify,
    phase: watch::Sender<Phase>,
}

#[derive(Default)]
struct Known {
    /// By exec id, the task's own under the empty one.
    exits: HashMap<String, Exit>,
    /// Execs that were deleted before an event told of their exit, with their pids: the event that comes late is not the
    /// exit of the next exec of that id.
    late: HashSet<(String, u32)>,
    exit_told: bool,
    delete_told: bool,
}

impl Known {
    fn exec_exited(&mut self, id: &str, exit: Exit) {
        if !self.late.remove(&(id.to_owned(), exit.pid)) && self.exits.len() < MAX_EXITS {
            self.exits.insert(id.to_owned(), exit);
        }
    }

    fn forget(&mut self, exec: &str, pid: u32) {
        if self.exits.remove(exec).is_none() && pid != 0 && self.late.len() < MAX_EXITS {
            self.late.insert((exec.to_owned(), pid));
        }
    }
}

/// What waiters wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Served by the n-th connection.
    Live(u32),
    Gone(Exit),
}

impl Task {
    pub fn new(
        bundle: Bundle,
        binary: PathBuf,
        shared: bool,
        group: String,
        shim: Shim,
        log: Option<Follower>,
    ) -> Self {
        Self {
            bundle,
            binary,
            shared,
            group,
            shim,
            log: Mutex::new(log),
            pid: AtomicU32::new(0),
            live: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            end: tokio::sync::Mutex::new(false),
            finished: AtomicBool::new(false),
            known: Mutex::default(),
            changed: Notify::new(),
            phase: watch::Sender::new(Phase::Live(0)),
        }
    }

    pub fn id(&self) -> &str {
        &self.bundle.id
    }

    /// 0 until it is known.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a process ended, where an event has told.
    pub fn exit(&self, exec: &str) -> Option<Exit> {
        self.known().exits.get(exec).copied()
    }

    /// Takes note of an exit that an event told of; `id` is the exec's or the task's own.
    pub fn exited(&self, id: &str, exit: Exit) {
        let own = id.is_empty() || id == self.id();
        // An exec may have the task's id. The pid tells them apart, where it is known yet.
        if own && ![0, exit.pid].contains(&self.pid()) {
            return;
        }
        let mut known = self.known();
        if own {
            known.exit_told = true;
            known.exits.insert(String::new(), exit);
        } else {
            known.exec_exited(id, exit);
        }
    }

    /// Takes note of a deletion that an event told of.
    pub fn deleted(&self, id: &str) {
        if id.is_empty() || id == self.id() {
            self.known().delete_told = true;
            self.changed.notify_waiters();
        }
    }

    /// The connection has ended.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Waits, no longer than `limit`, until the shim's process has ended.
    pub async fn wait_ended(&self, limit: Duration) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        let log = async {
            if let Some(log) = log {
                let _ = tokio::time::timeout(limit, log.ended()).await;
            }
        };
        let (closed, ()) = tokio::join!(self.wait_for(limit, || self.closed.load(Ordering::SeqCst)), log);
        if !closed {
            tracing::debug!(id = self.id(), "the shim takes its time to end");
        }
    }

    /// Waits, no longer than `limit`, until subscribers have been told of the deletion.
    pub async fn wait_deleted(&self, limit: Duration) {
        if !self.wait_for(limit, || self.told().1).await {
            tracing::debug!(id = self.id(), "the shim does not tell of the deletion");
        }
    }

    async fn wait_for(&self, limit: Duration, happened: impl Fn() -> bool) -> bool {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if happened() {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Forgets an exec that ran as `pid`, whose id may be used again.
    pub fn forget(&self, exec: &str, pid: u32) {
        self.known().forget(exec, pid);
    }

    /// Whether exit and deletion have been told to subscribers.
    pub fn told(&self) -> (bool, bool) {
        let known = self.known();
        (known.exit_told, known.delete_told)
    }

    /// Calls the shim. Where the connection ends meanwhile, it waits for what comes of that: a task whose shim has died
    /// is *not found*, one that is connected again is asked again if `again` allows.
    pub async fn call<R: Message>(
        &self,
        method: &str,
        request: &impl Message,
        limit: Duration,
        again: bool,
    ) -> Result<R> {
        let mut phase = self.phase();
        loop {
            let seen = *phase.borrow_and_update();
            if matches!(seen, Phase::Gone(_)) {
                return Err(Error::NotFound(self.id().to_owned()));
            }
            match self.shim.call(method, request, Some(limit)).await {
                Err(error) if error.is_closed() => {}
                answer => return answer,
            }
            let changed = tokio::time::timeout(limit.max(PATIENCE), phase.wait_for(|now| *now != seen)).await;
            match changed.ok().and_then(Result::ok).map(|now| *now) {
                Some(Phase::Gone(_)) => {}
                Some(Phase::Live(_)) if again => {}
                _ => {
                    return Err(Error::Closed.context(format!("connection broken while {method} was called")));
                }
            }
        }
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Another connection serves the task from now on.
    pub fn reconnected(&self) {
        self.phase.send_modify(|phase| {
            if let Phase::Live(n) = phase {
                *n = n.wrapping_add(1);
            }
        });
    }

    /// The task is no more.
    pub fn finish(&self, exit: Exit) {
        self.finished.store(true, Ordering::Release);
        self.shim.detach();
        self.stop_log();
        self.phase.send_replace(Phase::Gone(exit));
    }

    pub fn stop_log(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Tasks by namespace and id.
#[derive(Default)]
pub struct Table {
    tasks: Mutex<HashMap<String, HashMap<String, Slot>>>,
    /// Every task that has a shim, also those that nobody can see yet.
    served: Mutex<Vec<Weak<Task>>>,
    groups: Mutex<HashMap<(String, String), GroupLock>>,
}

type GroupLock = Weak<tokio::sync::Mutex<()>>;

/// A place in the table: taken before there is a task, so that nobody else takes it.
type Slot = Option<Arc<Task>>;

/// A place that is given back unless a task was put there.
pub struct Reservation<'a> {
    table: &'a Table,
    namespace: String,
    id: String,
    kept: bool,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, Slot>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a shim is found or started for a task of the group and until the task counts as served by it, and while
    /// it is judged whether a shim serves anybody, until it has gone: else a task would be given a shim that is about to
    /// end.
    pub async fn group(&self, namespace: &str, group: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = groups.entry((namespace.to_owned(), group.to_owned())).or_default();
            match entry.upgrade() {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    *entry = Arc::downgrade(&lock);
                    groups.retain(|_, lock| lock.strong_count() > 0);
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// From now on the task counts as served by its shim, until it is finished.
    pub fn serve(&self, task: &Arc<Task>) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|task| task.strong_count() > 0);
        served.push(Arc::downgrade(task));
    }

    pub fn reserve(&self, namespace: &str, id: &str) -> Result<Reservation<'_>> {
        let mut table = self.lock();
        let tasks = table.entry(namespace.to_owned()).or_default();
        if tasks.contains_key(id) {
            return Err(Error::Exists(id.to_owned()));
        }
        tasks.insert(id.to_owned(), None);
        Ok(Reservation { table: self, namespace: namespace.to_owned(), id: id.to_owned(), kept: false })
    }

    pub fn get(&self, namespace: &str, id: &str) -> Result<Arc<Task>> {
        let found = self.lock().get(namespace).and_then(|tasks| tasks.get(id)).cloned().flatten();
        found.ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    pub fn all(&self, namespace: &str) -> Vec<Arc<Task>> {
        let mut tasks: Vec<_> =
            self.lock().get(namespace).into_iter().flat_map(|t| t.values()).flatten().cloned().collect();
        tasks.sort_by(|a, b| a.id().cmp(b.id()));
        tasks
    }

    /// Whether another task is served at the same address, or about to be.
    pub fn shares(&self, task: &Task) -> bool {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.iter().filter_map(Weak::upgrade).any(|other| {
            !std::ptr::eq(&*other, task)
                && !other.finished.load(Ordering::Acquire)
                && other.shim.endpoint.address == task.shim.endpoint.address
        })
    }

    pub fn remove(&self, task: &Task) {
        self.vacate(&task.bundle.namespace, task.id());
    }

    /// Gives back a place that was held.
    pub fn release(&self, namespace: &str, id: &str) {
        self.vacate(namespace, id);
    }

    fn vacate(&self, namespace: &str, id: &str) {
        let mut table = self.lock();
        if let Some(tasks) = table.get_mut(namespace) {
            tasks.remove(id);
            if tasks.is_empty() {
                table.remove(namespace);
            }
        }
    }
}

impl Reservation<'_> {
    /// Puts the task into its place.
    pub fn fill(mut self, task: Arc<Task>) {
        self.kept = true;
        let mut table = self.table.lock();
        table.entry(self.namespace.clone()).or_default().insert(self.id.clone(), Some(task));
    }

    /// Keeps the place taken until [`Table::release`].
    pub fn hold(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.table.vacate(&self.namespace, &self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_exit_is_not_the_next_execs() {
        let exit = |pid| Exit { pid, status: pid, at: std::time::SystemTime::UNIX_EPOCH };
        let mut known = Known::default();
        // Two execs of one id are deleted before their exits are told.
        known.forget("e", 1);
        known.forget("e", 2);
        known.exec_exited("e", exit(1));
        known.exec_exited("e", exit(2));
        assert!(known.exits.is_empty() && known.late.is_empty());
        known.exec_exited("e", exit(3));
        assert_eq!(known.exits["e"], exit(3));
        known.forget("e", 3);
        assert!(known.exits.is_empty() && known.late.is_empty());
        // One that was never started tells of no exit.
        known.forget("e", 0);
        assert!(known.late.is_empty());
    }
}
