//! A daemon's part, played by a test: bundles, the start and delete commands, the task client, and a sink for events.

#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use ttrpc::r#async::{Client, Server, TtrpcContext};
use windlass_api::shim::bootstrap::{BootstrapParams, BootstrapResult};
use windlass_api::shim::events as ev;
use windlass_api::shim::forward::{Events, ForwardRequest, create_events};
use windlass_api::shim::runc;
use windlass_api::shim::task_v3::{self as api, TaskClient};
use windlass_api::shim::types::mount::Mount;

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");
pub const LIMIT: Duration = Duration::from_secs(20);

/// Every test runs over each runtime that is on the machine; the embedded one always is.
pub fn runtimes() -> Vec<&'static str> {
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runc = std::env::split_paths(&path).any(|dir| dir.join("runc").exists());
    match std::env::var("SHIM_TEST_RUNTIME").as_deref() {
        Ok("runc") => vec!["runc"],
        Ok("embedded") => vec![""],
        _ if runc => vec!["", "runc"],
        _ => vec![""],
    }
}

/// What arrived at the daemon, as one line each: topic and what matters of it.
#[derive(Default)]
pub struct Inbox {
    lines: Mutex<Vec<String>>,
    more: Notify,
}

impl Inbox {
    /// The lines so far, once one of them is `last`.
    pub async fn until(&self, last: &str) -> Vec<String> {
        let wait = async {
            loop {
                let more = self.more.notified();
                if self.lines.lock().unwrap().iter().any(|line| line == last) {
                    return;
                }
                more.await;
            }
        };
        if tokio::time::timeout(LIMIT, wait).await.is_err() {
            panic!("no {last:?} among {:?}", self.lines.lock().unwrap());
        }
        self.lines.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

struct Sink(Arc<Inbox>);

#[async_trait]
impl Events for Sink {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        let value = &envelope.event.value;
        let line = match envelope.event.type_url.as_str() {
            "containerd.events.TaskCreate" => {
                format!("create {}", ev::TaskCreate::parse_from_bytes(value).unwrap().container_id)
            }
            "containerd.events.TaskStart" => {
                format!("start {}", ev::TaskStart::parse_from_bytes(value).unwrap().container_id)
            }
            "containerd.events.TaskDelete" => {
                let event = ev::TaskDelete::parse_from_bytes(value).unwrap();
                format!("delete {} {}", event.container_id, event.exit_status)
            }
            "containerd.events.TaskExit" => {
                let event = ev::TaskExit::parse_from_bytes(value).unwrap();
                format!("exit {} {}", event.id, event.exit_status)
            }
            "containerd.events.TaskExecAdded" => {
                format!("exec-added {}", ev::TaskExecAdded::parse_from_bytes(value).unwrap().exec_id)
            }
            "containerd.events.TaskExecStarted" => {
                format!("exec-started {}", ev::TaskExecStarted::parse_from_bytes(value).unwrap().exec_id)
            }
            "containerd.events.TaskOOM" => {
                format!("oom {}", ev::TaskOOM::parse_from_bytes(value).unwrap().container_id)
            }
            "containerd.events.TaskPaused" => "paused".into(),
            "containerd.events.TaskResumed" => "resumed".into(),
            other => format!("unknown {other}"),
        };
        assert!(envelope.topic.starts_with("/tasks/"), "topic {}", envelope.topic);
        assert_eq!(envelope.namespace, "test");
        self.0.lines.lock().unwrap().push(line);
        self.0.more.notify_waiters();
        Ok(Empty::new())
    }
}

/// A daemon of sorts, with its directories and its socket for events.
pub struct Daemon {
    pub dir: TempDir,
    pub inbox: Arc<Inbox>,
    /// The loop of the socket for events; all its connections end with it.
    server: Option<(Runtime, Server)>,
    runtime: &'static str,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Daemon {
    pub async fn new(runtime: &'static str) -> Daemon {
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        fs::create_dir(dir.path().join("tasks")).unwrap();
        let mut daemon = Daemon { dir, inbox: Arc::default(), server: None, runtime };
        daemon.listen().await;
        daemon
    }

    pub fn events_socket(&self) -> PathBuf {
        self.dir.path().join("e.sock")
    }

    pub async fn listen(&mut self) {
        let path = self.events_socket();
        let _ = fs::remove_file(&path);
        let service = create_events(Arc::new(Sink(Arc::clone(&self.inbox))));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.spawn(async move {
            let mut server =
                Server::new().bind(&format!("unix://{}", path.display())).unwrap().register_service(service);
            server.start().await.unwrap();
            server
        });
        self.server = Some((runtime, server.await.unwrap()));
    }

    /// The daemon dies: its socket no longer answers.
    pub fn go_away(&mut self) {
        if let Some((runtime, _server)) = self.server.take() {
            runtime.shutdown_background();
        }
        let _ = fs::remove_file(self.events_socket());
    }

