//! Task types on the wire.

use windlass_api::convert::{any, task, time};
use windlass_api::services::tasks::DeleteResponse;
use windlass_api::types;
use windlass_core::task::{Exit, Io, Metrics, Process, State};

pub fn io(stdin: String, stdout: String, stderr: String, terminal: bool) -> Io {
    Io { stdin, stdout, stderr, terminal }
}

pub fn process(state: State) -> types::task::Process {
    let id = if state.exec_id.is_empty() { state.container_id.clone() } else { state.exec_id };
    types::task::Process {
        container_id: state.container_id,
        id,
        pid: state.pid,
        status: task::to_wire(state.status).into(),
        stdin: state.io.stdin,
        stdout: state.io.stdout,
        stderr: state.io.stderr,
        terminal: state.io.terminal,
        exit_status: state.exit_status,
        exited_at: Some(time::to_wire(state.exited_at.unwrap_or_else(time::zero))),
    }
}

pub fn deleted(id: String, exit: Exit) -> DeleteResponse {
    DeleteResponse { id, pid: exit.pid, exit_status: exit.status, exited_at: Some(time::to_wire(exit.at)) }
}

pub fn pid(process: Process) -> types::task::ProcessInfo {
    types::task::ProcessInfo { pid: process.pid, info: process.info.map(any::to_wire) }
}

pub fn metric(metrics: Metrics) -> types::Metric {
    types::Metric {
        timestamp: Some(time::to_wire(metrics.at)),
        id: metrics.id,
        data: metrics.data.map(any::to_wire),
    }
}
