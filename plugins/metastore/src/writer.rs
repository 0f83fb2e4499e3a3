//! The one writer: takes the bodies that wait, runs them over one state, commits what they changed with one sync, and
//! then tells their callers.
//!
//! While a sync is under way the next group gathers, so the number of syncs does not grow with the number of callers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::{self, JoinHandle};

use windlass_core::metastore::{Body, Done, MetaStore, Read};
use windlass_core::{Error, Result};

use crate::engine::Engine;
use crate::transaction::{Changes, Transaction};

/// Most bodies that wait; each belongs to a call under way, so this is far above what is met.
const MAX_WAITING: usize = 16 * 1024;
/// Most bodies in one group, and the size of its changes from which on no more are taken.
const MAX_GROUP: usize = 512;
const MAX_GROUP_BYTES: usize = 4 << 20;

/// An engine with its writer thread.
pub(crate) struct Store<E: Engine> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<E> {
    dir: PathBuf,
    cache: usize,
    /// `None` after a failed commit, until the next group has opened it again. Written by the writer thread alone.
    engine: RwLock<Option<E>>,
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Job {
    body: Body<'static>,
    done: Done,
}

impl<E: Engine> Store<E> {
    pub(crate) fn open(dir: PathBuf, cache: usize) -> Result<Self> {
        let engine = E::open(&dir, cache)?;
        let shared = Arc::new(Shared {
            dir,
            cache,
            engine: RwLock::new(Some(engine)),
            queue: Mutex::default(),
            filled: Condvar::new(),
        });
        let thread = thread::Builder::new()
            .name("metastore".into())
            .stack_size(512 << 10)
            .spawn({
                let shared = shared.clone();
                move || shared.run()
            })
            .map_err(|source| Error::io("start the metadata writer", source))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl<E: Engine> MetaStore for Store<E> {
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        self.shared.view(body)
    }

    fn submit(&self, body: Body<'static>, done: Done) {
        let refused = {
            let mut queue = self.shared.queue();
            if queue.closed {
                Error::unavailable("the metadata engine is closed")
            } else if queue.jobs.len() >= MAX_WAITING {
                Error::exhausted(format!("{MAX_WAITING} metadata changes wait already: try again later"))
            } else {
                queue.jobs.push_back(Job { body, done });
                self.shared.filled.notify_one();
                return;
            }
        };
        done(Err(refused));
    }
}

impl<E: Engine> Drop for Store<E> {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
        // A caller's word may have held the last handle: then this is the writer thread, which ends by itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the metadata writer ended with a panic");
        }
    }
}

impl<E: Engine> Shared<E> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("the queue is changed without panics")
    }

    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        // A panic in somebody's view leaves the engine as it was.
        match &*self.engine.read().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(engine) => engine.view(body),
            None => Err(Error::unavailable(format!(
                "the metadata database {} has failed: see the log, and check the disk",
                self.dir.display()
            ))),
        }
    }

    fn run(&self) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let mut queue = self.queue();
                while queue.jobs.is_empty() {
                    if queue.closed {
                        return;
                    }
                    queue = self.filled.wait(queue).expect("the queue is changed without panics");
                }
                let count = queue.jobs.len().min(MAX_GROUP);
                waiting.extend(queue.jobs.drain(..count));
            }
            self.group(&mut waiting);
        }
    }

    /// Runs bodies from the front of `waiting`, commits, and tells their callers.
    fn group(&self, waiting: &mut VecDeque<Job>) {
        if let Err(error) = self.reopen() {
            let message = error.chain();
            for job in waiting.drain(..) {
                (job.done)(Err(Error::new(error.class(), message.clone())));
            }
            return;
        }
        let mut changes = Changes::default();
        let mut finished: Vec<(Done, Result<()>)> = Vec::with_capacity(waiting.len());
        let viewed = self.view(&mut |base| {
            while changes.bytes < MAX_GROUP_BYTES
                && let Some(job) = waiting.pop_front()
            {
                finished.push((job.done, run_body(base, &mut changes, job.body)));
            }
            Ok(())
        });
        let committed = viewed.and_then(|()| self.commit(&changes));
        let failure = committed.err().map(|error| (error.class(), error.chain()));
        for (done, result) in finished {
            let result = result.and_then(|()| match &failure {
                Some((class, message)) => Err(Error::new(*class, message.clone())),
                None => Ok(()),
            });
            if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
                tracing::error!("a caller panicked when told of its metadata change");
            }
        }
    }

    fn commit(&self, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let result = match &*self.engine.read().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(engine) => engine.commit(changes),
            None => return Err(Error::unavailable("the metadata database has failed")),
        };
        result.map_err(|error| {
            let error = Error::from(error);
            tracing::error!(error = %error.chain(), "metadata commit failed; the database is opened again");
            *self.engine.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
            error
        })
    }

    /// Opens the engine again after a failed commit: a full disk may have room by now.
    fn reopen(&self) -> Result<()> {
        if self.engine.read().unwrap_or_else(|poisoned| poisoned.into_inner()).is_some() {
            return Ok(());
        }
        let engine = E::open(&self.dir, self.cache)?;
        *self.engine.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(engine);
        Ok(())
    }
}

/// Runs one body; what it changed stays in `changes` only where it succeeds.
fn run_body(base: &dyn Read, changes: &mut Changes, body: Body<'static>) -> Result<()> {
    let mut tx = Transaction::new(base, changes);
    match catch_unwind(AssertUnwindSafe(|| body(&mut tx))) {
        Ok(Ok(())) => {
            tx.keep();
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::internal("a metadata change panicked and was undone")),
    }
}
