//! One run of a plugin: request in, bounded answer out, an end within a time limit.
//!
//! A plugin is started on a thread that may block and waited for by the runtime. It has a process group of its own,
//! which is killed when the limit is reached, when it floods, or when nobody waits any more.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::{Child, Command};

use super::orphans::OWNER;
use crate::error::{Error, Result};

/// Most that an answer may have.
pub const MAX_ANSWER: usize = 1 << 20;
/// What is kept of the plugin's log.
const MAX_LOG: usize = 16 << 10;
/// Most that a plugin may log.
const LOG_FLOOD: u64 = 16 << 20;
/// A binary that is just being installed cannot be started.
const BUSY_RETRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Verb {
    fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// As errors have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
            Self::Status => "status",
            Self::Gc => "gc",
            Self::Version => "version",
        }
    }
}

/// A call's parameters but for the request. Operations that are not about a pod have empty ones.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    pub container_id: String,
    pub netns: String,
    pub if_name: String,
    pub args: String,
}

/// Where plugins are.
#[derive(Clone, Debug)]
pub struct Plugins {
    dirs: Vec<PathBuf>,
    /// `CNI_PATH`.
    path: OsString,
    /// Whose they are: see [`super::orphans`].
    owner: OsString,
}

impl Plugins {
    /// `owner` is a path that no other daemon has.
    pub fn new(dirs: Vec<PathBuf>, owner: &Path) -> Self {
        let mut path = OsString::new();
        for (i, dir) in dirs.iter().enumerate() {
            if i > 0 {
                path.push(":");
            }
            path.push(dir);
        }
        Self { dirs, path, owner: owner.into() }
    }

