//! The end of a task: deleted, died with its shim, or never finished.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use protobuf::well_known_types::empty::Empty;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use windlass_api::convert::time;
use windlass_api::shim::task_v3 as v3;
use windlass_core::event::Event;
use windlass_core::task::Exit;
use windlass_core::{Class, Context};

use crate::bundle::{Bundle, hidden};
use crate::error::{Error, Result};
use crate::plugin::SOCKET_DIR;
use crate::step;
use crate::task::{KILLED, Task};
use crate::tasks::Inner;

/// How long an event of a deletion may take behind the answer to it.
const EVENT_GRACE: Duration = Duration::from_millis(200);
/// How long a shim may take to end after it agreed to.
const END_GRACE: Duration = Duration::from_secs(1);

impl Inner {
    /// Deletes a task that has ended: in the shim, then the shim, then the bundle.
    pub async fn delete(self: Arc<Self>, task: Arc<Task>) -> Result<Exit> {
        let mut ended = task.end.lock().await;
        if *ended {
            return Err(Error::NotFound(task.id().to_owned()));
        }
        step!("delete.begin");
        let answer = self.delete_in_shim(&task, "", self.limits().delete).await;
        let answer = match answer {
            Err(error) if error.is_closed() => {
                if self.reconnect(&task).await {
                    return Err(windlass_core::Error::unavailable(
                        "the connection to the shim broke, try again",
                    )
                    .into());
                }
                return Ok(self.bury(&task, &mut ended).await);
            }
            Err(error) if !error.is(Class::NotFound) => return Err(error.context("failed to delete task")),
            answer => answer,
        };
        step!("delete.deleted");
        let exit = answer.as_ref().ok().copied().unwrap_or_else(|| killed(&task));
        let _held = self.tasks.group(&task.bundle.namespace, &task.group).await;
        let alone = !task.shared && !self.tasks.shares(&task);
        let socket = alone.then(|| self.socket(&task)).flatten();
        let removed = self.remove_with(&task.bundle, socket);
        tokio::join!(removed, self.shut_down(&task, answer.is_ok(), alone));
        step!("delete.shutdown");
        let told = task.told().1;
        self.finish(&task, &mut ended, exit);
        if answer.is_ok() && !told {
            self.tell(&task.bundle.namespace, task.id(), exit, true, false);
        }
        answer
    }

    pub async fn delete_in_shim(&self, task: &Task, exec: &str, limit: Duration) -> Result<Exit> {
        let mut request = v3::DeleteRequest::new();
        request.id = task.id().to_owned();
        request.exec_id = exec.to_owned();
        let response: v3::DeleteResponse = if exec.is_empty() {
            task.shim.call("Delete", &request, Some(limit)).await?
        } else {
            task.call("Delete", &request, limit, false).await?
        };
        let at = time::from_shim(&response.exited_at).ok().flatten().unwrap_or_else(SystemTime::now);
        Ok(Exit { pid: response.pid, status: response.exit_status, at })
    }

    /// Lets the shim go, unless it serves something else. One that has no task yet would take it at its word, so it is not
    /// even asked then.
    async fn shut_down(&self, task: &Task, deleted: bool, alone: bool) {
        if !alone {
            return;
        }
        if deleted {
            // Some shims do not wait for their events when they end.
            task.wait_deleted(EVENT_GRACE).await;
        }
        let mut request = v3::ShutdownRequest::new();
        request.id = task.id().to_owned();
        let answer = task.shim.call::<Empty>("Shutdown", &request, Some(self.limits().shutdown)).await;
        match answer {
            // Until it has gone it may remove the socket of the next shim by this name.
            Ok(_) => task.wait_ended(END_GRACE).await,
            Err(error) if !error.is_closed() => {
                tracing::warn!(id = task.id(), error = %error.chain(), "the shim does not shut down");
                kill_in(self, &task.bundle, &task.binary).await;
            }
            Err(_) => {}
        }
    }

