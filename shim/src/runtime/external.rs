//! Runtimes that are programs with runc's command line: runc, crun, youki, runsc.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::{Checkpoint, Launched};
use crate::console_socket::ConsoleSocket;
use crate::error::{Code, Context, Error, Result};
use crate::io::Child;
use crate::log;
use crate::options::Options;
use crate::reaper::Reaper;
use crate::spawn::{self, Program};

/// How long one call may take; hooks and image pages are part of it. `WINDLASS_RUNTIME_TIMEOUT` (seconds) overrides.
const LIMIT: Duration = Duration::from_secs(120);
/// Output of a runtime that goes into an error message.
const OUTPUT: u64 = 16 << 10;

pub struct External {
    binary: String,
    path: PathBuf,
    id: String,
    bundle: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    reaper: Rc<Reaper>,
    limit: Duration,
}

/// Where a restored container comes from.
pub struct Restore {
    pub image: String,
    pub work: String,
    pub parent: String,
}

impl External {
    pub fn new(
        id: &str,
        bundle: &Path,
        root: PathBuf,
        options: &Options,
        reaper: &Rc<Reaper>,
    ) -> Result<External> {
        let binary = options.binary_name.clone();
        let path = spawn::find(&binary).ok_or_else(|| {
            Error::not_found(format!("runtime {binary:?}: executable file not found in $PATH"))
        })?;
        let limit = std::env::var("WINDLASS_RUNTIME_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
        Ok(External {
            binary,
            path,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            root,
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            reaper: Rc::clone(reaper),
            limit: limit.map_or(LIMIT, Duration::from_secs),
        })
    }

    pub async fn create(&self, child: Child) -> Result<Launched> {
        let mut args = vec!["create".to_owned(), "--bundle".to_owned(), self.bundle.display().to_string()];
        args.extend(self.create_flags());
        self.launch(args, &self.bundle.join("init.pid"), child, None, "OCI runtime create failed").await
    }

    pub async fn restore(&self, restore: &Restore, child: Child) -> Result<Launched> {
        let mut args: Vec<String> = ["restore", "--bundle"].map(str::to_owned).to_vec();
        args.push(self.bundle.display().to_string());
        args.extend([
            "--image-path".to_owned(),
            restore.image.clone(),
            "--work-path".to_owned(),
            restore.work.clone(),
        ]);
        if !restore.parent.is_empty() {
            args.extend(["--parent-path".to_owned(), restore.parent.clone()]);
        }
        args.extend(["--detach", "--no-subreaper"].map(str::to_owned));
        args.extend(self.create_flags());
        self.launch(args, &self.bundle.join("init.pid"), child, None, "OCI runtime restore failed").await
    }

    fn create_flags(&self) -> impl Iterator<Item = String> {
        let pivot = self.no_pivot_root.then(|| "--no-pivot".to_owned());
        let keyring = self.no_new_keyring.then(|| "--no-new-keyring".to_owned());
        pivot.into_iter().chain(keyring)
    }

    pub async fn start(&self) -> Result<()> {
        self.simple("start").await
    }

    pub async fn exec(&self, exec_id: &str, process: &[u8], child: Child) -> Result<Launched> {
        let spec = spawn::capture().op("make file for the process")?;
        let spec = fs::File::from(spec);
        spec.write_all_at(process, 0).op("write the process")?;
        // The runtime reads the process from a descriptor of its own; no file is left if it dies.
        let args = ["exec", "--process", "/proc/self/fd/3", "--detach"].map(str::to_owned).to_vec();
        let pid_file = self.bundle.join(format!("{exec_id}.pid"));
        let result = self.launch(args, &pid_file, child, Some(spec.as_fd()), "OCI runtime exec failed").await;
        // It has been read, or there is none.
        let _ = fs::remove_file(pid_file);
        result
    }

    /// Calls that start a process: with its streams, its terminal and its pid.
    async fn launch(
        &self,
        mut args: Vec<String>,
        pid_file: &Path,
        child: Child,
        extra: Option<BorrowedFd<'_>>,
        what: &str,
    ) -> Result<Launched> {
        args.extend(["--pid-file".to_owned(), pid_file.display().to_string()]);
        let socket = match child {
            Child::Terminal => Some(ConsoleSocket::bind()?),
            _ => None,
        };
        if let Some(socket) = &socket {
            args.extend(["--console-socket".to_owned(), socket.path().display().to_string()]);
        }
        args.push(self.id.clone());
        let output = spawn::capture().op("make file for output")?;
        let mut fds: Vec<Option<BorrowedFd<'_>>> = match &child {
            Child::Null => vec![None, None, None],
            Child::Terminal => vec![None, None, Some(output.as_fd())],
            Child::Fds(fds) => fds.iter().map(|fd| fd.as_ref().map(AsFd::as_fd)).collect(),
        };
        fds.extend(extra.map(Some));
        self.call(args, fds, &output, what).await?;
        drop(child);
        let console = match socket {
            Some(socket) => Some(socket.receive(Duration::from_secs(10)).await?),
            None => None,
        };
        let text = fs::read_to_string(pid_file).at("read", pid_file)?;
        let pid = text
            .trim()
            .parse()
            .map_err(|_| Error::unknown(format!("{what}: no pid in {}", pid_file.display())))?;
        Ok(Launched { pid, console })
    }

