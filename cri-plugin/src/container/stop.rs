//! A container is stopped: its signal, a time of grace, a kill; and, where its shim does not answer, a kill past the shim.
//! A stop always ends. Another stop with less patience takes effect while a first one waits.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};
use windlass_api::cri;
use windlass_core::{Error, Result};

use super::{KILLED, now, reason};
use crate::cri::Cri;
use crate::state::{Container, Phase};
use crate::step;

/// How long whatever is being done to a container may take before it is stopped all the same.
const LOCK: Duration = Duration::from_secs(30);
/// How long a start may go on of a container that is to be stopped.
const START: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a killed container may take to be seen ended.
const KILL: Duration = Duration::from_secs(10);
/// How long its process may take to go, once killed past the shim.
const FORCE: Duration = Duration::from_secs(5);
/// Longest grace.
const GRACE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Kills a container at once; one that does not run is fine. Ends, whatever becomes of its shim.
pub async fn stop_at_once(cri: &Arc<Cri>, container: &Arc<Container>) -> Result<()> {
    cri.stop(container, Duration::ZERO).await
}

impl Cri {
    pub async fn stop_container(
        self: &Arc<Self>,
        request: cri::StopContainerRequest,
    ) -> Result<cri::StopContainerResponse> {
        let answer = cri::StopContainerResponse {};
        let container = match self.state.containers.get(&request.container_id) {
            Err(error) if error.is_not_found() => return Ok(answer),
            found => found?,
        };
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0)).min(GRACE);
        let cri = self.clone();
        self.finish(async move { cri.stop(&container, grace).await }).await?;
        Ok(answer)
    }

    pub(super) async fn stop(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Result<()> {
        if container.phase() == Phase::Created {
            // It may be about to run.
            let Ok(_guard) = timeout(START, container.lock.lock()).await else {
                container.given_up().cancel();
                return self.stop_given_up(container).await;
            };
        }
        if container.phase() != Phase::Running {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        step!("container.stop.begin");
        if !grace.is_zero() {
            let until = Instant::now() + grace;
            let asked = if container.take_signal() {
                self.signal(container, container.record.stop_signal, until).await
            } else {
                Ok(())
            };
            match asked {
                Ok(()) => {
                    if ended(container, until).await {
                        tracing::debug!(id = %container.id, elapsed = ?begun.elapsed(), "container stopped");
                        return Ok(());
                    }
                }
                // It is not going to end of that.
                Err(error) => {
                    tracing::warn!(id = %container.id, error = %error.chain(), "the stop signal is not taken");
                }
            }
        }
        step!("container.stop.kill");
        let until = Instant::now() + KILL;
        let killed = self.signal(container, libc::SIGKILL.unsigned_abs(), until).await;
        if killed.is_ok() && ended(container, until).await {
            tracing::debug!(id = %container.id, elapsed = ?begun.elapsed(), "container killed");
            return Ok(());
        }
        if let Err(error) = killed {
            tracing::warn!(id = %container.id, error = %error.chain(), "the shim does not kill the container");
        }
        self.force(container).await
    }

    /// Waits for the end of a start that was given up.
    async fn stop_given_up(&self, container: &Container) -> Result<()> {
        match timeout(LOCK, container.lock.lock()).await {
            Ok(_guard) if container.phase() != Phase::Running => Ok(()),
            Ok(_guard) => Err(Error::unavailable(format!(
                "container {} was started at the last moment, stop it again",
                container.id
            ))),
            Err(_) => Err(Error::deadline(format!(
                "container {} is being started, and its runtime does not answer",
                container.id
            ))),
        }
    }

    /// Sends a signal; returns early where the container has ended. A task that has gone ends by itself.
    async fn signal(&self, container: &Arc<Container>, signal: u32, until: Instant) -> Result<()> {
        let (tasks, cx, id) = (self.tasks.clone(), self.cx.clone(), container.id.clone());
        // By itself, because the shim may hang.
        let kill = self.work.spawn(async move { tasks.kill(&cx, &id, "", signal, false).await });
        tokio::select! {
            killed = timeout_at(until, kill) => match killed {
                Ok(Ok(Err(error))) if !error.is_not_found() => Err(error),
                Err(_) => Err(Error::deadline("the shim does not answer")),
                _ => Ok(()),
            },
            true = ended(container, until + KILL) => Ok(()),
        }
    }

    /// Kills the container's processes past its shim, and takes it for ended.
    async fn force(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let pid = container.status().pid;
        let (gone, shim) = kill_past(pid, &container.id).await;
        drop(container.set_hung_shim(shim));
        let _guard = timeout(LOCK, container.lock.lock()).await;
        if container.phase() != Phase::Running {
            return Ok(());
        }
        if !gone {
            return Err(Error::deadline(format!(
                "container {} does not end although it was killed (process {pid})",
                container.id
            )));
        }
        tracing::error!(id = %container.id, pid, "the shim does not answer; the container was killed past it");
        let mut status = container.status().clone();
        status.finished_at = now();
        status.exit_code = KILLED;
        status.reason = reason::ERROR.to_owned();
        status.message = "its shim did not answer, it was killed past it".to_owned();
        status.pid = 0;
        self.write_end(container, &status).await;
        if let Some(io) = container.set_io(None) {
            io.close().await;
        }
        self.stopped_in_plugins(container).await;
        container.set_status(status);
        self.tell(container, cri::ContainerEventType::ContainerStoppedEvent).await;
        Ok(())
    }
}

/// Waits until the container has ended; false where it has not by then.
async fn ended(container: &Container, until: Instant) -> bool {
    let mut status = container.follow();
    let end = status.wait_for(|status| status.phase() == Phase::Exited);
    timeout_at(until, end).await.is_ok_and(|end| end.is_ok())
}

/// Kills what is in the control group of a process, if it still is the container's; true once the process has gone. Answers
/// its shim too.
async fn kill_past(pid: u32, id: &str) -> (bool, Option<OwnedFd>) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return (true, None) };
    // Held before it is looked at: the number may become another's.
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) else { return (true, None) };
    let id = id.to_owned();
    let killed = tokio::task::spawn_blocking(move || {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
        let groups = read("cgroup").unwrap_or_default();
        if !groups.contains(&id) {
            return (None, None);
        }
        let shim = read("status").ok().and_then(|status| shim_of(&status));
        kill_groups(&groups, &id);
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        (Some(process), shim)
    });
    match killed.await {
        Ok((Some(process), shim)) => (has_gone(process).await, shim),
        Ok((None, _)) => (true, None),
        Err(_) => (false, None),
    }
}

