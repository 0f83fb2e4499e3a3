//! One container: its runtime, its processes, and the order of what happens to them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;

use crate::cgroup::{Cgroup, OomEvents};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::process::{Process, State};
use crate::runtime::{Restore, Runtime};

pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub options: Options,
    pub runtime: Runtime,
    pub init: Rc<Process>,
    pub execs: RefCell<HashMap<String, Rc<Process>>>,
    /// Set when the file system at `bundle/rootfs` is ours to take away.
    pub mounted: bool,
    /// Set when init's end leaves other processes behind.
    pub shares_pids: bool,
    /// Set when fifos may be handed to processes.
    pub direct_io: bool,
    pub restore: RefCell<Option<Restore>>,
    pub cgroup: RefCell<Option<Cgroup>>,
    pub oom: RefCell<Option<Rc<OomEvents>>>,
    pub oom_task: RefCell<Option<AbortHandle>>,
    /// Held by pause, resume, update and checkpoint.
    pub lock: Mutex<()>,
    pub paused: Cell<bool>,
    pub pausing: Cell<bool>,
    /// Init's process has ended, though its exit may not have been told yet.
    pub init_gone: Cell<bool>,
    running_execs: Cell<usize>,
    no_execs: Notify,
}

impl Container {
    pub fn new(
        id: &str,
        bundle: PathBuf,
        options: Options,
        runtime: Runtime,
        init: Rc<Process>,
    ) -> Container {
        Container {
            id: id.to_owned(),
            bundle,
            options,
            runtime,
            init,
            execs: RefCell::default(),
            mounted: false,
            shares_pids: false,
            direct_io: false,
            restore: RefCell::new(None),
            cgroup: RefCell::new(None),
            oom: RefCell::new(None),
            oom_task: RefCell::new(None),
            lock: Mutex::new(()),
            paused: Cell::new(false),
            pausing: Cell::new(false),
            init_gone: Cell::new(false),
            running_execs: Cell::new(0),
            no_execs: Notify::new(),
        }
    }

    /// Init for an empty id, else the exec of that id.
    pub fn process(&self, exec_id: &str) -> Result<Rc<Process>> {
        if exec_id.is_empty() {
            return Ok(Rc::clone(&self.init));
        }
        match self.execs.borrow().get(exec_id) {
            Some(process) => Ok(Rc::clone(process)),
            None => Err(Error::not_found(format!("process does not exist {exec_id}"))),
        }
    }

    pub fn is_init(&self, process: &Rc<Process>) -> bool {
        Rc::ptr_eq(&self.init, process)
    }

    /// The state in containerd's words.
    pub fn status(&self, process: &Process) -> &'static str {
        if self.pausing.get() {
            return "pausing";
        }
        if self.paused.get() && self.init.state.get() == State::Running {
            return "paused";
        }
        match process.state.get() {
            State::Created => "created",
            State::Running => "running",
            State::Stopped => "stopped",
        }
    }

    /// Counts an exec that is about to start, until [`Container::exec_over`].
    pub fn exec_begins(&self) {
        self.running_execs.set(self.running_execs.get() + 1);
    }

    pub fn exec_over(&self) {
        self.running_execs.set(self.running_execs.get() - 1);
        if self.running_execs.get() == 0 {
            self.no_execs.notify_waiters();
        }
    }

    /// Waits until no exec runs, so that init's exit is the last one told.
    pub async fn execs_over(&self) {
        loop {
            let over = self.no_execs.notified();
            if self.running_execs.get() == 0 {
                return;
            }
            over.await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(task) = self.oom_task.take() {
            task.abort();
        }
    }
}
