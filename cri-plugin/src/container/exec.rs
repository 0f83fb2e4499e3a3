//! Processes beside a container's own: run to their end with their output gathered, or connected to a client.
//!
//! A process that was begun is ended and deleted whatever becomes of who asked for it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use windlass_api::cri;
use windlass_core::task::{ExecOptions, Exit};
use windlass_core::{Any, Error, Result};
use windlass_streaming::{Size, Streams};

use crate::cri::{Cri, new_id};
use crate::io::{AttachStreams, CloseStdin, Ended, ExecIo};
use crate::spec;
use crate::state::Container;
use crate::step;

/// Output that is kept for the answer, of both streams together, in bytes: what a message may have, less what else is
/// in it. Clients take no larger one.
const LIMIT: usize = (16 << 20) - 1024;
/// Type of a process's specification.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How long the end of a killed process may take.
const KILL: Duration = Duration::from_secs(10);
/// How long output may last after its process was killed or its client has gone.
const DRAIN: Duration = Duration::from_secs(1);

/// A process that was made: ended and deleted when dropped.
struct Process {
    cri: Arc<Cri>,
    container: String,
    id: String,
    done: AtomicBool,
}

/// The part of a specification that is of use here.
#[derive(Deserialize)]
struct Spec {
    process: Option<Value>,
}