    pub async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let mut args = vec!["kill".to_owned()];
        if all {
            args.push("--all".to_owned());
        }
        args.extend([self.id.clone(), signal.to_string()]);
        self.run(args, None, "").await.map_err(|error| {
            let text = error.to_string();
            let low = text.to_lowercase();
            if text.contains("container not running")
                || text.contains("process already finished")
                || low.contains("no such process")
            {
                Error::not_found("process already finished")
            } else if text.contains("does not exist") {
                Error::not_found("no such container")
            } else {
                Error::unknown(format!("unknown error after kill: {text}"))
            }
        })
    }

    /// A command that takes the id alone.
    pub async fn simple(&self, command: &str) -> Result<()> {
        let what = format!("OCI runtime {command} failed");
        self.run(vec![command.to_owned(), self.id.clone()], None, &what).await
    }

    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        let mut file = fs::File::from(spawn::capture().op("make file for resources")?);
        file.write_all_at(resources, 0).op("write resources")?;
        file.rewind().op("write resources")?;
        let args = ["update", "--resources=-", &self.id].map(str::to_owned).to_vec();
        self.run(args, Some(file.into()), "OCI runtime update failed").await
    }

    pub async fn checkpoint(&self, options: &Checkpoint) -> Result<()> {
        let mut args = vec!["checkpoint".to_owned()];
        for (flag, value) in [("--image-path", &options.image), ("--work-path", &options.work)] {
            if !value.is_empty() {
                args.extend([flag.to_owned(), value.clone()]);
            }
        }
        for (flag, on) in [
            ("--leave-running", options.leave_running),
            ("--tcp-established", options.open_tcp),
            ("--ext-unix-sk", options.external_sockets),
            ("--shell-job", options.terminal),
            ("--file-locks", options.file_locks),
        ] {
            if on {
                args.push(flag.to_owned());
            }
        }
        for namespace in &options.empty_namespaces {
            args.extend(["--empty-ns".to_owned(), namespace.clone()]);
        }
        args.push(self.id.clone());
        self.run(args, None, "OCI runtime checkpoint failed").await
    }

    pub async fn delete(&self, force: bool) -> Result<()> {
        let mut args = vec!["delete".to_owned()];
        if force {
            args.push("--force".to_owned());
        }
        args.push(self.id.clone());
        match self.run(args, None, "failed to delete task").await {
            Err(error) if error.to_string().contains("does not exist") => Ok(()),
            result => result,
        }
    }

    async fn run(&self, args: Vec<String>, input: Option<OwnedFd>, what: &str) -> Result<()> {
        let output = spawn::capture().op("make file for output")?;
        let fds = vec![input.as_ref().map(AsFd::as_fd), Some(output.as_fd()), Some(output.as_fd())];
        self.call(args, fds, &output, what).await
    }

    /// One call, with the runtime's own words as the error.
    async fn call(
        &self,
        args: Vec<String>,
        fds: Vec<Option<BorrowedFd<'_>>>,
        output: &OwnedFd,
        what: &str,
    ) -> Result<()> {
        let log = self.bundle.join("log.json");
        let mut all = vec!["--root".to_owned(), self.root.display().to_string()];
        all.extend([
            "--log".to_owned(),
            log.display().to_string(),
            "--log-format".to_owned(),
            "json".to_owned(),
        ]);
        if self.systemd_cgroup {
            all.push("--systemd-cgroup".to_owned());
        }
        all.extend(args);
        // Only what this call adds to the log is about this call.
        let logged = fs::metadata(&log).map_or(0, |meta| meta.len());
        let launch = self.reaper.launch();
        let pid =
            spawn::spawn(&Program { path: &self.path, args: all, env: None, fds, bound: true, dir: None })
                .map_err(|error| Error::unknown(format!("{what}: {}: {error}", self.binary)))?;
        let exit = self.reaper.watch(pid);
        drop(launch);
        let Ok(exit) = tokio::time::timeout(self.limit, exit).await else {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            return Err(Error::class(
                Code::DeadlineExceeded,
                format!("{what}: {} did not answer", self.binary),
            ));
        };
        let status = exit.map_or(255, |exit| exit.status);
        if status == 0 {
            return Ok(());
        }
        let reason = last_error(&log, logged).unwrap_or_else(|| {
            let output = read_output(output);
            format!("{} did not terminate successfully: exit status {status}: {output}", self.binary)
        });
        log::debug!("{what}: {reason}");
        Err(Error::unknown(if what.is_empty() { reason } else { format!("{what}: {reason}") }))
    }
}

