//! The runtime that is part of the shim: calls of `windlass-oci-runtime`, each a few milliseconds long. Where hooks may
//! make them longer they are made in a [`Helper`].

use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use windlass_oci_runtime as oci;

use super::Launched;
use super::helper::Helper;
use crate::error::{Code, Context, Error, Result};
use crate::io::Child;
use crate::log;
use crate::options::Options;

pub struct Embedded {
    id: String,
    bundle: PathBuf,
    root: PathBuf,
    no_pivot_root: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
    /// Whether making, starting and removing the container may take long.
    hooks: bool,
    helper: RefCell<Option<Rc<Helper>>>,
    container: RefCell<Option<oci::Container>>,
}

impl Embedded {
    pub fn new(id: &str, bundle: &Path, root: PathBuf, options: &Options, hooks: bool) -> Embedded {
        Embedded {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            root,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            hooks,
            helper: RefCell::new(None),
            container: RefCell::new(None),
        }
    }

    pub async fn create(&self, child: Child) -> Result<Launched> {
        let launched = if self.hooks {
            self.create_in_helper(child).await?
        } else {
            let mut container = self.make(child)?;
            let launched = Launched { pid: container.pid(), console: container.take_terminal() };
            *self.container.borrow_mut() = Some(container);
            launched
        };
        let path = self.bundle.join("init.pid");
        fs::write(&path, launched.pid.to_string()).at("write", &path)?;
        Ok(launched)
    }

    fn make(&self, child: Child) -> Result<oci::Container> {
        let container = oci::Container::create(oci::CreateOptions {
            stdio: stdio(child),
            no_pivot_root: self.no_pivot_root,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: self.systemd_cgroup,
            oom_score: oci::OomScore::Clamp,
            ..oci::CreateOptions::new(&self.id, &self.bundle, &self.root)
        })
        .map_err(|error| failed("OCI runtime create failed", &error))?;
        for warning in container.warnings() {
            log::warning!("create {}: {warning}", self.id);
        }
        Ok(container)
    }

    async fn create_in_helper(&self, child: Child) -> Result<Launched> {
        let keep: Vec<RawFd> = match &child {
            Child::Fds(fds) => fds.iter().flatten().map(AsRawFd::as_raw_fd).collect(),
            Child::Null | Child::Terminal => Vec::new(),
        };
        let mut child = Some(child);
        let helper = Helper::fork(&keep, |task| {
            let mut container = match self.make(child.take().unwrap_or(Child::Null)) {
                Ok(container) => container,
                Err(error) => return task.answer(&Err(error)),
            };
            task.answer(&Ok((container.pid(), container.take_terminal())));
            if task.wait(container.pidfd()) {
                let started = container.start().map_err(|error| failed("OCI runtime start failed", &error));
                task.answer(&started.map(|()| (0, None)));
            }
        })?;
        drop(child);
        let (pid, console) = helper.result().await?;
        *self.container.borrow_mut() = Some(self.load()?);
        *self.helper.borrow_mut() = Some(Rc::new(helper));
        Ok(Launched { pid, console })
    }

    fn load(&self) -> Result<oci::Container> {
        oci::Container::load(&self.root, &self.id).map_err(|error| failed("load container", &error))
    }

    pub async fn start(&self) -> Result<()> {
        let helper = self.helper.borrow_mut().take();
        match helper {
            Some(helper) => {
                helper.go()?;
                helper.result().await.map(drop)
            }
            None => self.with(|container| {
                container.start().map_err(|error| failed("OCI runtime start failed", &error))
            }),
        }
    }

    pub fn exec(&self, process: &[u8], child: Child) -> Result<Launched> {
        self.with(|container| {
            let child = container
                .exec(oci::ExecOptions {
                    process,
                    stdio: stdio(child),
                    no_new_keyring: self.no_new_keyring,
                    oom_score: oci::OomScore::Clamp,
                })
                .map_err(|error| failed("OCI runtime exec failed", &error))?;
            for warning in &child.warnings {
                log::warning!("exec in {}: {warning}", self.id);
            }
            Ok(Launched { pid: child.pid, console: child.terminal })
        })
    }

    pub fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let signal = i32::try_from(signal).map_err(|_| Error::invalid(format!("signal {signal}")))?;
        self.with(|container| {
            container.kill(signal, all).map_err(|error| match error {
                oci::Error::Finished => Error::not_found("process already finished"),
                error => failed("unknown error after kill", &error),
            })
        })
    }

    pub fn pause(&self) -> Result<()> {
        self.with(|container| container.pause().map_err(|error| failed("OCI runtime pause failed", &error)))
    }

    pub fn resume(&self) -> Result<()> {
        self.with(|container| container.resume().map_err(|error| failed("OCI runtime resume failed", &error)))
    }

    pub fn update(&self, resources: &[u8]) -> Result<()> {
        self.with(|container| {
            container.update(resources).map_err(|error| failed("OCI runtime update failed", &error))
        })
    }

    pub async fn delete(&self, force: bool) -> Result<()> {
        // A helper that still waits ends with its socket, and init with it.
        *self.helper.borrow_mut() = None;
        if self.container.borrow().is_none() {
            // Somebody else's, or ours from before the shim died.
            match oci::Container::load(&self.root, &self.id) {
                Ok(container) => *self.container.borrow_mut() = Some(container),
                Err(oci::Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(failed("failed to delete task", &error)),
            }
        }
        if self.hooks {
            let helper = Helper::fork(&[], |task| {
                let deleted = self.load().and_then(|mut container| remove(&mut container, force));
                task.answer(&deleted.map(|()| (0, None)));
            })?;
            helper.result().await?;
        } else {
            self.with(|container| remove(container, force))?;
        }
        *self.container.borrow_mut() = None;
        Ok(())
    }

    fn with<T>(&self, call: impl FnOnce(&mut oci::Container) -> Result<T>) -> Result<T> {
        match self.container.borrow_mut().as_mut() {
            Some(container) => call(container),
            None => Err(Error::precondition(format!("container {} is not created", self.id))),
        }
    }
}

fn remove(container: &mut oci::Container, force: bool) -> Result<()> {
    let told = container.warnings().len();
    let deleted = container.delete(force);
    for warning in &container.warnings()[told..] {
        log::warning!("delete {}: {warning}", container.id());
    }
    match deleted {
        Ok(()) | Err(oci::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(failed("failed to delete task", &error)),
    }
}

fn stdio(child: Child) -> oci::Stdio {
    match child {
        Child::Null => oci::Stdio::Null,
        Child::Terminal => oci::Stdio::Terminal,
        Child::Fds([stdin, stdout, stderr]) => oci::Stdio::Fds { stdin, stdout, stderr },
    }
}

/// Keeps the class only where it tells a client something: containerd's runtimes' errors have none.
fn failed(what: &str, error: &oci::Error) -> Error {
    let message = format!("{what}: {}", error.report());
    match error.kind() {
        oci::ErrorKind::Unimplemented => Error::class(Code::Unimplemented, message),
        oci::ErrorKind::AlreadyExists => Error::class(Code::AlreadyExists, message),
        _ => Error::unknown(message),
    }
}
