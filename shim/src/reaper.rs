//! Who ended, and how: the one place that waits on children.
//!
//! The shim is a subreaper, so children come in three kinds: processes of containers, programs that the shim ran itself
//! (runtimes, loggers), and strays that were reparented to it. Whoever cares for one asks [`Reaper::watch`]. A process
//! may end before the shim has learnt its pid; while a [`Launch`] is held, exits that nobody watches are kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

use rustix::process::WaitOptions;
use tokio::sync::oneshot;

use crate::log;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub pid: u32,
    /// The exit code, or 128 + the signal.
    pub status: u32,
    pub at: SystemTime,
}

#[derive(Default)]
struct State {
    watched: HashMap<u32, oneshot::Sender<Exit>>,
    early: HashMap<u32, Exit>,
    launches: usize,
}

#[derive(Default)]
pub struct Reaper {
    state: RefCell<State>,
}

/// Keeps early exits while a process of unknown pid is being started.
pub struct Launch {
    reaper: Rc<Reaper>,
}

impl Drop for Launch {
    fn drop(&mut self) {
        let mut state = self.reaper.state.borrow_mut();
        state.launches -= 1;
        if state.launches == 0 {
            state.early = HashMap::new();
        }
    }
}

impl Reaper {
    /// To be held from before a process is started until it is watched.
    pub fn launch(self: &Rc<Self>) -> Launch {
        self.state.borrow_mut().launches += 1;
        Launch { reaper: Rc::clone(self) }
    }

    /// The exit of `pid`, which must be a child that nobody else watches.
    pub fn watch(&self, pid: u32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        match state.early.remove(&pid) {
            Some(exit) => drop(sender.send(exit)),
            None => drop(state.watched.insert(pid, sender)),
        }
        receiver
    }

    /// Collects every child that has ended.
    pub fn reap(&self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = match status.exit_status() {
                        Some(code) => code,
                        None => 128 + status.terminating_signal().unwrap_or(0),
                    };
                    self.ended(Exit {
                        pid: pid.as_raw_nonzero().get().unsigned_abs(),
                        status: code.unsigned_abs(),
                        at: SystemTime::now(),
                    });
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("wait for children: {error}");
                    return;
                }
            }
        }
    }

    fn ended(&self, exit: Exit) {
        let mut state = self.state.borrow_mut();
        if let Some(sender) = state.watched.remove(&exit.pid) {
            // Nobody listens any more: the watcher was cancelled.
            let _ = sender.send(exit);
        } else if state.launches > 0 {
            state.early.insert(exit.pid, exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(pid: u32) -> Exit {
        Exit { pid, status: 3, at: SystemTime::now() }
    }

    #[test]
    fn an_exit_before_the_watch_is_kept_during_a_launch() {
        let reaper = Rc::new(Reaper::default());
        let launch = reaper.launch();
        reaper.ended(exit(7));
        let mut watch = reaper.watch(7);
        assert_eq!(watch.try_recv().unwrap().status, 3);
        reaper.ended(exit(8));
        drop(launch);
        assert!(reaper.state.borrow().early.is_empty());
    }

    #[test]
    fn a_watched_exit_arrives_and_strays_are_forgotten() {
        let reaper = Rc::new(Reaper::default());
        let mut watch = reaper.watch(7);
        reaper.ended(exit(9));
        assert!(watch.try_recv().is_err());
        reaper.ended(exit(7));
        assert_eq!(watch.try_recv().unwrap().pid, 7);
    }
}
