//! A container in memory.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use windlass_api::cri;

use super::record::{ContainerRecord, ContainerStatus};
use super::table::Entry;
use crate::io::ContainerIo;
use crate::stats::Kept;

/// Where a container stands, as CRI tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running,
    Exited,
}

/// A container.
pub struct Container {
    pub id: String,
    pub record: ContainerRecord,
    /// Held by whoever changes the container, over calls to its shim too: it is the container's own.
    pub lock: tokio::sync::Mutex<()>,
    /// What follows from the status is woken by it.
    status: watch::Sender<ContainerStatus>,
    io: Mutex<Option<Arc<ContainerIo>>>,
    /// The kernel has killed one of its processes for want of memory.
    oom: AtomicBool,
    /// It has been asked to end by its signal.
    signalled: AtomicBool,
    removing: AtomicBool,
    /// Its start is not waited for any longer.
    given_up: CancellationToken,
    /// Its shim, by process, once it did not answer.
    hung_shim: Mutex<Option<OwnedFd>>,
    /// For its figures.
    pub kept: Kept,
}

impl Container {
    pub fn new(id: String, record: ContainerRecord, status: ContainerStatus) -> Self {
        Self {
            id,
            record,
            lock: tokio::sync::Mutex::new(()),
            status: watch::Sender::new(status),
            io: Mutex::new(None),
            oom: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
            removing: AtomicBool::new(false),
            given_up: CancellationToken::new(),
            hung_shim: Mutex::new(None),
            kept: Kept::default(),
        }
    }

    /// Whether the kernel has killed one of its processes for want of memory.
    pub fn is_oom(&self) -> bool {
        self.oom.load(Ordering::Acquire)
    }

    pub fn set_oom(&self) {
        self.oom.store(true, Ordering::Release);
    }

    /// Whether its signal is yet to be sent: true for the first who asks.
    pub fn take_signal(&self) -> bool {
        !self.signalled.swap(true, Ordering::AcqRel)
    }

    /// Remembers or forgets a shim that did not answer; answers what was remembered.
    pub fn set_hung_shim(&self, shim: Option<OwnedFd>) -> Option<OwnedFd> {
        std::mem::replace(&mut *self.hung_shim.lock().expect("nothing panics while it holds the shim"), shim)
    }

    /// Cancelled where its start is not to be waited for any longer: it is to end, and whoever starts it does not answer.
    pub fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }

    /// Whether it is being removed: nothing else is begun with it.
    pub fn removing(&self) -> bool {
        self.removing.load(Ordering::Acquire)
    }

    pub fn set_removing(&self, removing: bool) {
        self.removing.store(removing, Ordering::Release);
    }

    /// What the container was asked to be.
    pub fn config(&self) -> &cri::ContainerConfig {
        self.record
            .config
            .as_ref()
            .expect("a container has a configuration: checked when it is made and when it is read")
    }

    pub fn status(&self) -> watch::Ref<'_, ContainerStatus> {
        self.status.borrow()
    }

    /// Follows the status.
    pub fn follow(&self) -> watch::Receiver<ContainerStatus> {
        self.status.subscribe()
    }

    /// Replaces the status: for who holds the lock and has written the record.
    pub fn set_status(&self, status: ContainerStatus) {
        self.status.send_replace(status);
    }

    pub fn phase(&self) -> Phase {
        self.status().phase()
    }

    /// The streams, while there is a task.
    pub fn io(&self) -> Option<Arc<ContainerIo>> {
        self.io_slot().clone()
    }

    /// Sets or takes the streams; answers what was there.
    pub fn set_io(&self, io: Option<Arc<ContainerIo>>) -> Option<Arc<ContainerIo>> {
        std::mem::replace(&mut *self.io_slot(), io)
    }

    fn io_slot(&self) -> MutexGuard<'_, Option<Arc<ContainerIo>>> {
        self.io.lock().expect("nothing panics while it holds the streams")
    }
}

impl ContainerStatus {
    pub fn phase(&self) -> Phase {
        match (self.started_at, self.finished_at) {
            (_, 1..) => Phase::Exited,
            (1.., _) => Phase::Running,
            _ => Phase::Created,
        }
    }
}

impl Entry for Container {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.record.name
    }
}
