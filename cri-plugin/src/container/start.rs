//! A container is started: streams → task → started → written down → visible. Where that fails it has ended, with a
//! reason.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use windlass_api::convert::any;
use windlass_api::{cri, runc};
use windlass_core::container::Runtime;
use windlass_core::mount::Mount;
use windlass_core::task::CreateOptions;
use windlass_core::{Any, Error, Result, container};

use super::{START_FAILED, list, now, reason};
use crate::cri::Cri;
use crate::io::ContainerIo;
use crate::state::record::ContainerStatus;
use crate::state::{Container, Phase, Sandbox};
use crate::step;

/// How long the end of a task may take that is taken back.
const TAKE_BACK: Duration = Duration::from_secs(10);
/// Longest message that is kept about a failure, in bytes.
const MESSAGE: usize = 4 << 10;

impl Cri {
    pub async fn start_container(
        self: &Arc<Self>,
        request: cri::StartContainerRequest,
    ) -> Result<cri::StartContainerResponse> {
        let container = self.container(&request.container_id)?;
        let cri = self.clone();
        self.finish(async move { cri.start(&container).await }).await?;
        Ok(cri::StartContainerResponse {})
    }

    async fn start(self: Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _guard = container.lock.lock().await;
        self.still_there(container)?;
        match container.phase() {
            Phase::Created => {}
            // The caller has asked before, and has not heard the answer.
            Phase::Running => return Ok(()),
            phase => {
                return Err(Error::precondition(format!(
                    "container {} is {}, it can be started once only",
                    container.id,
                    list::word(phase)
                )));
            }
        }
        let _hold = self.hold_plugins().await;
        let started = self.start_unless_given_up(container).await;
        self.forget_checkpoint(container).await;
        match started {
            Ok(status) => {
                container.set_status(status);
                self.watch(container);
                self.tell(container, cri::ContainerEventType::ContainerStartedEvent).await;
                self.started_in_plugins(container).await;
                Ok(())
            }
            Err(error) => {
                self.start_failed(container, &error).await;
                Err(error.context(format!("start container {}", container.id)))
            }
        }
    }

    /// A start goes on by itself: a stop may give it up, because a hook hangs for example.
    async fn start_unless_given_up(self: &Arc<Self>, container: &Arc<Container>) -> Result<ContainerStatus> {
        let (cri, starting) = (self.clone(), container.clone());
        let mut work = self.work.spawn(async move {
            step!("container.start.begin");
            let status = cri.start_task(&starting).await?;
            step!("container.start.started");
            Ok(status)
        });
        tokio::select! {
            started = &mut work => {
                started.map_err(|error| Error::internal("the start was ended").with_source(error))?
            }
            () = container.given_up().cancelled() => {
                let (cri, container) = (self.clone(), container.clone());
                tokio::spawn(async move {
                    let _ = work.await;
                    cri.take_back(&container.id).await;
                    // The end, which the start may have written over.
                    let _guard = container.lock.lock().await;
                    let status = container.status().clone();
                    if cri.still_there(&container).is_ok() {
                        cri.write_end_at_last(&container, &status).await;
                    }
                });
                Err(Error::deadline("it was to be stopped, and its runtime, or a hook of it, did not answer"))
            }
        }
    }

    /// Neither removed nor about to be.
    pub(super) fn still_there(&self, container: &Arc<Container>) -> Result<()> {
        let there = self.state.containers.get(&container.id).is_ok_and(|now| Arc::ptr_eq(&now, container));
        if there && !container.removing() {
            return Ok(());
        }
        Err(Error::not_found(format!("container {} has been removed", container.id)))
    }

    /// A container that cannot be started has ended.
    async fn start_failed(self: &Arc<Self>, container: &Arc<Container>, error: &Error) {
        self.take_back(&container.id).await;
        if let Some(io) = container.set_io(None) {
            io.close().await;
        }
        self.stopped_in_plugins(container).await;
        let mut message = error.chain();
        message.truncate(message.floor_char_boundary(MESSAGE));
        let status = ContainerStatus {
            finished_at: now(),
            exit_code: START_FAILED,
            reason: reason::START.to_owned(),
            message,
            pid: 0,
            started_at: 0,
            ..container.status().clone()
        };
        self.write_end_at_last(container, &status).await;
        container.set_status(status);
        self.tell(container, cri::ContainerEventType::ContainerStoppedEvent).await;
    }

