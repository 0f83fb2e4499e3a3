//! Clients at a container's streams: where they are to connect, and what happens once they do.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use windlass_api::cri;
use windlass_core::{Error, Result};
use windlass_streaming::{Attach, Duplex, Exec, Handler, Streams};

use crate::cri::Cri;
use crate::io::AttachStreams;

/// What stands behind the streaming server. It does not keep the plugin alive.
pub struct Streaming(pub Weak<Cri>);

impl Cri {
    /// Answers where the client is to connect.
    pub async fn exec(self: &Arc<Self>, request: cri::ExecRequest) -> Result<cri::ExecResponse> {
        check(request.tty, request.stdin, request.stdout, request.stderr)?;
        if request.cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("a command to execute must be given"));
        }
        let container = self.running(&request.container_id)?;
        let url = self.streaming_server()?.exec_url(Exec {
            container_id: container.id.clone(),
            cmd: request.cmd,
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })?;
        Ok(cri::ExecResponse { url })
    }

    /// Answers where the client is to connect.
    pub async fn attach(self: &Arc<Self>, request: cri::AttachRequest) -> Result<cri::AttachResponse> {
        check(request.tty, request.stdin, request.stdout, request.stderr)?;
        let container = self.running(&request.container_id)?;
        let url = self.streaming_server()?.attach_url(Attach {
            container_id: container.id.clone(),
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })?;
        Ok(cri::AttachResponse { url })
    }

    async fn attach_client(self: Arc<Self>, request: Attach, streams: Streams) -> Result<()> {
        let container = self.running(&request.container_id)?;
        let io = container
            .io()
            .ok_or_else(|| Error::precondition(format!("container {} has no streams", container.id)))?;
        let Streams { stdin, stdout, stderr, resize, gone } = streams;
        let attached =
            io.attach(AttachStreams { stdin, stdout, stderr }, self.close_stdin(&container.id, ""));
        tokio::select! {
            attached = attached => attached,
            () = self.resize(&container.id, "", resize) => Ok(()),
            () = gone.cancelled() => Ok(()),
        }
    }
}

/// Which streams can be asked for at once.
fn check(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<()> {
    if !(stdin || stdout || stderr) {
        return Err(Error::invalid("one of stdin, stdout, or stderr must be set"));
    }
    if tty && stderr {
        return Err(Error::invalid("tty and stderr cannot both be true: a terminal has one output"));
    }
    Ok(())
}

impl Streaming {
    fn plugin(&self) -> Result<Arc<Cri>> {
        self.0.upgrade().ok_or_else(|| Error::unavailable("the daemon is going down"))
    }
}

#[async_trait]
impl Handler for Streaming {
    async fn exec(&self, request: Exec, io: Streams) -> Result<i32> {
        let cri = self.plugin()?;
        let container = cri.running(&request.container_id)?;
        cri.run_for(container, request.cmd, request.tty, io).await
    }

    async fn attach(&self, request: Attach, io: Streams) -> Result<()> {
        self.plugin()?.attach_client(request, io).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16, mut stream: Box<dyn Duplex>) -> Result<()> {
        self.plugin()?.forward(sandbox, port, &mut *stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_one_output() {
        assert!(check(true, true, true, false).is_ok());
        assert!(check(false, false, true, true).is_ok());
        assert!(check(true, false, true, true).is_err());
        assert!(check(false, false, false, false).is_err());
    }
}