    /// Removes a bundle; what cannot be removed is left to the next start.
    pub async fn remove(&self, bundle: &Bundle) {
        self.remove_with(bundle, None).await;
    }

    async fn remove_with(&self, bundle: &Bundle, socket: Option<PathBuf>) {
        let own = bundle.clone();
        let removed = self.launcher.pool.end(move || {
            if let Some(socket) = socket {
                let _ = rustix::fs::unlink(socket);
            }
            own.remove()
        });
        match tokio::time::timeout(self.limits().cleanup, removed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(id = %bundle.id, error = %error.chain(), "a bundle is left over")
            }
            Err(_) => tracing::warn!(id = %bundle.id, "a bundle takes long to be removed"),
        }
    }

    /// The socket of a shim that serves nobody else. The shim removes it itself, if it still finds it without its bundle.
    fn socket(&self, task: &Task) -> Option<PathBuf> {
        let path = Path::new(task.shim.endpoint.address.strip_prefix("unix://")?);
        let known = [self.launcher.settings.socket_dir.as_path(), Path::new(SOCKET_DIR)];
        (known.contains(&path.parent()?) && !self.tasks.shares(task)).then(|| path.to_owned())
    }

    fn finish(&self, task: &Task, ended: &mut bool, exit: Exit) {
        *ended = true;
        self.tasks.remove(task);
        task.finish(exit);
    }

    /// Looks into the end of a connection: the shim may have died, or only the connection.
    pub fn closed(self: Arc<Self>, task: Arc<Task>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut ended = task.end.lock().await;
            if *ended || self.reconnect(&task).await {
                return;
            }
            self.bury(&task, &mut ended).await;
        })
    }

    /// Tries the shim's socket again. False where nobody listens there any more.
    async fn reconnect(self: &Arc<Self>, task: &Arc<Task>) -> bool {
        let mut request = v3::ConnectRequest::new();
        request.id = task.id().to_owned();
        for _ in 0..10 {
            match self.connect(task).await {
                Err(error) if is_dead(&error) => return false,
                Err(error) => {
                    tracing::warn!(id = task.id(), error = %error.chain(), "shim does not take a connection")
                }
                Ok(()) => {
                    let answer =
                        task.shim.call::<v3::ConnectResponse>("Connect", &request, Some(self.limits().load));
                    // A dying process may still take a connection. One that hangs has not died.
                    if !answer.await.is_err_and(|error| error.is_closed()) {
                        tracing::warn!(id = task.id(), "connected to the shim again");
                        task.reconnected();
                        return true;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Clears up after a shim that died, and tells subscribers what it did not.
    pub async fn bury(self: &Arc<Self>, task: &Arc<Task>, ended: &mut bool) -> Exit {
        let (id, namespace) = (task.id().to_owned(), &task.bundle.namespace);
        tracing::info!(%namespace, %id, "shim disconnected, clearing up");
        let _held = self.tasks.group(namespace, &task.group).await;
        let answered = match self.launcher.delete(&task.bundle, &task.binary).await {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::warn!(%namespace, %id, error = %error.chain(), "the shim's binary could not clear up");
                None
            }
        };
        self.remove_with(&task.bundle, self.socket(task)).await;
        // What the shim itself told is true; what its binary says is 137 at best.
        let mut exit = task.exit("").or(answered).unwrap_or_else(|| killed(task));
        if exit.pid == 0 {
            exit.pid = task.pid();
        }
        self.finish(task, ended, exit);
        let (exit_told, delete_told) = task.told();
        self.tell(namespace, &id, exit, exit_told, delete_told);
        exit
    }

    /// Publishes the end of a task on behalf of a shim that cannot.
    pub fn tell(&self, namespace: &str, id: &str, exit: Exit, exit_told: bool, delete_told: bool) {
        let cx = Context::new(namespace);
        let Exit { pid, status: exit_status, at: exited_at } = exit;
        let container_id = id.to_owned();
        if !exit_told {
            let id = container_id.clone();
            self.exchange
                .publish(&cx, Event::TaskExit { container_id: id.clone(), id, pid, exit_status, exited_at });
        }
        if !delete_told {
            let id = String::new();
            self.exchange.publish(&cx, Event::TaskDelete { container_id, id, pid, exit_status, exited_at });
        }
    }

    /// Takes back a task that was never finished: nobody has seen it. The caller holds the group.
    pub async fn abandon(self: &Arc<Self>, task: &Arc<Task>) {
        let deleted = self.delete_in_shim(task, "", self.limits().cleanup).await;
        let clean = deleted.is_ok() || deleted.is_err_and(|e| e.is(Class::NotFound));
        let serves_others = task.shared || self.tasks.shares(task);
        let down = serves_others || {
            let mut request = v3::ShutdownRequest::new();
            (request.id, request.now) = (task.id().to_owned(), true);
            let down = task.shim.call::<Empty>("Shutdown", &request, Some(self.limits().shutdown)).await;
            let down = down.is_ok() || down.is_err_and(|e| e.is_closed());
            if down {
                task.wait_ended(END_GRACE).await;
            }
            down
        };
        if clean && down {
            self.remove(&task.bundle).await;
        } else if serves_others {
            // The shim serves others; its binary clears up for this one alone.
            self.discard_shared(&task.bundle, &task.binary).await;
        } else {
            self.discard(&task.bundle, &task.binary).await;
        }
        if let Some(socket) = self.socket(task) {
            let _ = self.launcher.pool.end(move || Ok(rustix::fs::unlink(socket))).await;
        }
        task.finish(killed(task));
    }

    /// Clears up after a shim that nobody talks to: kills it, lets its binary delete, removes the bundle.
    pub async fn discard(&self, bundle: &Bundle, binary: &Path) {
        kill_in(self, bundle, binary).await;
        self.discard_shared(bundle, binary).await;
    }

    async fn discard_shared(&self, bundle: &Bundle, binary: &Path) {
        if let Err(error) = self.launcher.delete(bundle, binary).await {
            tracing::warn!(id = %bundle.id, error = %error.chain(), "the shim's binary could not clear up");
        }
        self.remove(bundle).await;
    }
}

/// Nobody listens at the address, so nobody ever will.
pub fn is_dead(error: &Error) -> bool {
    let Error::Connect { source, .. } = error else { return false };
    matches!(
        source.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR)
    )
}

/// The end of a task of which nothing else is known.
fn killed(task: &Task) -> Exit {
    task.exit("").unwrap_or_else(|| Exit { pid: task.pid(), status: KILLED, at: SystemTime::now() })
}

/// The end of a task of which nothing at all is known.
pub fn lost() -> Exit {
    Exit { pid: 0, status: KILLED, at: SystemTime::now() }
}

async fn kill_in(manager: &Inner, bundle: &Bundle, binary: &Path) {
    let (directory, binary) = (bundle.path.clone(), binary.to_owned());
    let killed = manager.launcher.pool.end(move || {
        kill_processes(&directory, &binary);
        Ok(())
    });
    let _ = killed.await;
}

/// Kills the processes that run `binary` in `directory`: how a shim that does not answer is known for sure. Blocks, and
/// reads all of /proc; only for what has gone wrong.
fn kill_processes(directory: &Path, binary: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let Ok(binary) = binary.canonicalize() else { return };
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let hidden = hidden(directory);
    let is = |link: std::io::Result<std::path::PathBuf>, paths: &[&Path]| {
        link.is_ok_and(|link| {
            let name = link.as_os_str().as_bytes();
            let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
            paths.iter().any(|path| path.as_os_str().as_bytes() == name)
        })
    };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        if is(std::fs::read_link(entry.path().join("cwd")), &[directory, &hidden])
            && is(std::fs::read_link(entry.path().join("exe")), &[&binary])
        {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), "killing a shim that was given up");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