/// The shim whose child a process is, by what `/proc/<pid>/status` says. Blocks.
fn shim_of(status: &str) -> Option<OwnedFd> {
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let parent = Pid::from_raw(parent)?;
    let process = rustix::process::pidfd_open(parent, PidfdFlags::empty()).ok()?;
    let program = std::fs::read_link(format!("/proc/{}/exe", parent.as_raw_nonzero())).ok()?;
    program.file_name()?.to_str()?.starts_with("containerd-shim").then_some(process)
}

async fn has_gone(process: OwnedFd) -> bool {
    // SAFETY: an owned descriptor has the same number until it is dropped, after it was taken out of the poller.
    let Ok(process) = (unsafe { AsyncFd::register(process) }) else { return false };
    timeout(FORCE, process.readable()).await.is_ok()
}

/// Kills all processes of the container's groups among those that `/proc/<pid>/cgroup` names. Blocks.
fn kill_groups(groups: &str, id: &str) {
    send_kills(groups, id);
    // Of cgroup v1, what is frozen does not even die.
    for (controllers, path) in own_groups(groups, id) {
        if controllers.split(',').any(|controller| controller == "freezer") {
            let _ = std::fs::write(format!("/sys/fs/cgroup/freezer{path}/freezer.state"), "THAWED");
        }
    }
}

/// Controllers and paths of the groups that are the container's.
fn own_groups<'a>(groups: &'a str, id: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    groups.lines().filter_map(move |line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        (path.contains(id) && !path.contains("..")).then_some((controllers, path))
    })
}

fn send_kills(groups: &str, id: &str) {
    for (controllers, path) in own_groups(groups, id) {
        let directory = match controllers {
            "" => format!("/sys/fs/cgroup{path}"),
            // Every process is in all hierarchies; one that everybody has is enough.
            "pids" | "memory" => format!("/sys/fs/cgroup/{controllers}{path}"),
            _ => continue,
        };
        if std::fs::write(format!("{directory}/cgroup.kill"), "1").is_ok() {
            return;
        }
        let processes = std::fs::read_to_string(format!("{directory}/cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