impl Cri {
    pub async fn exec_sync(self: &Arc<Self>, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse> {
        let container = self.running(&request.container_id)?;
        let limit = u64::try_from(request.timeout).ok().filter(|n| *n > 0).map(Duration::from_secs);
        let cri = self.clone();
        // Nobody takes the answer once the call was dropped: then the process goes, and is not waited for.
        let gone = CancellationToken::new();
        let _caller = gone.clone().drop_guard();
        self.finish(async move {
            let ran = cri.gather(&container, &request.cmd, limit, &gone).await;
            ran.map_err(|error| error.context(format!("exec in container {}", container.id)))
        })
        .await
    }

    /// Runs a command to its end and gathers what it writes, both within the limit and while somebody waits for it.
    async fn gather(
        self: Arc<Self>,
        container: &Arc<Container>,
        cmd: &[String],
        limit: Option<Duration>,
        gone: &CancellationToken,
    ) -> Result<cri::ExecSyncResponse> {
        let (exec, root) = (new_id()?, self.io_root());
        let (io, process) = tokio::try_join!(
            ExecIo::create(&root, &container.id, &exec, false, false, true, true),
            self.process(container, cmd, false)
        )?;
        let process = self.begin(container, exec, &io, process).await?;
        let output = io.collect(LIMIT);
        process.start().await?;
        let began = Instant::now();
        let ended = tokio::select! {
            exit = bounded(limit, process.wait()) => exit.ok_or_else(|| overdue(limit)),
            () = gone.cancelled() => Err(left()),
        };
        let exit = match ended {
            Ok(exit) => exit?,
            Err(error) => {
                process.kill().await;
                output.finish(Some(DRAIN)).await;
                process.delete().await;
                return Err(error);
            }
        };
        let rest = limit.map(|limit| limit.saturating_sub(began.elapsed()).max(DRAIN));
        let drain = self.config.drain_timeout().or(rest);
        let mut output = tokio::select! {
            (output, ()) = async { tokio::join!(output.finish(drain), process.delete()) } => output,
            () = gone.cancelled() => return Err(left()),
        };
        if !output.complete {
            return Err(Error::deadline(
                "the process has ended, but others that it left behind hold its output; they were given up",
            ));
        }
        fit(&mut output.stdout, &mut output.stderr, LIMIT);
        Ok(cri::ExecSyncResponse {
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            exit_code: i32::try_from(exit.status).unwrap_or(super::UNKNOWN),
        })
    }

    /// Runs a command for a client; answers its exit code. Where the client goes away, the process is killed.
    pub(super) async fn run_for(
        self: Arc<Self>,
        container: Arc<Container>,
        cmd: Vec<String>,
        tty: bool,
        streams: Streams,
    ) -> Result<i32> {
        let Streams { stdin, stdout, stderr, resize, gone } = streams;
        let (exec, root) = (new_id()?, self.io_root());
        let (mut io, process) = tokio::try_join!(
            ExecIo::create(
                &root,
                &container.id,
                &exec,
                tty,
                stdin.is_some(),
                stdout.is_some() || tty,
                stderr.is_some()
            ),
            self.process(&container, &cmd, tty)
        )?;
        let process = self.begin(&container, exec, &io, process).await?;
        process.start().await?;
        let sizes = self.resize(&container.id, &process.id, resize);
        let close = self.close_stdin(&container.id, &process.id);
        let copied = async {
            if let Ok(Ended::Client) = io.copy(AttachStreams { stdin, stdout, stderr }, close).await {
                // Nobody reads any more, and the process must not wait for that.
                io.discard().await;
            }
        };
        let exit = {
            let waited = process.wait();
            tokio::pin!(waited, copied, sizes);
            let mut copying = true;
            loop {
                tokio::select! {
                    exit = &mut waited => {
                        let exit = exit?;
                        // What it has written still goes to the client.
                        let rest = async {
                            tokio::join!(
                                async { if copying { copied.as_mut().await } },
                                process.delete()
                            );
                        };
                        tokio::select! {
                            _ = bounded(self.config.drain_timeout(), rest) => {}
                            () = gone.cancelled() => {}
                        }
                        break Some(exit);
                    }
                    () = &mut copied, if copying => copying = false,
                    () = &mut sizes => {}
                    () = gone.cancelled() => break None,
                }
            }
        };
        let Some(exit) = exit else {
            process.kill().await;
            process.delete().await;
            return Err(left());
        };
        Ok(i32::try_from(exit.status).unwrap_or(super::UNKNOWN))
    }

    /// Closes the input of a container's or an exec's process.
    pub(super) fn close_stdin(&self, container: &str, exec: &str) -> CloseStdin {
        let (tasks, cx) = (self.tasks.clone(), self.cx.clone());
        let (container, exec) = (container.to_owned(), exec.to_owned());
        Box::new(move || Box::pin(async move { tasks.close_io(&cx, &container, &exec).await }))
    }

    /// Follows a client's terminal; never comes back.
    pub(super) async fn resize(&self, container: &str, exec: &str, mut sizes: mpsc::Receiver<Size>) {
        while let Some(size) = sizes.recv().await {
            let (width, height) = (size.width.into(), size.height.into());
            if let Err(error) = self.tasks.resize_pty(&self.cx, container, exec, width, height).await {
                tracing::debug!(container, exec, error = %error.chain(), "a terminal is not resized");
            }
        }
        std::future::pending().await
    }

    /// Directory of all streams.
    pub(super) fn io_root(&self) -> std::path::PathBuf {
        self.state_dir.join("io")
    }

    /// What is to be run: the container's own process with another command.
    async fn process(&self, container: &Container, cmd: &[String], tty: bool) -> Result<Any> {
        if cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("a command to execute must be given"));
        }
        let record = self.database.containers().get(&self.cx, &container.id).await?;
        let unreadable =
            || Error::data_loss(format!("container {} has no readable specification", container.id));
        let spec = record.spec.ok_or_else(unreadable)?;
        let spec: Spec = serde_json::from_slice(&spec.value).map_err(|e| unreadable().with_source(e))?;
        let process = spec::exec(&spec.process.ok_or_else(unreadable)?, cmd, tty);
        let value =
            serde_json::to_vec(&process).map_err(|e| Error::internal("a process as JSON").with_source(e))?;
        Ok(Any { type_url: PROCESS.to_owned(), value: value.into() })
    }

    /// Makes the process in the shim. From then on it is taken back when dropped.
    async fn begin(
        self: &Arc<Self>,
        container: &Container,
        id: String,
        io: &ExecIo,
        spec: Any,
    ) -> Result<Process> {
        let options = ExecOptions { io: io.io(), spec: Some(spec) };
        self.tasks.exec(&self.cx, &container.id, &id, options).await?;
        let process =
            Process { cri: self.clone(), container: container.id.clone(), id, done: AtomicBool::new(false) };
        step!("container.exec.made");
        Ok(process)
    }
}

