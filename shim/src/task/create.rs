//! Create, Start and Delete: a container's life. Each step has a failpoint, and a failed step undoes those before it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use protobuf::MessageField;
use tokio::task::spawn_local;
use windlass_api::shim::{events, task_v3 as api};

use super::{Tasks, check_id};
use crate::cgroup::{Cgroup, News, OomEvents};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::io::{ProcessIo, Stdio};
use crate::log;
use crate::mount::{self, Mount};
use crate::options::Options;
use crate::process::{Process, State};
use crate::runtime::{Restore, Runtime, criu_reason};
use crate::spec::Spec;
use crate::time;

/// How long a deletion waits for a reader to take what is left of the output.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

impl Tasks {
    pub(super) async fn create(
        self: &Rc<Self>,
        request: api::CreateTaskRequest,
    ) -> Result<api::CreateTaskResponse> {
        check_id(&request.id)?;
        if self.containers.borrow().contains_key(&request.id)
            || !self.creating.borrow_mut().insert(request.id.clone())
        {
            return Err(Error::exists(format!("container {}", request.id)));
        }
        let result = self.create_new(&request).await;
        self.creating.borrow_mut().remove(&request.id);
        let pid = result?;
        let mut response = api::CreateTaskResponse::new();
        response.pid = pid;
        Ok(response)
    }

