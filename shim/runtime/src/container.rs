//! A container from creation to deletion, as its owner sees it.

use crate::caps::Sets;
use crate::cgroup::{Cgroup, OomEvents, Scope};
use crate::child::message::{Order, Report, await_report, order};
use crate::error::{Context, Error, Result};
use crate::hooks::{self, OciState};
use crate::metrics::Metrics;
use crate::options::{CreateOptions, ExecOptions};
use crate::seccomp::Filter;
use crate::spec::{Capabilities, Hook, NamespaceKind, Process, Resources, Rlimit, Spec};
use crate::state::{self, State};
use crate::sys::process;
use crate::sys::socket::Channel;
use crate::{create, exec, namespaces};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that was added to a container.
#[derive(Debug)]
pub struct Child {
    /// As the caller's pid namespace names it. The caller is its parent and reaps it.
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The master of its terminal, when one was asked for with [`crate::Stdio::Terminal`].
    pub terminal: Option<OwnedFd>,
    /// What could not be done exactly as asked, in words for a log.
    pub warnings: Vec<String>,
}

/// What a container does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

/// What later processes take over from the configuration.
#[derive(Debug)]
pub(crate) struct Blueprint {
    /// `CLONE_NEW*` of the namespaces that are the container's, the pid namespace apart.
    pub namespaces: i32,
    pub own_pid_namespace: bool,
    pub filter: Option<Filter>,
    pub capabilities: Option<Capabilities>,
    pub no_new_privileges: bool,
    pub apparmor: String,
    pub selinux: String,
    pub rlimits: Vec<Rlimit>,
    pub poststart: Vec<Hook>,
}

impl Blueprint {
    pub fn new(spec: &Spec, process: Process, filter: Option<Filter>) -> Blueprint {
        let kinds = spec.linux.namespaces.iter().map(|n| n.kind);
        Blueprint {
            namespaces: kinds
                .filter(|k| *k != NamespaceKind::Pid)
                .fold(0, |flags, k| flags | namespaces::flag(k)),
            own_pid_namespace: spec.linux.namespace(NamespaceKind::Pid).is_some(),
            filter,
            capabilities: process.capabilities,
            no_new_privileges: process.no_new_privileges,
            apparmor: process.apparmor_profile,
            selinux: process.selinux_label,
            rlimits: process.rlimits,
            poststart: spec.hooks.poststart.clone(),
        }
    }
}

/// A created, running or stopped container.
#[derive(Debug)]
pub struct Container {
    pub(crate) state: State,
    dir: PathBuf,
    pidfd: Option<OwnedFd>,
    /// To the child at the start barrier.
    channel: Option<Channel>,
    terminal: Option<OwnedFd>,
    warnings: Vec<String>,
    /// Absent after [`Container::load`], until it is read from the bundle.
    pub(crate) blueprint: Option<Blueprint>,
}

impl Container {
    /// Makes the container up to the start barrier. On error nothing is left: no process, group, mount or state.
    pub fn create(options: CreateOptions<'_>) -> Result<Container> {
        create::create(options)
    }

    pub(crate) fn created(
        state: State,
        dir: PathBuf,
        pidfd: Option<OwnedFd>,
        channel: Channel,
        terminal: Option<OwnedFd>,
        warnings: Vec<String>,
        blueprint: Blueprint,
    ) -> Container {
        Container {
            state,
            dir,
            pidfd,
            channel: Some(channel),
            terminal,
            warnings,
            blueprint: Some(blueprint),
        }
    }

    /// Finds a container again by its state, after the process that created it has gone. Its processes are then
    /// somebody else's children; all else works. One that was not started has ended together with its creator.
    pub fn load(root: &Path, id: &str) -> Result<Container> {
        state::check_id(id)?;
        let dir = root.join(id);
        let state = State::load(&dir, id)?;
        // The handle first, then the look at who that is.
        let pidfd = process::pidfd_open(state.pid).ok();
        let same = state::start_time(state.pid) == Some(state.start_time);
        Ok(Container {
            pidfd: pidfd.filter(|_| same),
            state,
            dir,
            channel: None,
            terminal: None,
            warnings: Vec::new(),
            blueprint: None,
        })
    }

