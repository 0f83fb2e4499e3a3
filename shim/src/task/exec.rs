//! Additional processes: Exec adds one, Start runs it, Delete forgets it.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::value::RawValue;
use windlass_api::shim::{events, task_v3 as api};

use super::create::DRAIN;
use super::{Tasks, check_id};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::io::{ProcessIo, Stdio};
use crate::process::{Process, State};

impl Tasks {
    pub(super) async fn exec(self: &Rc<Self>, request: api::ExecProcessRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        check_id(&request.exec_id)?;
        if container.execs.borrow().contains_key(&request.exec_id) {
            return Err(Error::exists(format!("id {}", request.exec_id)));
        }
        match container.status(&container.init) {
            "paused" | "pausing" => return Err(Error::unknown("cannot exec in a paused state")),
            "stopped" => return Err(Error::unknown("cannot exec in a stopped state")),
            _ => {}
        }
        let spec = with_terminal(&request.spec.value, request.terminal)?;
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Process::new(&request.exec_id, stdio, spec);
        container.execs.borrow_mut().insert(request.exec_id.clone(), process);
        let mut event = events::TaskExecAdded::new();
        event.container_id = container.id.clone();
        event.exec_id = request.exec_id;
        self.publisher.send("/tasks/exec-added", "containerd.events.TaskExecAdded", &event);
        Ok(())
    }

    pub(super) async fn start_exec(
        self: &Rc<Self>,
        container: &Rc<Container>,
        process: &Rc<Process>,
    ) -> Result<()> {
        match process.state.get() {
            State::Created => {}
            State::Running => return Err(Error::unknown("cannot start a running process")),
            State::Stopped => return Err(Error::unknown("cannot start a stopped process")),
        }
        if container.init_gone.get() {
            return Err(Error::precondition(format!(
                "container {} init process is not running",
                container.id
            )));
        }
        failpoint!("shim.exec.begin");
        container.exec_begins();
        let _launch = self.reaper.launch();
        if let Err(error) = self.launch_exec(container, process).await {
            container.exec_over();
            process.give_up();
            return Err(error);
        }
        process.state.set(State::Running);
        let mut event = events::TaskExecStarted::new();
        event.container_id = container.id.clone();
        event.exec_id = process.id.clone();
        event.pid = process.pid.get();
        self.publisher.send("/tasks/exec-started", "containerd.events.TaskExecStarted", &event);
        self.follow(container, process);
        failpoint!("shim.exec.started");
        Ok(())
    }

    async fn launch_exec(self: &Rc<Self>, container: &Rc<Container>, process: &Rc<Process>) -> Result<()> {
        let setup = self.setup(container, &process.id);
        let (io, child) = ProcessIo::open(&process.stdio, &setup, &self.reaper)
            .await
            .map_err(|error| Error::unknown(format!("failed to create init process I/O: {error}")))?;
        let launched = container.runtime.exec(&process.id, &process.spec, child).await?;
        process.pid.set(launched.pid);
        if let Some(master) = launched.console {
            // Without its terminal the process is of no use, and its end is told like any other.
            if let Err(error) = io.attach_console(master, &process.stdio, &setup, &self.reaper).await {
                crate::log::error!("console of exec {}: {error}", process.id);
            }
        }
        *process.io.borrow_mut() = Some(Rc::new(io));
        Ok(())
    }

    pub(super) async fn delete_exec(&self, container: &Rc<Container>, process: &Rc<Process>) -> Result<()> {
        if process.state.get() == State::Running {
            return Err(Error::unknown("cannot delete a running process"));
        }
        let io = process.io.borrow().clone();
        if let Some(io) = io {
            io.drain(DRAIN).await;
        }
        let mut execs = container.execs.borrow_mut();
        execs.remove(&process.id);
        if execs.is_empty() {
            execs.shrink_to_fit();
        }
        Ok(())
    }
}

/// The process with its `terminal` field set to what the request says; everything else stays as it came.
fn with_terminal(json: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let invalid = |error: serde_json::Error| Error::invalid(format!("process of exec: {error}"));
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(json).map_err(invalid)?;
    let value = RawValue::from_string(terminal.to_string()).map_err(invalid)?;
    fields.insert("terminal", &value);
    serde_json::to_vec(&fields).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_is_the_requests() {
        let json = br#"{"args":["sh"],"terminal":true,"future":{"a":[1]}}"#;
        let out: serde_json::Value = serde_json::from_slice(&with_terminal(json, false).unwrap()).unwrap();
        assert_eq!(out, serde_json::json!({"args": ["sh"], "terminal": false, "future": {"a": [1]}}));
        assert!(with_terminal(b"[]", true).is_err());
    }
}
