//! A daemon of one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Longest wait for anything that a healthy machine does within a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a test wants its daemon.
#[derive(Default)]
pub struct Builder {
    config: String,
    environment: Vec<(String, String)>,
    failpoints: bool,
}

impl Builder {
    /// Takes the binaries that were built with the feature `failpoints`.
    pub fn failpoints(mut self) -> Self {
        self.failpoints = true;
        self
    }

    /// Starts it without waiting: for a daemon that is to die early.
    pub fn spawn(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.spawn();
        daemon
    }

    /// Appends to config.toml (version 3).
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }

    fn prepare(self) -> Daemon {
        assert_eq!(rustix_uid(), 0, "end-to-end tests need root: containers do");
        let dir = tempfile::Builder::new().prefix("windlass-e2e.").tempdir().expect("a temporary directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .expect("chmod");
        let bin = if self.failpoints { Daemon::bin().join("../failpoints") } else { Daemon::bin() };
        assert!(bin.join("windlassd").exists(), "{} has no windlassd: make builds it", bin.display());
        Daemon { dir, child: None, bin, config: self.config, environment: self.environment }
    }
}

fn rustix_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Output {
    /// Standard output of a command that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Standard error of a command that had to fail.
    #[track_caller]
    pub fn err(self) -> String {
        assert_ne!(self.code, 0, "succeeded: {}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// A running daemon with private root, state and socket.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
    bin: PathBuf,
    config: String,
    environment: Vec<(String, String)>,
}

impl Daemon {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A daemon that holds the test image.
    pub fn with_image() -> Self {
        let daemon = Self::builder().start();
        daemon.windlass(&["import", crate::archive().to_str().expect("the path is UTF-8")]).ok();
        daemon
    }

    /// The directory with the built binaries: the test's own `target/release`.
    pub fn bin() -> PathBuf {
        let test = std::env::current_exe().expect("a test knows its file");
        test.ancestors().nth(2).expect("tests lie in target/release/deps").to_owned()
    }

    pub fn address(&self) -> PathBuf {
        self.dir.path().join("windlass.sock")
    }

    /// The namespace of this test's containers: no other test's.
    pub fn namespace(&self) -> String {
        self.dir
            .path()
            .file_name()
            .map(|n| n.to_string_lossy().replace("windlass-e2e.", "e2e-"))
            .unwrap_or_default()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Starts the daemon again, on the same directories.
    pub fn start(&mut self) {
        self.spawn();
        let answer = self.windlass(&["version", "--wait", "20s"]);
        assert_eq!(answer.code, 0, "the daemon does not answer: {}\n{}", answer.stderr, self.log());
    }

    /// Starts the process without waiting for its answer: for a daemon that is to die at a failpoint.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "one daemon at a time");
        let dir = self.dir.path();
        let config = dir.join("config.toml");
        std::fs::write(&config, format!("version = 3\n{}", self.config)).expect("config.toml is written");
        let log =
            std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("the log opens");
        let mut command = Command::new(self.bin.join("windlassd"));
        command.arg("--config").arg(&config).arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.arg("--address").arg(self.address()).args(["--log-level", "debug"]);
        command
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("windlassd is built: cargo build --release -p windlassd"));
    }

    /// Sets the environment of the next start.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(k, _)| k != name);
        if let Some(value) = value {
            self.environment.push((name.into(), value.into()));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// How the daemon has ended, where it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be waited for"))
    }

    /// Takes note that the daemon has ended.
    pub fn reap(&mut self) {
        assert!(self.ended().is_some(), "the daemon still runs");
        self.child = None;
    }

    /// Waits until the daemon ends by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let child = self.child.as_mut().expect("the daemon runs");
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end");
            std::thread::yield_now();
        };
        self.child = None;
        status
    }

    /// SIGTERM, and the end waited for.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = self.pid() as i32;
        // SAFETY: the process is our own child and has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        self.wait()
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// `windlass …` against this daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Self::bin().join("windlass"));
        command.arg("--address").arg(self.address()).args(args).stdin(Stdio::null());
        // Logs and fifos of containers belong to the test as well.
        // A container's cgroup is named by its namespace and id: tests beside each other, and a live daemon, keep apart.
        command.env("WINDLASS_NAMESPACE", self.namespace());
        command
            .env("WINDLASS_LOG_DIR", self.dir.path().join("logs"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"));
        command
    }

    /// Runs `windlass …` to its end.
    pub fn windlass(&self, args: &[&str]) -> Output {
        let out = self.command(args).output().expect("windlass is built: cargo build --release -p windlass");
        Output {
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
            code: out.status.code().unwrap_or(-1),
        }
    }

    /// The process id of a container, as `windlass ps` says it.
    pub fn pid_of(&self, id: &str) -> i32 {
        let list = self.windlass(&["ps", "--all", "--format", "json"]).ok();
        let list: serde_json::Value = serde_json::from_str(&list).expect("ps prints JSON");
        let container =
            list.as_array().expect("a list").iter().find(|c| c["id"] == id).expect("it is listed");
        container["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("the container has a process")
    }

    /// `kill -9` of the shim above a container's process.
    pub fn kill_shim(&self, id: &str) {
        // SAFETY: a plain signal to the shim of this test's own container.
        assert_eq!(unsafe { libc::kill(self.shim_of(id), libc::SIGKILL) }, 0);
    }

    /// `kill -9` of the daemon, and then of a container's shim, whose end nobody sees.
    pub fn kill_with_shim(&mut self, id: &str) {
        let shim = self.shim_of(id);
        self.kill();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::kill(shim, libc::SIGKILL) }, 0);
    }

    fn shim_of(&self, id: &str) -> i32 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid_of(id))).expect("the process runs");
        let after = text.rsplit_once(')').expect("a stat line names its command").1;
        after.split_whitespace().nth(1).expect("a stat line has a parent").parse().expect("a number")
    }

    /// A gRPC channel to this daemon.
    pub async fn connect(&self) -> Result<tonic::transport::Channel> {
        windlass_api::connect::connect(self.address()).await.context("connect to the daemon")
    }

    /// Asks again until there is an answer.
    #[track_caller]
    pub fn try_eventually<T>(&self, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
        let mut last = None;
        self.eventually(what, || {
            last = answer();
            last.is_some()
        });
        last.expect("it has been waited for")
    }

    /// Asks again until `done`; every round is a call the daemon answers, so nothing here waits for luck.
    #[track_caller]
    pub fn eventually(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "never happened: {what}\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Nothing of this daemon is left on the machine: mounts, shims, cgroups. For the end of a clean-up.
    pub fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path().to_string_lossy().into_owned();
        let mut left = Vec::new();
        for line in std::fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
            if line.contains(&here) {
                left.push(format!("mount {line}"));
            }
        }
        for pid in shims(&here) {
            left.push(format!("process {pid}"));
        }
        if let Ok(namespaces) = std::fs::read_dir(self.state().join("io.containerd.runtime.v2.task")) {
            for bundle in
                namespaces.flatten().filter_map(|n| std::fs::read_dir(n.path()).ok()).flatten().flatten()
            {
                left.push(format!("bundle {}", bundle.path().display()));
            }
        }
        left
    }
}

/// Processes whose command line names `path`: shims carry the daemon's address.
fn shims(path: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let name = String::from_utf8_lossy(&line).into_owned();
        if name.contains("containerd-shim") && name.contains(path) {
            pids.push(pid);
        }
    }
    pids
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.windlass(&["rm", "--force", "--all", "--all-namespaces"]);
            self.kill();
        }
        let here = self.dir.path().to_string_lossy().into_owned();
        for pid in shims(&here) {
            // SAFETY: a plain signal to a shim of this test's own daemon, told by the private path it carries.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        if let Err(error) = unmount_all(self.dir.path()) {
            eprintln!("{error:#}");
        }
    }
}

fn unmount_all(below: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read mounts")?;
    let mut targets: Vec<_> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    targets.sort_unstable();
    for target in targets.into_iter().rev().filter(|t| Path::new(t).starts_with(below)) {
        let path = std::ffi::CString::new(target).context("a mount has a path")?;
        // SAFETY: the path is a valid C string for the length of the call.
        let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        ensure!(result == 0, "unmount {target}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