    pub fn id(&self) -> &str {
        &self.state.id
    }

    pub fn bundle(&self) -> &Path {
        &self.state.bundle
    }

    /// The init process in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.state.pid
    }

    /// Readable when init has exited; absent when it had already gone at [`Container::load`].
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }

    /// The master of init's terminal; the first call gets it.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// What could not be done exactly as asked, in words for a log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn oci_state<'a>(&'a self, status: &'a str) -> OciState<'a> {
        OciState {
            oci_version: &self.state.oci_version,
            id: &self.state.id,
            status,
            pid: if status == "stopped" { 0 } else { self.state.pid },
            bundle: &self.state.bundle,
            annotations: &self.state.annotations,
        }
    }

    pub(crate) fn blueprint(&mut self) -> Result<&Blueprint> {
        if self.blueprint.is_none() {
            let path = self.state.bundle.join("config.json");
            let data = std::fs::read(&path).at("read", &path)?;
            let mut spec = Spec::parse(&data)?;
            let Some(process) = spec.process.take() else {
                return Err(Error::Spec("process is missing".into()));
            };
            let filter = spec.linux.seccomp.as_ref().map(Filter::compile).transpose()?.flatten();
            self.blueprint = Some(Blueprint::new(&spec, process, filter));
        }
        self.blueprint.as_ref().ok_or(Error::Finished)
    }

    /// Runs the program. Returns when the kernel has taken it, or with the reason why not; then init has ended.
    pub fn start(&mut self) -> Result<()> {
        let Some(channel) = self.channel.take() else {
            return Err(Error::State(format!(
                "container {} cannot be started: it is not in state created",
                self.id()
            )));
        };
        if self.ended()? {
            return Err(Error::State(format!("container {} cannot be started: it has stopped", self.id())));
        }
        order(&channel, Order::Start)?;
        loop {
            match await_report(&channel)? {
                // The socket closes with exec.
                Report::Gone => break,
                Report::Failed(error) => return Err(error),
                Report::Notify(fd) => {
                    let filter = self.blueprint.as_ref().and_then(|b| b.filter.as_ref());
                    create::notify(filter, &self.oci_state("created"), &fd, &channel)?;
                }
                _ => return Err(Error::State("unexpected message from child".into())),
            }
        }
        let poststart = self.blueprint.as_mut().map(|b| std::mem::take(&mut b.poststart)).unwrap_or_default();
        // The specification lets the container run on when these fail.
        if let Err(error) = hooks::run(&poststart, &self.oci_state("running")) {
            self.warnings.push(error.report());
        }
        Ok(())
    }

    /// Runs one more process. Returns when its program runs.
    pub fn exec(&mut self, options: ExecOptions<'_>) -> Result<Child> {
        match self.status()? {
            Status::Stopped => Err(Error::State("cannot exec in a stopped container".into())),
            Status::Paused => Err(Error::State("cannot exec in a paused container".into())),
            Status::Created | Status::Running => exec::exec(self, options),
        }
    }

    /// Signals init, or with `all` every process of the group. `Error::Finished` when init has gone.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if all {
            return self.state.cgroup.signal_all(signal);
        }
        let Some(pidfd) = &self.pidfd else { return Err(Error::Finished) };
        if self.ended()? {
            return Err(Error::Finished);
        }
        match process::pidfd_signal(pidfd, signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(Error::Finished),
            other => other.op("signal process")?,
        }
        // On v1 a frozen process dies only when it is thawed.
        if signal == libc::SIGKILL
            && matches!(self.state.cgroup, Cgroup::V1(_))
            && self.state.cgroup.frozen()?
        {
            self.state.cgroup.freeze(false)?;
        }
        Ok(())
    }

    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => self.state.cgroup.freeze(true),
            status => Err(Error::State(format!("container not running or created: {status:?}"))),
        }
    }

    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.state.cgroup.freeze(false),
            _ => Err(Error::State("container not paused".into())),
        }
    }

    /// Sets limits anew; `resources` is the OCI `linux.resources` object as JSON, absent fields stay as they are.
    /// Device rules are not changed.
    pub fn update(&self, resources: &[u8]) -> Result<()> {
        let resources: Resources =
            serde_json::from_slice(resources).map_err(|e| Error::Spec(format!("resources: {e}")))?;
        if self.ended()? {
            return Err(Error::State("cannot update a stopped container".into()));
        }
        if let Some(scope) = &self.state.scope {
            self.state.cgroup.check_update(&resources)?;
            scope.update(&resources, self.state.cgroup.unified())?;
        }
        self.state.cgroup.set(&resources, false)
    }

    pub fn stats(&self) -> Result<Metrics> {
        self.state.cgroup.stats()
    }

    /// All processes of the group and the groups below it.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.state.cgroup.pids()
    }

    fn ended(&self) -> Result<bool> {
        match &self.pidfd {
            Some(fd) => process::wait_for(fd, libc::POLLIN, Duration::ZERO).op("poll process"),
            None => Ok(true),
        }
    }

    pub fn status(&self) -> Result<Status> {
        if self.ended()? {
            return Ok(Status::Stopped);
        }
        if self.state.cgroup.frozen()? {
            return Ok(Status::Paused);
        }
        Ok(if self.channel.is_some() { Status::Created } else { Status::Running })
    }

    /// A descriptor that tells of OOM kills; to be taken after create.
    pub fn oom_events(&self) -> Result<OomEvents> {
        self.state.cgroup.oom_events()
    }

    /// Kills what is left, removes the groups and the state, and runs the poststop hooks. Init is reaped if the
    /// caller has not done so. Without `force` a running container is an error. When it fails it can be called again.
    pub fn delete(&mut self, force: bool) -> Result<()> {
        if !force && !matches!(self.status()?, Status::Stopped) {
            return Err(Error::State(format!("cannot delete container {} that is not stopped", self.id())));
        }
        self.channel = None;
        if let Some(pidfd) = &self.pidfd
            && !self.ended()?
        {
            match process::pidfd_signal(pidfd, libc::SIGKILL) {
                Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e).op("kill process"),
                _ => {}
            }
        }
        self.state.cgroup.kill_and_wait()?;
        if let Some(pidfd) = &self.pidfd {
            if !process::wait_for(pidfd, libc::POLLIN, crate::cgroup::KILL_LIMIT).op("wait for process")? {
                return Err(Error::Timeout("the end of init".into()));
            }
            match process::reap(pidfd) {
                Err(e) if e.raw_os_error() != Some(libc::ECHILD) => return Err(e).op("reap process"),
                _ => {}
            }
        }
        // Also this does not hold the end up: an empty scope ends by itself.
        if let Some(Err(error)) = self.state.scope.as_ref().map(Scope::stop) {
            self.warnings.push(error.report());
        }
        self.state.cgroup.remove()?;
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).at("remove", &self.dir),
            _ => {}
        }
        let hooks = std::mem::take(&mut self.state.poststop);
        // Also these do not hold the end up.
        if let Err(error) = hooks::run(&hooks, &self.oci_state("stopped")) {
            self.warnings.push(error.report());
        }
        Ok(())
    }

    pub(crate) fn capabilities(&self, process: &Process) -> (Sets, Vec<String>) {
        let own = self.blueprint.as_ref().and_then(|b| b.capabilities.as_ref());
        Sets::of(process.capabilities.as_ref().or(own))
    }
}