    /// A bundle whose process runs `script` in busybox' shell; `edit` changes the specification.
    pub fn bundle(&self, id: &str, script: &str, edit: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
        let bundle = self.dir.path().join("tasks").join(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let lower = self.dir.path().join("lower");
        if !lower.exists() {
            for dir in ["bin", "proc", "dev", "sys", "tmp"] {
                fs::create_dir_all(lower.join(dir)).unwrap();
            }
            let busybox = ["/usr/bin/busybox", "/bin/busybox"]
                .into_iter()
                .find(|path| Path::new(path).exists())
                .expect("busybox-static is needed");
            fs::copy(busybox, lower.join("bin/busybox")).unwrap();
            for applet in ["sh", "cat", "echo", "sleep", "true", "stty", "kill", "head", "tail", "id", "ls"] {
                std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
            }
        }
        let namespaces: Vec<_> = ["pid", "ipc", "uts", "mount", "network"]
            .iter()
            .map(|kind| serde_json::json!({"type": kind}))
            .collect();
        let mut spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "cwd": "/",
                        "env": ["PATH=/bin"], "noNewPrivileges": true},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/shim-test/{}-{id}", std::process::id())}
        });
        edit(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    fn command(&self, bundle: &Path, id: &str, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args([
                "-namespace",
                "test",
                "-address",
                "/none.sock",
                "-publish-binary",
                "/none",
                "-id",
                id,
                "-bundle",
            ])
            .arg(bundle)
            .arg(action)
            .current_dir(bundle)
            .env_remove("MAX_SHIM_VERSION")
            .env_remove("TTRPC_ADDRESS");
        command
    }

    /// `start`, as containerd 2.3 calls it. Returns the socket's path.
    pub fn start_shim(&self, bundle: &Path, id: &str) -> PathBuf {
        self.start_shim_with(bundle, id, &[])
    }

    pub fn start_shim_with(&self, bundle: &Path, id: &str, env: &[(&str, &str)]) -> PathBuf {
        let mut params = BootstrapParams::new();
        params.instance_id = id.into();
        params.namespace = "test".into();
        params.containerd_grpc_address = "/none.sock".into();
        params.containerd_ttrpc_address = self.events_socket().display().to_string();
        params.socket_dir = Some(self.dir.path().join("s").display().to_string());
        let output = run(
            self.command(bundle, id, "start").envs(env.iter().copied()),
            &params.write_to_bytes().unwrap(),
        );
        assert!(output.status.success(), "start: {}", String::from_utf8_lossy(&output.stderr));
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        result.address.strip_prefix("unix://").unwrap().into()
    }

    /// `start` in an older daemon's way.
    pub fn start_raw(&self, bundle: &Path, id: &str, env: &[(&str, &str)]) -> String {
        let output = run(self.command(bundle, id, "start").envs(env.iter().copied()), &[]);
        assert!(output.status.success(), "start: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn delete_dead(&self, bundle: &Path, id: &str) -> api::DeleteResponse {
        let output = run(&mut self.command(bundle, id, "delete"), &[]);
        assert!(output.status.success(), "delete: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// A shim for a container that runs `script`, not created yet.
    pub async fn task(&self, id: &str, script: &str, edit: impl FnOnce(&mut serde_json::Value)) -> Task {
        self.task_with(id, script, edit, &[]).await
    }

    /// The same, with more in the shim's environment.
    pub async fn task_with(
        &self,
        id: &str,
        script: &str,
        edit: impl FnOnce(&mut serde_json::Value),
        env: &[(&str, &str)],
    ) -> Task {
        let bundle = self.bundle(id, script, edit);
        let socket = self.start_shim_with(&bundle, id, env);
        self.attach(id, bundle, socket).await
    }

    pub async fn attach(&self, id: &str, bundle: PathBuf, socket: PathBuf) -> Task {
        let client = Client::connect(&format!("unix://{}", socket.display())).await.unwrap();
        Task {
            id: id.into(),
            lower: self.dir.path().join("lower"),
            bundle,
            socket,
            task: TaskClient::new(client.clone()),
            client,
            runtime: self.runtime,
        }
    }
}

pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

pub fn context() -> ttrpc::context::Context {
    ttrpc::context::with_timeout(LIMIT.as_nanos() as i64)
}

/// A container seen through its shim.
pub struct Task {
    pub id: String,
    pub bundle: PathBuf,
    pub socket: PathBuf,
    pub task: TaskClient,
    pub client: Client,
    lower: PathBuf,
    runtime: &'static str,
}

impl Drop for Task {
    /// A failed test leaves no shim behind; a good one has seen its end.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(text) = fs::read_to_string(self.bundle.join("shim.pid"))
            && let Some(pid) = text.parse().ok().and_then(rustix::process::Pid::from_raw)
            && fs::read_to_string(format!("/proc/{text}/cmdline"))
                .is_ok_and(|line| line.contains(self.bundle.to_str().unwrap()))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = run(
                Command::new(SHIM)
                    .args(["-namespace", "test", "-id", &self.id, "-bundle"])
                    .arg(&self.bundle)
                    .arg("delete")
                    .current_dir(&self.bundle),
                &[],
            );
        }
    }
}

impl Task {
    pub fn create_request(&self) -> api::CreateTaskRequest {
        let mut request = api::CreateTaskRequest::new();
        request.id = self.id.clone();
        request.bundle = self.bundle.display().to_string();
        for dir in ["upper", "work"] {
            fs::create_dir_all(self.bundle.join(dir)).unwrap();
        }
        let mut mount = Mount::new();
        mount.type_ = "overlay".into();
        mount.source = "overlay".into();
        mount.options = vec![
            format!("lowerdir={}", self.lower.display()),
            format!("upperdir={}", self.bundle.join("upper").display()),
            format!("workdir={}", self.bundle.join("work").display()),
        ];
        request.rootfs.push(mount);
        let mut options = runc::Options::new();
        options.binary_name = self.runtime.into();
        options.root = self.bundle.parent().unwrap().parent().unwrap().join("r").display().to_string();
        request.options = MessageField::some(any("containerd.runc.v1.Options", &options));
        request
    }

    pub async fn create(&self, edit: impl FnOnce(&mut api::CreateTaskRequest)) -> u32 {
        let mut request = self.create_request();
        edit(&mut request);
        self.task.create(context(), &request).await.unwrap().pid
    }

    pub async fn start(&self, exec: &str) -> u32 {
        let mut request = api::StartRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        self.task.start(context(), &request).await.unwrap().pid
    }

    pub async fn wait(&self, exec: &str) -> u32 {
        let mut request = api::WaitRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        self.task.wait(context(), &request).await.unwrap().exit_status
    }

    pub async fn kill(&self, exec: &str, signal: u32) -> ttrpc::Result<Empty> {
        let mut request = api::KillRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        request.signal = signal;
        self.task.kill(context(), &request).await
    }

    pub async fn delete(&self, exec: &str) -> ttrpc::Result<api::DeleteResponse> {
        let mut request = api::DeleteRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        self.task.delete(context(), &request).await
    }

    pub async fn exec(
        &self,
        exec: &str,
        script: &str,
        edit: impl FnOnce(&mut api::ExecProcessRequest),
    ) -> ttrpc::Result<Empty> {
        let mut request = api::ExecProcessRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        let process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]});
        let mut spec = Any::new();
        spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
        spec.value = process.to_string().into_bytes();
        request.spec = MessageField::some(spec);
        edit(&mut request);
        self.task.exec(context(), &request).await
    }

    pub async fn state(&self, exec: &str) -> ttrpc::Result<api::StateResponse> {
        let mut request = api::StateRequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        self.task.state(context(), &request).await
    }

    pub async fn close_io(&self, exec: &str) {
        let mut request = api::CloseIORequest::new();
        request.id = self.id.clone();
        request.exec_id = exec.into();
        request.stdin = true;
        self.task.close_io(context(), &request).await.unwrap();
    }

    pub fn shim_pid(&self) -> i32 {
        fs::read_to_string(self.bundle.join("shim.pid")).unwrap().parse().unwrap()
    }

    pub async fn shutdown(&self) {
        let pid = self.shim_pid();
        let mut request = api::ShutdownRequest::new();
        request.id = self.id.clone();
        // The shim may be gone before its answer is read.
        let _ = self.task.shutdown(context(), &request).await;
        until("the shim ends", || ended(pid));
        assert!(!self.socket.exists(), "the socket is left");
        self.nothing_left();
    }

    /// No mount, process group or state of the container.
    pub fn nothing_left(&self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(self.bundle.to_str().unwrap()), "a mount is left");
        let group = format!("shim-test/{}-{}", std::process::id(), self.id);
        for hierarchy in ["", "pids/", "memory/", "devices/", "systemd/", "unified/"] {
            let path = format!("/sys/fs/cgroup/{hierarchy}{group}");
            assert!(!Path::new(&path).exists(), "{path} is left");
        }
        let state = self.bundle.parent().unwrap().parent().unwrap().join("r/test").join(&self.id);
        assert!(!state.exists(), "state is left");
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.bundle.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        path
    }
}

pub fn any(url: &str, message: &impl Message) -> Any {
    let mut any = Any::new();
    any.type_url = url.into();
    any.value = message.write_to_bytes().unwrap();
    any
}

/// Whether a process is gone, or nothing but an exit status that its parent has not taken yet.
pub fn ended(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')),
        Err(_) => true,
    }
}

/// Waits for something that the kernel does and nobody tells.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: did not happen");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Everything that can be read from a fifo, read by a thread.
///
/// A thread of its own, which a failed test leaves behind instead of waiting for it.
pub fn reader(path: &Path) -> oneshot::Receiver<String> {
    let path = path.to_owned();
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = sender.send(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
    });
    receiver
}

pub async fn text(reader: oneshot::Receiver<String>) -> String {
    tokio::time::timeout(LIMIT, reader).await.expect("the reader sees the end").unwrap()
}

/// Runs an asynchronous test once per runtime.
pub fn each<F: Future<Output = ()>>(test: impl Fn(&'static str) -> F) {
    for runtime in runtimes() {
        eprintln!("runtime: {}", if runtime.is_empty() { "embedded" } else { runtime });
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(test(runtime));
    }
}