fn read_output(output: &OwnedFd) -> String {
    let Ok(copy) = output.try_clone() else { return String::new() };
    let mut bytes = Vec::new();
    let mut file = fs::File::from(copy);
    // A message that cannot be read is left out of the message.
    if file.rewind().is_ok() {
        let _ = file.take(OUTPUT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The last line of level `error` in a runtime's JSON log, from an offset on.
fn last_error(log: &Path, from: u64) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log)?;
        file.seek(io::SeekFrom::Start(from))?;
        let mut text = String::new();
        file.take(OUTPUT * 4).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().ok()?;
    text.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| line.level == "error")
        .map(|line| line.msg.trim().to_owned())
}

/// What a runtime program says of its features, as JSON; `None` if it does not know the question.
pub fn features(binary: &str) -> Result<Option<Vec<u8>>> {
    let path = spawn::find(binary).filter(|path| path.exists()).ok_or_else(|| {
        Error::not_found(format!(
            "failed to look up the path of {binary:?}: executable file not found in $PATH"
        ))
    })?;
    let output = spawn::capture().op("make file for output")?;
    let fds = vec![None, Some(output.as_fd()), None];
    let args = vec!["features".to_owned()];
    let pid = spawn::spawn(&Program { path: &path, args, env: None, fds, bound: true, dir: None })
        .at("run", &path)?;
    let pid = Pid::from_raw(pid as i32).ok_or_else(|| Error::unknown("no pid"))?;
    let status =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).at("wait for", &path)?;
    if status.and_then(|(_, status)| status.exit_status()) != Some(0) {
        return Ok(None);
    }
    let mut file = fs::File::from(output);
    let mut json = Vec::new();
    file.rewind().and_then(|()| file.take(1 << 20).read_to_end(&mut json)).at("read output of", &path)?;
    Ok(serde_json::from_slice::<&serde_json::value::RawValue>(&json).is_ok().then_some(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_this_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let old = "{\"level\":\"error\",\"msg\":\"old\"}\n";
        fs::write(&path, old).unwrap();
        assert_eq!(last_error(&path, old.len() as u64), None);
        let text = format!(
            "{old}{{\"level\":\"error\",\"msg\":\"first\"}}\n{{\"level\":\"error\",\"msg\":\" second \"}}\n{{\"level\":\"info\",\"msg\":\"x\"}}\nnot json\n"
        );
        fs::write(&path, text).unwrap();
        assert_eq!(last_error(&path, old.len() as u64).as_deref(), Some("second"));
        assert_eq!(last_error(Path::new("/no/such"), 0), None);
    }
}