    async fn create_new(self: &Rc<Self>, request: &api::CreateTaskRequest) -> Result<u32> {
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Error::invalid(format!("bundle {:?} is not an absolute path", request.bundle)));
        }
        let options = Options::from_any(request.options.as_ref())?;
        options.write(&bundle)?;
        let spec = Spec::read(&bundle)?;
        let runtime =
            Runtime::new(&request.id, &bundle, &self.namespace, &options, spec.has_hooks(), &self.reaper)?;
        let mounts: Vec<Mount> = request.rootfs.iter().map(from_wire).collect();
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let mut container = Container::new(
            &request.id,
            bundle,
            options,
            runtime,
            Process::new(&request.id, stdio, Vec::new()),
        );
        container.shares_pids = spec.shares_pids();
        // CRIU can dump pipes that the shim holds the other ends of, and no fifos of the host's.
        container.direct_io = matches!(container.runtime, Runtime::Embedded(_))
            && !spec.confined()
            && container.options.io_uid == 0
            && container.options.io_gid == 0;
        drop(spec);
        failpoint!("shim.create.begin");
        if !mounts.is_empty() {
            let rootfs = mount::make_rootfs(&container.bundle)?;
            mount::mount_all(&mounts, &rootfs)
                .map_err(|error| Error::unknown(format!("failed to mount rootfs component: {error}")))?;
            container.mounted = true;
        }
        let container = Rc::new(container);
        match self.launch_init(&container, request).await {
            Ok(()) => Ok(container.init.pid.get()),
            Err(error) => {
                self.undo_create(&container).await;
                Err(error)
            }
        }
    }

    async fn launch_init(
        self: &Rc<Self>,
        container: &Rc<Container>,
        request: &api::CreateTaskRequest,
    ) -> Result<()> {
        failpoint!("shim.create.mounted");
        let _launch = self.reaper.launch();
        if request.checkpoint.is_empty() {
            self.create_process(container).await?;
        } else {
            let Runtime::External(_) = &container.runtime else {
                return Err(Error::unimplemented(
                    "restore needs an external runtime with CRIU, such as runc; set it as the runtime option BinaryName",
                ));
            };
            let work = match container.options.criu_work_path.as_str() {
                "" => container.bundle.join("work").display().to_string(),
                path => path.to_owned(),
            };
            *container.restore.borrow_mut() = Some(Restore {
                image: request.checkpoint.clone(),
                work,
                parent: request.parent_checkpoint.clone(),
            });
        }
        failpoint!("shim.create.created");
        let pid = container.init.pid.get();
        self.containers.borrow_mut().insert(container.id.clone(), Rc::clone(container));
        let mut event = events::TaskCreate::new();
        event.container_id = request.id.clone();
        event.bundle = request.bundle.clone();
        event.rootfs = request.rootfs.clone();
        let mut io = events::TaskIO::new();
        io.stdin = request.stdin.clone();
        io.stdout = request.stdout.clone();
        io.stderr = request.stderr.clone();
        io.terminal = request.terminal;
        event.io = MessageField::some(io);
        event.checkpoint = request.checkpoint.clone();
        event.pid = pid;
        self.publisher.send("/tasks/create", "containerd.events.TaskCreate", &event);
        if pid != 0 {
            self.follow(container, &container.init);
        }
        Ok(())
    }

    /// Makes init with its streams.
    async fn create_process(self: &Rc<Self>, container: &Rc<Container>) -> Result<()> {
        let init = &container.init;
        let setup = self.setup(container, &container.id);
        let (io, child) = ProcessIo::open(&init.stdio, &setup, &self.reaper)
            .await
            .map_err(|error| prefix("failed to create init process I/O", error))?;
        let restore = container.restore.borrow_mut().take();
        let launched = match restore {
            None => container.runtime.create(child).await?,
            Some(restore) => {
                let restored = container.runtime.restore(&restore, child).await;
                restored.map_err(|error| why_not_restored(error, &restore))?
            }
        };
        if let Some(master) = launched.console {
            io.attach_console(master, &init.stdio, &setup, &self.reaper)
                .await
                .map_err(|error| prefix("failed to start console copy", error))?;
        }
        *init.io.borrow_mut() = Some(Rc::new(io));
        init.pid.set(launched.pid);
        self.watch_group(container);
        Ok(())
    }

    /// Finds init's control group, and follows its OOM kills.
    fn watch_group(self: &Rc<Self>, container: &Rc<Container>) {
        let cgroup = match Cgroup::of(container.init.pid.get()) {
            Ok(cgroup) => cgroup,
            Err(error) => return log::error!("find cgroup of {}: {error}", container.id),
        };
        let oom = OomEvents::of(&cgroup);
        *container.cgroup.borrow_mut() = Some(cgroup);
        let oom = match oom {
            Ok(oom) => Rc::new(oom),
            Err(error) => return log::error!("watch OOM kills of {}: {error}", container.id),
        };
        *container.oom.borrow_mut() = Some(Rc::clone(&oom));
        let (tasks, id) = (Rc::clone(self), container.id.clone());
        let task = spawn_local(async move {
            loop {
                match oom.next().await {
                    Ok(News::Killed) => tasks.send_oom(&id),
                    Ok(News::Nothing) => {}
                    Ok(News::Over) | Err(_) => return,
                }
            }
        });
        *container.oom_task.borrow_mut() = Some(task.abort_handle());
    }

    async fn undo_create(&self, container: &Rc<Container>) {
        self.containers.borrow_mut().remove(&container.id);
        if let Err(error) = container.runtime.delete(true).await {
            log::warning!("remove {} after its creation failed: {error}", container.id);
        }
        if container.mounted
            && let Err(error) = mount::unmount_all(&container.bundle.join("rootfs"))
        {
            log::warning!("unmount {} after its creation failed: {error}", container.id);
        }
    }

    pub(super) async fn start(self: &Rc<Self>, request: api::StartRequest) -> Result<api::StartResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let _held = process.lock.lock().await;
        if container.is_init(&process) {
            self.start_init(&container).await?;
        } else {
            self.start_exec(&container, &process).await?;
        }
        let mut response = api::StartResponse::new();
        response.pid = process.pid.get();
        Ok(response)
    }

    async fn start_init(self: &Rc<Self>, container: &Rc<Container>) -> Result<()> {
        let init = &container.init;
        match init.state.get() {
            State::Created => {}
            State::Running => return Err(Error::unknown("cannot start a running process")),
            State::Stopped => return Err(Error::unknown("cannot start a stopped process")),
        }
        failpoint!("shim.start.begin");
        let restored = container.restore.borrow().is_some();
        let _launch = self.reaper.launch();
        init.starting.set(true);
        let result = match restored {
            true => self.create_process(container).await,
            false => container.runtime.start().await,
        };
        init.starting.set(false);
        if result.is_ok() {
            if init.early.get().is_none() {
                init.state.set(State::Running);
            }
            let mut event = events::TaskStart::new();
            event.container_id = container.id.clone();
            event.pid = init.pid.get();
            self.publisher.send("/tasks/start", "containerd.events.TaskStart", &event);
            if let Some(io) = init.io.borrow().as_ref()
                && let Err(error) = io.open_stdin()
            {
                log::error!("stdin of {}: {error}", container.id);
            }
            if restored {
                self.follow(container, init);
            }
        }
        if let Some(exit) = init.early.take() {
            init.state.set(State::Running);
            self.init_ended(container, exit);
        }
        failpoint!("shim.start.started");
        result
    }

    pub(super) async fn delete(self: &Rc<Self>, request: api::DeleteRequest) -> Result<api::DeleteResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let _held = process.lock.lock().await;
        // Another deletion may have been first.
        let container = self.container(&container.id)?;
        if container.is_init(&process) {
            self.delete_init(&container).await?;
        } else {
            container.process(&request.exec_id)?;
            self.delete_exec(&container, &process).await?;
        }
        let mut response = api::DeleteResponse::new();
        response.pid = process.pid.get();
        response.exit_status = process.exit().map_or(0, |exit| exit.status);
        response.exited_at = time::field(process.exit().map(|exit| exit.at));
        Ok(response)
    }

    async fn delete_init(self: &Rc<Self>, container: &Rc<Container>) -> Result<()> {
        let init = &container.init;
        match (container.status(init), init.state.get()) {
            (_, State::Stopped) => {}
            (_, State::Created) => self.end_created(container).await,
            ("paused" | "pausing", _) => return Err(Error::unknown("cannot delete a paused process")),
            _ => return Err(Error::unknown("cannot delete a running process")),
        }
        failpoint!("shim.delete.begin");
        let io = init.io.borrow().clone();
        if let Some(io) = io {
            io.drain(DRAIN).await;
        }
        failpoint!("shim.delete.drained");
        container.runtime.delete(init.state.get() == State::Created).await?;
        failpoint!("shim.delete.removed");
        if container.mounted {
            let rootfs = container.bundle.join("rootfs");
            mount::unmount_all(&rootfs).map_err(|error| prefix("failed rootfs umount", error))?;
        }
        failpoint!("shim.delete.unmounted");
        self.containers.borrow_mut().remove(&container.id);
        let mut event = events::TaskDelete::new();
        event.container_id = container.id.clone();
        event.pid = init.pid.get();
        event.exit_status = init.exit().map_or(0, |exit| exit.status);
        event.exited_at = time::field(init.exit().map(|exit| exit.at));
        self.publisher.send("/tasks/delete", "containerd.events.TaskDelete", &event);
        Ok(())
    }

    /// A container that was never started ends first, so that its exit is told before its deletion.
    async fn end_created(&self, container: &Container) {
        if container.init.pid.get() == 0 {
            return;
        }
        if let Err(error) = container.runtime.kill(libc::SIGKILL as u32, false).await {
            log::debug!("end {}: {error}", container.id);
        }
        if tokio::time::timeout(DRAIN, container.init.wait()).await.is_err() {
            log::error!("init of {} does not end", container.id);
        }
    }
}

/// With what CRIU says of it: its log goes with the container.
fn why_not_restored(error: Error, restore: &Restore) -> Error {
    match error {
        Error::Runtime(text) => {
            Error::Runtime(format!("{text}{}", criu_reason(&Path::new(&restore.work).join("restore.log"))))
        }
        other => other,
    }
}

fn prefix(what: &str, error: Error) -> Error {
    match error {
        Error::Class { code, message } => Error::class(code, format!("{what}: {message}")),
        other => Error::unknown(format!("{what}: {other}")),
    }
}

fn from_wire(mount: &windlass_api::shim::types::mount::Mount) -> Mount {
    Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}
