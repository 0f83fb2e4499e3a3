//! What is done to a container that lives: signals, pause, limits, figures, questions.

use std::rc::Rc;

use protobuf::{EnumOrUnknown, Message, MessageField};
use rustix::process::{Pid, Signal, kill_process};
use windlass_api::shim::types::task;
use windlass_api::shim::{events, runc, task_v3 as api};

use super::Tasks;
use crate::container::Container;
use crate::error::{Context, Error, Result};
use crate::events::any;
use crate::process::{Process, State};
use crate::runtime::{Checkpoint, criu_reason};
use crate::time;

impl Tasks {
    pub(super) fn state(&self, request: &api::StateRequest) -> Result<api::StateResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let mut response = api::StateResponse::new();
        response.id = process.id.clone();
        response.bundle = container.bundle.display().to_string();
        response.pid = process.pid.get();
        response.status = EnumOrUnknown::new(match container.status(&process) {
            "created" => task::Status::CREATED,
            "running" => task::Status::RUNNING,
            "stopped" => task::Status::STOPPED,
            "paused" => task::Status::PAUSED,
            "pausing" => task::Status::PAUSING,
            _ => task::Status::UNKNOWN,
        });
        response.stdin = process.stdio.stdin.clone();
        response.stdout = process.stdio.stdout.clone();
        response.stderr = process.stdio.stderr.clone();
        response.terminal = process.stdio.terminal;
        response.exit_status = process.exit().map_or(0, |exit| exit.status);
        response.exited_at = time::field(process.exit().map(|exit| exit.at));
        response.exec_id = request.exec_id.clone();
        Ok(response)
    }

    pub(super) async fn kill(&self, request: &api::KillRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        if container.is_init(&process) {
            if container.init_gone.get() && !request.all {
                return Err(Error::not_found("process already finished"));
            }
            return container.runtime.kill(request.signal, request.all).await;
        }
        kill_exec(&process, request.signal)
    }

    pub(super) async fn pause(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _held = container.lock.lock().await;
        match container.status(&container.init) {
            "running" => {}
            state => return Err(Error::unknown(cannot("pause", state))),
        }
        container.pausing.set(true);
        let result = container.runtime.pause().await;
        container.pausing.set(false);
        result?;
        container.paused.set(true);
        let mut event = events::TaskPaused::new();
        event.container_id = container.id.clone();
        self.publisher.send("/tasks/paused", "containerd.events.TaskPaused", &event);
        Ok(())
    }

    pub(super) async fn resume(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _held = container.lock.lock().await;
        match container.status(&container.init) {
            "paused" => {}
            state => return Err(Error::unknown(cannot("resume", state))),
        }
        container.runtime.resume().await?;
        container.paused.set(false);
        let mut event = events::TaskResumed::new();
        event.container_id = container.id.clone();
        self.publisher.send("/tasks/resumed", "containerd.events.TaskResumed", &event);
        Ok(())
    }

    pub(super) async fn update(&self, request: &api::UpdateTaskRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let _held = container.lock.lock().await;
        if container.init.state.get() == State::Stopped {
            return Err(Error::unknown("cannot update a stopped container"));
        }
        container.runtime.update(&request.resources.value).await
    }

    pub(super) async fn checkpoint(&self, request: &api::CheckpointTaskRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let _held = container.lock.lock().await;
        match container.status(&container.init) {
            "created" => return Err(Error::unknown("cannot checkpoint a task in created state")),
            "stopped" => return Err(Error::unknown("cannot checkpoint a stopped container")),
            _ => {}
        }
        let options = runc::CheckpointOptions::parse_from_bytes(&request.options.value)
            .map_err(|error| Error::invalid(format!("read checkpoint options: {error}")))?;
        let own_work = container.bundle.join("work/criu-work");
        let checkpoint = Checkpoint {
            image: request.path.clone(),
            work: if options.work_path.is_empty() {
                own_work.display().to_string()
            } else {
                options.work_path.clone()
            },
            leave_running: !options.exit,
            open_tcp: options.open_tcp,
            external_sockets: options.external_unix_sockets,
            terminal: options.terminal,
            file_locks: options.file_locks,
            empty_namespaces: options.empty_namespaces,
        };
        let result = container.runtime.checkpoint(&checkpoint).await;
        let result = result.map_err(|error| match error {
            Error::Class { .. } => error,
            other => {
                let dump = container.bundle.join("criu-dump.log");
                // CRIU may have failed before it wrote a log.
                let _ = std::fs::copy(std::path::Path::new(&checkpoint.work).join("dump.log"), &dump);
                let text = other.to_string();
                Error::unknown(format!(
                    "{} path= {}{}",
                    text.lines().next().unwrap_or_default(),
                    dump.display(),
                    criu_reason(&dump)
                ))
            }
        });
        if options.work_path.is_empty() {
            // It is not there if CRIU never ran.
            let _ = std::fs::remove_dir_all(own_work);
        }
        result
    }

    pub(super) fn pids(&self, id: &str) -> Result<api::PidsResponse> {
        let container = self.container(id)?;
        let pids = container.cgroup.borrow().as_ref().map(|cgroup| cgroup.pids()).unwrap_or_default();
        let mut response = api::PidsResponse::new();
        for pid in pids {
            let mut info = task::ProcessInfo::new();
            info.pid = pid;
            if let Some(exec) = container.execs.borrow().values().find(|exec| exec.pid.get() == pid) {
                let mut details = runc::ProcessDetails::new();
                details.exec_id = exec.id.clone();
                info.info = MessageField::some(any("containerd.runc.v1.ProcessDetails", &details));
            }
            response.processes.push(info);
        }
        Ok(response)
    }

    pub(super) fn stats(&self, id: &str) -> Result<api::StatsResponse> {
        let container = self.container(id)?;
        let cgroup = container.cgroup.borrow();
        let cgroup = cgroup.as_ref().ok_or_else(|| Error::not_found("cgroup does not exist"))?;
        let (url, value) = cgroup.stats()?;
        let mut stats = protobuf::well_known_types::any::Any::new();
        stats.type_url = url.to_owned();
        stats.value = value;
        let mut response = api::StatsResponse::new();
        response.stats = MessageField::some(stats);
        Ok(response)
    }

    pub(super) async fn wait(&self, request: &api::WaitRequest) -> Result<api::WaitResponse> {
        let process = {
            let container = self.container(&request.id)?;
            container.process(&request.exec_id)?
        };
        process.wait().await;
        let mut response = api::WaitResponse::new();
        response.exit_status = process.exit().map_or(0, |exit| exit.status);
        response.exited_at = time::field(process.exit().map(|exit| exit.at));
        Ok(response)
    }

    pub(super) fn connect(&self, id: &str) -> api::ConnectResponse {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.task_pid = self.container(id).map_or(0, |container: Rc<Container>| container.init.pid.get());
        response
    }

    /// Ends the shim, unless it still has containers.
    pub(super) fn shutdown(&self) {
        if self.containers.borrow().is_empty() && self.creating.borrow().is_empty() {
            self.stop.send_replace(true);
        }
    }
}

fn cannot(what: &str, state: &str) -> String {
    match (what, state) {
        (_, "created") => format!("cannot {what} task in created state"),
        ("resume", "running") => "cannot resume a running process".to_owned(),
        _ => format!("cannot {what} a {state} container"),
    }
}

fn kill_exec(process: &Process, signal: u32) -> Result<()> {
    if process.exit().is_some() {
        return Err(Error::not_found("exec kill error: process already finished"));
    }
    let pid = i32::try_from(process.pid.get()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Err(Error::precondition("process not created")) };
    let number = i32::try_from(signal).ok().filter(|number| (1..=64).contains(number));
    let number = number.ok_or_else(|| Error::invalid(format!("signal {signal}")))?;
    // SAFETY: the number is in the kernel's range of signals, and is not used as anything but a signal's number.
    let signal = unsafe { Signal::from_raw_unchecked(number) };
    // It has not been reaped, so the pid is still its own.
    match kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Err(Error::not_found("exec kill error: process already finished")),
        result => result.op("exec kill error"),
    }
}