    /// Runs a plugin and gives back what it printed. A failure is an error with what it said.
    pub async fn run(
        &self,
        plugin: &str,
        verb: Verb,
        parameters: &Parameters,
        input: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>> {
        let mut running = self.start(plugin, verb, parameters).await?;
        let talk = running.converse(&input);
        let status = match tokio::time::timeout(limit, talk).await {
            Ok(Ok(status)) => status,
            Ok(Err(Stop::Flood(limit))) => {
                running.end().await;
                return Err(Error::Flood { plugin: plugin.into(), operation: verb.word(), limit });
            }
            Ok(Err(Stop::Io(source))) => return Err(Error::io("wait for plugin", plugin)(source)),
            Err(_) => {
                running.end().await;
                return Err(Error::TimedOut { plugin: plugin.into(), operation: verb.word(), limit });
            }
        };
        let log = String::from_utf8_lossy(&running.log);
        let log = log.trim();
        if status.success() {
            if !log.is_empty() {
                tracing::debug!(plugin, operation = verb.word(), log, "plugin");
            }
            return Ok(std::mem::take(&mut running.answer));
        }
        Err(failure(plugin, verb, status, &running.answer, log))
    }

    async fn start(&self, plugin: &str, verb: Verb, parameters: &Parameters) -> Result<Running> {
        for _ in 0..BUSY_RETRIES {
            match self.try_start(plugin, verb, parameters).await {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        self.try_start(plugin, verb, parameters).await
    }

    async fn try_start(&self, plugin: &str, verb: Verb, parameters: &Parameters) -> Result<Running> {
        let (plugins, plugin, parameters) = (self.clone(), plugin.to_owned(), parameters.clone());
        let spawn = move || {
            let missing = || Error::NoPlugin { plugin: plugin.clone(), dirs: plugins.dirs.clone() };
            let paths = plugins.dirs.iter().map(|dir| dir.join(&plugin));
            let binary = paths.into_iter().find(|path| path.is_file()).ok_or_else(missing)?;
            // No `pre_exec`, no uid: std then uses posix_spawn, which does not copy the daemon's page tables.
            let mut command = Command::new(&binary);
            command.process_group(0).kill_on_drop(true).env_remove("NOTIFY_SOCKET");
            command.env("CNI_COMMAND", verb.command()).env("CNI_PATH", &plugins.path);
            command.env("CNI_CONTAINERID", &parameters.container_id).env("CNI_NETNS", &parameters.netns);
            command.env("CNI_IFNAME", &parameters.if_name).env("CNI_ARGS", &parameters.args);
            command.env(OWNER, &plugins.owner);
            Running::spawn(command).map_err(Error::io("run", binary))
        };
        tokio::task::spawn_blocking(spawn).await.map_err(|_| Error::Cut("start of a plugin"))?
    }
}

/// Why a plugin is not waited for to the end.
enum Stop {
    /// It printed more than so many bytes.
    Flood(u64),
    Io(io::Error),
}

struct Running {
    child: Child,
    stdin: Option<Sender>,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    answer: Vec<u8>,
    log: Vec<u8>,
    /// What it has logged in all, in bytes.
    logged: u64,
}

impl Running {
    fn spawn(mut command: Command) -> io::Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((their_in, our_in), (our_out, their_out), (our_err, their_err)) = (pipe()?, pipe()?, pipe()?);
        let give = |fd: OwnedFd| Stdio::from(fd);
        command.stdin(give(their_in)).stdout(give(their_out)).stderr(give(their_err));
        let (stdin, stdout) = (Sender::from_owned_fd(our_in)?, Receiver::from_owned_fd(our_out)?);
        let stderr = Receiver::from_owned_fd(our_err)?;
        let child = command.spawn()?;
        // With the command go the plugin's ends of the pipes.
        drop(command);
        Ok(Self {
            child,
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            answer: Vec::new(),
            log: Vec::new(),
            logged: 0,
        })
    }

    /// Feeds the request and reads until the plugin has ended. What a child of it still holds open is not waited for.
    async fn converse(&mut self, mut input: &[u8]) -> Result<ExitStatus, Stop> {
        let status = loop {
            tokio::select! {
                biased;
                () = readable(&self.stdout), if self.stdout.is_some() => self.take_answer()?,
                () = readable(&self.stderr), if self.stderr.is_some() => self.take_log()?,
                () = writable(&self.stdin), if self.stdin.is_some() => self.feed(&mut input),
                status = self.child.wait() => break status.map_err(Stop::Io)?,
            }
        };
        self.take_answer()?;
        self.take_log()?;
        Ok(status)
    }

    fn feed(&mut self, input: &mut &[u8]) {
        let Some(stdin) = &self.stdin else { return };
        while !input.is_empty() {
            match stdin.try_write(input) {
                Ok(n) => *input = &input[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // A plugin need not read what it is told.
                Err(_) => break,
            }
        }
        self.stdin = None;
    }

    fn take_answer(&mut self) -> Result<(), Stop> {
        let ended = drain(self.stdout.as_ref(), |bytes| {
            if self.answer.len() + bytes.len() > MAX_ANSWER {
                return false;
            }
            self.answer.extend_from_slice(bytes);
            true
        });
        match ended {
            Drained::Refused => Err(Stop::Flood(MAX_ANSWER as u64)),
            Drained::Ended => {
                self.stdout = None;
                Ok(())
            }
            Drained::Open => Ok(()),
        }
    }

    fn take_log(&mut self) -> Result<(), Stop> {
        let ended = drain(self.stderr.as_ref(), |bytes| {
            let room = MAX_LOG - self.log.len();
            self.log.extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.logged += bytes.len() as u64;
            self.logged <= LOG_FLOOD
        });
        match ended {
            Drained::Refused => return Err(Stop::Flood(LOG_FLOOD)),
            Drained::Ended => self.stderr = None,
            Drained::Open => {}
        }
        Ok(())
    }

    /// Kills the plugin and what it started, and waits a moment for it to be gone.
    async fn end(&mut self) {
        self.kill();
        // SIGKILL works unless the process hangs in the kernel; then it is reaped when it ends.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await;
    }

    fn kill(&self) {
        // None once it has been waited for: the number may be another's by then.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

enum Drained {
    Ended,
    Open,
    Refused,
}

/// Takes what is there. Stops soon enough for others to have their turn.
fn drain(pipe: Option<&Receiver>, mut take: impl FnMut(&[u8]) -> bool) -> Drained {
    let Some(pipe) = pipe else { return Drained::Ended };
    let mut buffer = [0; 4096];
    for _ in 0..16 {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return Drained::Ended,
            Ok(n) if take(&buffer[..n]) => {}
            Ok(_) => return Drained::Refused,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Drained::Open,
            Err(_) => return Drained::Ended,
        }
    }
    Drained::Open
}

async fn readable(pipe: &Option<Receiver>) {
    if let Some(pipe) = pipe {
        // An error is found again by the read.
        let _ = pipe.readable().await;
    }
}

async fn writable(pipe: &Option<Sender>) {
    if let Some(pipe) = pipe {
        let _ = pipe.writable().await;
    }
}

/// What a plugin that failed had to say: an error of CNI on its standard output, or whatever else it printed.
fn failure(plugin: &str, verb: Verb, status: ExitStatus, answer: &[u8], log: &str) -> Error {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let (plugin, operation) = (plugin.to_owned(), verb.word());
    match serde_json::from_slice::<Said>(answer) {
        Ok(Said { code, msg, details }) if code != 0 || !msg.is_empty() => {
            Error::Failed { plugin, operation, code, msg: shorten(msg), details: shorten(details) }
        }
        _ => {
            let printed = String::from_utf8_lossy(answer);
            let said = [printed.trim(), log].join(" ");
            Error::Died { plugin, operation, status, said: shorten(said.trim().to_owned()) }
        }
    }
}

/// Enough for a person, and no more than an error message should be.
pub fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(4096));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn said(answer: &str, log: &str) -> String {
        failure("bridge", Verb::Del, ExitStatus::from_raw(256), answer.as_bytes(), log).to_string()
    }

    #[test]
    fn failures_name_plugin_operation_and_code() {
        let said_so = r#"{"cniVersion":"1.0.0","code":7,"msg":"bad","details":"very"}"#;
        assert_eq!(said(said_so, "log"), r#"plugin type="bridge" failed (delete): bad; very (code 7)"#);
        assert_eq!(
            said("oops", "log"),
            r#"plugin type="bridge" failed (delete) without an error message: exit status: 1: oops log"#
        );
        assert!(said("", "").ends_with("exit status: 1"));
        assert!(said("{}", "").ends_with("exit status: 1: {}"));
    }
}
