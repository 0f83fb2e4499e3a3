//! One process of a container, init or exec'd: its state, its streams, its exit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::{Mutex, watch};

use crate::error::{Error, Result};
use crate::io::{ProcessIo, Stdio};
use crate::reaper::Exit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Stopped,
}

pub struct Process {
    /// The container's id for init, else the exec's.
    pub id: String,
    pub stdio: Stdio,
    /// The OCI process as JSON; empty for init, whose process is in the bundle.
    pub spec: Vec<u8>,
    /// Held by whoever starts or deletes the process.
    pub lock: Mutex<()>,
    pub state: Cell<State>,
    pub pid: Cell<u32>,
    pub io: RefCell<Option<Rc<ProcessIo>>>,
    exit: Cell<Option<Exit>>,
    /// Set while a start is under way; an exit that comes in between waits until the start has been told.
    pub starting: Cell<bool>,
    pub early: Cell<Option<Exit>>,
    over: watch::Sender<bool>,
}

impl Process {
    pub fn new(id: &str, stdio: Stdio, spec: Vec<u8>) -> Rc<Process> {
        Rc::new(Process {
            id: id.to_owned(),
            stdio,
            spec,
            lock: Mutex::new(()),
            state: Cell::new(State::Created),
            pid: Cell::new(0),
            io: RefCell::new(None),
            exit: Cell::new(None),
            starting: Cell::new(false),
            early: Cell::new(None),
            over: watch::Sender::new(false),
        })
    }

    pub fn exit(&self) -> Option<Exit> {
        self.exit.get()
    }

    /// Notes the exit and lets waiters go.
    pub fn set_exited(&self, exit: Exit) {
        self.exit.set(Some(exit));
        self.state.set(State::Stopped);
        if let Some(io) = self.io.borrow().as_ref() {
            io.exited();
        }
        self.over.send_replace(true);
    }

    /// Lets waiters go although there never was a process.
    pub fn give_up(&self) {
        self.over.send_replace(true);
    }

    /// Waits for the exit.
    pub async fn wait(&self) {
        // The sender lives as long as this value.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    pub fn close_stdin(&self) {
        if let Some(io) = self.io.borrow().as_ref() {
            io.close_stdin();
        }
    }

    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let io = self.io.borrow();
        let Some(io) = io.as_ref() else { return Ok(()) };
        let size =
            |value: u32| u16::try_from(value).map_err(|_| Error::invalid(format!("terminal size {value}")));
        io.resize(size(width)?, size(height)?)
    }
}