impl Process {
    async fn start(&self) -> Result<()> {
        self.cri.tasks.start(&self.cri.cx, &self.container, &self.id).await.map(drop)
    }

    fn wait(&self) -> impl Future<Output = Result<Exit>> {
        self.cri.tasks.wait(&self.cri.cx, &self.container, &self.id)
    }

    /// Kills it and waits for its end, a while.
    async fn kill(&self) {
        kill(&self.cri, &self.container, &self.id).await;
    }

    /// Deletes it, once it has ended. What others hold open of its output is given up.
    async fn delete(&self) {
        delete(&self.cri, &self.container, &self.id).await;
        self.done.store(true, Ordering::Release);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if *self.done.get_mut() {
            return;
        }
        let (cri, container, id) =
            (self.cri.clone(), std::mem::take(&mut self.container), std::mem::take(&mut self.id));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let tracker = cri.work.clone();
        tracker.spawn_on(
            async move {
                kill(&cri, &container, &id).await;
                delete(&cri, &container, &id).await;
            },
            &runtime,
        );
    }
}

async fn kill(cri: &Cri, container: &str, exec: &str) {
    let killed = cri.tasks.kill(&cri.cx, container, exec, libc::SIGKILL.unsigned_abs(), false).await;
    match killed {
        // Ended by itself, or never started.
        Err(error) if error.is_not_found() => return,
        Err(error) => tracing::debug!(container, exec, error = %error.chain(), "a process is not killed"),
        Ok(()) => {}
    }
    if tokio::time::timeout(KILL, cri.tasks.wait(&cri.cx, container, exec)).await.is_err() {
        tracing::warn!(container, exec, "a killed process does not end");
    }
}

async fn delete(cri: &Cri, container: &str, exec: &str) {
    match cri.tasks.delete(&cri.cx, container, exec).await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(container, exec, error = %error.chain(), "a process that has ended is not deleted");
        }
        _ => {}
    }
}

fn overdue(limit: Option<Duration>) -> Error {
    let limit = go_duration(limit.unwrap_or_default());
    Error::deadline(format!("timeout {limit} exceeded: context deadline exceeded"))
}

fn left() -> Error {
    Error::canceled("the client has gone, its process was killed")
}

/// Cuts both outputs so that together they are within a limit; neither takes the other's half.
fn fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>, limit: usize) {
    stderr.truncate(limit.saturating_sub(stdout.len()).max(limit / 2));
    stdout.truncate(limit - stderr.len());
}

/// A future with a limit, or without one.
async fn bounded<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Whole seconds as Go prints a duration: `1m30s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_fit_into_one_message() {
        let cut = |out, err| {
            let (mut out, mut err) = (vec![b'o'; out], vec![b'e'; err]);
            fit(&mut out, &mut err, 10);
            (out.len(), err.len())
        };
        assert_eq!(
            [cut(3, 7), cut(20, 0), cut(0, 20), cut(20, 20), cut(20, 2), cut(2, 20)],
            [(3, 7), (10, 0), (0, 10), (5, 5), (8, 2), (2, 8)]
        );
    }

    #[test]
    fn durations_are_printed_as_go_does() {
        let text = |seconds| go_duration(Duration::from_secs(seconds));
        assert_eq!([text(5), text(90), text(3600)], ["5s", "1m30s", "1h0m0s"]);
    }
}
