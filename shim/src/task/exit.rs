//! Exits on their way from the reaper to events, in order: OOM kills, then execs, then init.

use std::rc::Rc;

use tokio::task::spawn_local;
use windlass_api::shim::events;

use super::Tasks;
use crate::container::Container;
use crate::log;
use crate::process::Process;
use crate::reaper::Exit;
use crate::time;

impl Tasks {
    /// Sees to it that the exit of a process that has just been launched is told.
    pub(super) fn follow(self: &Rc<Self>, container: &Rc<Container>, process: &Rc<Process>) {
        let exit = self.reaper.watch(process.pid.get());
        let (tasks, container, process) = (Rc::clone(self), Rc::clone(container), Rc::clone(process));
        spawn_local(async move {
            // The reaper lives as long as the process.
            let Ok(exit) = exit.await else { return };
            if !container.is_init(&process) {
                tasks.process_ended(&container, &process, exit);
                container.exec_over();
            } else if process.starting.get() {
                container.init_gone.set(true);
                process.early.set(Some(exit));
            } else {
                tasks.init_ended(&container, exit);
            }
        });
    }

    pub(super) fn init_ended(self: &Rc<Self>, container: &Rc<Container>, exit: Exit) {
        container.init_gone.set(true);
        // At once: systemd removes the group, and the count with it, as soon as nobody is in it.
        let sigkill = exit.status == 128 + libc::SIGKILL as u32;
        let killed = container.oom.borrow().as_ref().is_some_and(|oom| oom.last(sigkill));
        let (tasks, container) = (Rc::clone(self), Rc::clone(container));
        spawn_local(async move {
            if container.shares_pids
                && let Err(error) = container.runtime.kill(libc::SIGKILL as u32, true).await
            {
                log::debug!("kill what init of {} left: {error}", container.id);
            }
            container.execs_over().await;
            if container.paused.replace(false)
                && let Err(error) = container.runtime.resume().await
            {
                log::error!("resume {}, whose init was killed while paused: {error}", container.id);
            }
            let oom = container.oom.borrow().clone();
            if killed || oom.is_some_and(|oom| oom.last(sigkill)) {
                tasks.send_oom(&container.id);
            }
            tasks.process_ended(&container, &container.init, exit);
        });
    }

    fn process_ended(&self, container: &Container, process: &Process, exit: Exit) {
        let mut event = events::TaskExit::new();
        event.container_id = container.id.clone();
        event.id = process.id.clone();
        event.pid = exit.pid;
        event.exit_status = exit.status;
        event.exited_at = time::field(Some(exit.at));
        self.publisher.send("/tasks/exit", "containerd.events.TaskExit", &event);
        process.set_exited(exit);
    }

    pub(super) fn send_oom(&self, id: &str) {
        let mut event = events::TaskOOM::new();
        event.container_id = id.to_owned();
        self.publisher.send("/tasks/oom", "containerd.events.TaskOOM", &event);
    }
}
