//! Processes: started, attached to this terminal, waited for.

use std::process::ExitCode;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use windlass_api::services::tasks::{CloseIoRequest, KillRequest, ResizePtyRequest, StartRequest, WaitRequest};

use super::{io::Fifos, terminal};
use crate::client::Client;

/// A container's own process, or with an exec id another one in it.
#[derive(Clone)]
pub struct Process {
    pub container: String,
    pub exec: String,
}

/// Exit code of a process as a shell shows it.
pub fn exit_code(status: u32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(255))
}

impl Process {
    pub async fn start(&self, client: &Client) -> Result<u32> {
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        Ok(client.tasks().start(request).await?.into_inner().pid)
    }

    pub async fn resize(&self, client: &Client) {
        let Some((width, height)) = terminal::size() else { return };
        let request =
            ResizePtyRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), width, height };
        // The process may have ended meanwhile.
        let _ = client.tasks().resize_pty(request).await;
    }

    pub fn close_stdin(&self, client: &Client) -> impl FnOnce() + Send + 'static {
        let (client, process) = (client.clone(), self.clone());
        let runtime = tokio::runtime::Handle::current();
        move || {
            runtime.spawn(async move {
                let request = CloseIoRequest { container_id: process.container, exec_id: process.exec, stdin: true };
                let _ = client.tasks().close_io(request).await;
            });
        }
    }

    /// Starts a process whose streams are being copied, passes this terminal's size and signals on, and answers its exit status.
    pub async fn run_attached(&self, client: &Client, fifos: &mut Fifos, with_terminal: bool) -> Result<u32> {
        let wait = WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let mut waiter = client.tasks();
        let mut waiting = tokio::spawn(async move { waiter.wait(wait).await });
        let raw = if with_terminal { Some(terminal::Raw::enter()?) } else { None };
        self.start(client).await?;
        if with_terminal {
            self.resize(client).await;
        }
        let mut resized = signal(SignalKind::window_change())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let status = loop {
            tokio::select! {
                answer = &mut waiting => break answer??.into_inner().exit_status,
                _ = resized.recv(), if with_terminal => self.resize(client).await,
                _ = interrupted.recv() => self.signal(client, 2).await,
                _ = terminated.recv() => self.signal(client, 15).await,
            }
        };
        fifos.drain().await;
        drop(raw);
        Ok(status)
    }

    async fn signal(&self, client: &Client, signal: u32) {
        let request =
            KillRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), signal, all: false };
        let _ = client.tasks().kill(request).await;
    }
}
