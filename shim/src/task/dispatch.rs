//! From method names and bytes to calls and back. Versions 2 and 3 of the service have the same messages.

use std::rc::Rc;

use protobuf::Message;
use windlass_api::shim::task_v3 as api;

use super::Tasks;
use crate::error::{Error, Result};
use crate::sandbox;
use crate::ttrpc::{Call, Serve};

impl Serve for Tasks {
    fn knows(&self, service: &str) -> bool {
        matches!(service, "containerd.task.v2.Task" | "containerd.task.v3.Task" | sandbox::SERVICE)
    }

    fn waits(&self, method: &str) -> bool {
        method == "Wait"
    }

    /// The daemon may have died between the end of the last container and the shim's own.
    fn left_alone(&self) {
        self.shutdown();
    }

    async fn call(self: Rc<Self>, call: Call) -> Option<Result<Vec<u8>>> {
        self.activity.notify_one();
        let Call { service, method, payload } = call;
        if service == sandbox::SERVICE {
            return sandbox::call(&method, &payload);
        }
        // Boxed, so that a waiting call holds no more than it needs.
        Some(match method.as_str() {
            "State" => reply(read(&payload).and_then(|request| self.state(&request))),
            "Create" => match read(&payload) {
                Ok(request) => reply(Box::pin(self.create(request)).await),
                Err(error) => Err(error),
            },
            "Start" => match read(&payload) {
                Ok(request) => reply(Box::pin(self.start(request)).await),
                Err(error) => Err(error),
            },
            "Delete" => match read(&payload) {
                Ok(request) => reply(Box::pin(self.delete(request)).await),
                Err(error) => Err(error),
            },
            "Exec" => match read(&payload) {
                Ok(request) => empty(self.exec(request).await),
                Err(error) => Err(error),
            },
            "Kill" => match read(&payload) {
                Ok(request) => empty(Box::pin(self.kill(&request)).await),
                Err(error) => Err(error),
            },
            "Wait" => match read(&payload) {
                Ok(request) => reply(Box::pin(self.wait(&request)).await),
                Err(error) => Err(error),
            },
            "Pids" => reply(read(&payload).and_then(|request: api::PidsRequest| self.pids(&request.id))),
            "Stats" => reply(read(&payload).and_then(|request: api::StatsRequest| self.stats(&request.id))),
            "Connect" => reply(read(&payload).map(|request: api::ConnectRequest| self.connect(&request.id))),
            "ResizePty" => empty(read(&payload).and_then(|request| self.resize_pty(&request))),
            "CloseIO" => empty(read(&payload).and_then(|request| self.close_io(&request))),
            "Shutdown" => empty(read(&payload).map(|_: api::ShutdownRequest| self.shutdown())),
            _ => return Box::pin(self.change(&method, &payload)).await,
        })
    }
}

impl Tasks {
    async fn change(&self, method: &str, payload: &[u8]) -> Option<Result<Vec<u8>>> {
        Some(match method {
            "Pause" => match read::<api::PauseRequest>(payload) {
                Ok(request) => empty(self.pause(&request.id).await),
                Err(error) => Err(error),
            },
            "Resume" => match read::<api::ResumeRequest>(payload) {
                Ok(request) => empty(self.resume(&request.id).await),
                Err(error) => Err(error),
            },
            "Update" => match read(payload) {
                Ok(request) => empty(self.update(&request).await),
                Err(error) => Err(error),
            },
            "Checkpoint" => match read(payload) {
                Ok(request) => empty(self.checkpoint(&request).await),
                Err(error) => Err(error),
            },
            _ => return None,
        })
    }

    fn resize_pty(&self, request: &api::ResizePtyRequest) -> Result<()> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        process.resize(request.width, request.height)
    }

    fn close_io(&self, request: &api::CloseIORequest) -> Result<()> {
        self.container(&request.id)?.process(&request.exec_id)?.close_stdin();
        Ok(())
    }
}

pub(crate) fn read<T: Message>(payload: &[u8]) -> Result<T> {
    T::parse_from_bytes(payload).map_err(|error| Error::invalid(format!("unmarshal request: {error}")))
}

pub(crate) fn reply<T: Message>(result: Result<T>) -> Result<Vec<u8>> {
    result?.write_to_bytes().map_err(|error| Error::unknown(format!("marshal answer: {error}")))
}

/// `google.protobuf.Empty` has no bytes.
fn empty(result: Result<()>) -> Result<Vec<u8>> {
    result.map(|()| Vec::new())
}