    /// Ends and deletes a task that nobody has seen. None is fine.
    pub(super) async fn take_back(&self, id: &str) {
        let kill = libc::SIGKILL.unsigned_abs();
        match self.tasks.kill(&self.cx, id, "", kill, false).await {
            Err(error) if error.is_not_found() => {}
            _ => {
                let _ = tokio::time::timeout(TAKE_BACK, self.tasks.wait(&self.cx, id, "")).await;
            }
        }
        self.delete_task(id).await;
    }

    /// All steps; answers what the container is then. On an error, some of it may be there.
    async fn start_task(self: &Arc<Self>, container: &Arc<Container>) -> Result<ContainerStatus> {
        let id = container.id.as_str();
        let sandbox = self.ready_sandbox(&container.record.sandbox_id)?;
        self.check_target(container)?;
        let (record, rootfs) = tokio::try_join!(self.written(id), self.rootfs(container))?;
        self.restore_log(container).await;
        let io = self.make_io(container).await?;
        container.set_io(Some(io.clone()));
        step!("container.start.io");
        let options = CreateOptions {
            spec: record.spec,
            options: io_owner(&record.runtime, &sandbox)?,
            runtime: record.runtime,
            rootfs,
            io: io.io(),
            sandbox_id: sandbox.id.clone(),
            checkpoint: self.images_of(container),
            ..CreateOptions::default()
        };
        let pid = self.tasks.create(&self.cx, id, options).await?;
        step!("container.start.created");
        if container.given_up().is_cancelled() {
            return Err(Error::deadline("it was to be stopped while its runtime did not answer"));
        }
        self.start_in_plugins(container, &sandbox).await?;
        let mut status = container.status().clone();
        (status.started_at, status.pid) = (now(), pid);
        // A crash between the two leaves a task that was not started, or one that was: the next start sees which.
        let (started, written) =
            tokio::join!(self.tasks.start(&self.cx, id, ""), self.write_status(container, &status));
        status.pid = started?;
        written?;
        Ok(status)
    }

    async fn written(&self, id: &str) -> Result<container::Container> {
        self.database.containers().get(&self.cx, id).await
    }

    /// Mounts that make the root file system.
    async fn rootfs(&self, container: &Container) -> Result<Vec<Mount>> {
        let name = &container.record.snapshotter;
        let snapshotter = self.database.snapshotter(name).ok_or_else(|| {
            Error::not_found(format!("snapshotter {name:?}, which has the container's files"))
        })?;
        snapshotter.mounts(&self.cx, &container.id).await
    }

    async fn make_io(&self, container: &Container) -> Result<Arc<ContainerIo>> {
        let config = container.config();
        ContainerIo::create(
            &self.io_root(),
            &container.id,
            config.tty,
            config.stdin,
            config.stdin_once,
            log(container),
            self.config.max_container_log_line_size,
        )
        .await
    }

    /// The container whose PID namespace this one is to share still runs: its namespace may be somebody else's by now.
    fn check_target(&self, container: &Container) -> Result<()> {
        let security = container.config().linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else {
            return Ok(());
        };
        if options.pid() != cri::NamespaceMode::Target {
            return Ok(());
        }
        self.target(&container.record.sandbox_id, &options.target_id).map(drop)
    }

    /// The container of a pod that another one wants to see the processes of.
    pub(super) fn target(&self, sandbox: &str, id: &str) -> Result<Arc<Container>> {
        let target = self.running(id).map_err(|error| error.context("target of the PID namespace"))?;
        if target.record.sandbox_id != sandbox {
            return Err(Error::invalid(format!(
                "target of the PID namespace: container {} is in another pod",
                target.id
            )));
        }
        Ok(target)
    }
}

/// Where a container's output goes.
pub(super) fn log(container: &Container) -> Option<&Path> {
    Some(Path::new(&container.record.log_path)).filter(|path| !path.as_os_str().is_empty())
}

/// Options for a pod with ids of its own, whose processes own the streams; the runtime's otherwise.
fn io_owner(runtime: &Runtime, sandbox: &Sandbox) -> Result<Option<Any>> {
    let Some(mapping) = crate::sandbox::user_namespace(sandbox.config())? else { return Ok(None) };
    let mut options = match &runtime.options {
        Some(options) if any::is::<runc::Options>(options) => any::unpack::<runc::Options>(options)?,
        Some(_) => return Ok(None),
        None => runc::Options::default(),
    };
    let root = |ids: &[windlass_network::namespaces::IdMap]| {
        ids.iter().find(|map| map.container == 0).map_or(0, |map| map.host)
    };
    (options.io_uid, options.io_gid) = (root(&mapping.uids), root(&mapping.gids));
    Ok(Some(any::pack(&options)))
}
