//! The runtime that is part of the shim: calls of `windlass-oci-runtime`, each a few milliseconds long.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use windlass_oci_runtime as oci;

use super::Launched;
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
    container: RefCell<Option<oci::Container>>,
}

impl Embedded {
    pub fn new(id: &str, bundle: &Path, root: PathBuf, options: &Options) -> Embedded {
        Embedded {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            root,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            container: RefCell::new(None),
        }
    }

    pub fn create(&self, child: Child) -> Result<Launched> {
        let mut container = oci::Container::create(oci::CreateOptions {
            id: &self.id,
            bundle: &self.bundle,
            spec: None,
            root: &self.root,
            stdio: stdio(child),
            no_pivot_root: self.no_pivot_root,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: self.systemd_cgroup,
            oom_score: oci::OomScore::Clamp,
        })
        .map_err(|error| failed("OCI runtime create failed", &error))?;
        for warning in container.warnings() {
            log::warning!("create {}: {warning}", self.id);
        }
        let launched = Launched { pid: container.pid(), console: container.take_terminal() };
        let path = self.bundle.join("init.pid");
        fs::write(&path, launched.pid.to_string()).at("write", &path)?;
        *self.container.borrow_mut() = Some(container);
        Ok(launched)
    }

    pub fn start(&self) -> Result<()> {
        self.with(|container| container.start().map_err(|error| failed("OCI runtime start failed", &error)))
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
        self.with(|container| container.update(resources).map_err(|error| failed("OCI runtime update failed", &error)))
    }

    pub fn delete(&self, force: bool) -> Result<()> {
        if self.container.borrow().is_none() {
            // Somebody else's, or ours from before the shim died.
            match oci::Container::load(&self.root, &self.id) {
                Ok(container) => *self.container.borrow_mut() = Some(container),
                Err(oci::Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(failed("failed to delete task", &error)),
            }
        }
        let result = self.with(|container| match container.delete(force) {
            Ok(()) | Err(oci::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(failed("failed to delete task", &error)),
        });
        if result.is_ok() {
            *self.container.borrow_mut() = None;
        }
        result
    }

    fn with<T>(&self, call: impl FnOnce(&mut oci::Container) -> Result<T>) -> Result<T> {
        match self.container.borrow_mut().as_mut() {
            Some(container) => call(container),
            None => Err(Error::precondition(format!("container {} is not created", self.id))),
        }
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
