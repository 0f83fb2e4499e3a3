//! A shim without containers, which behaves as badly as it is told to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use protobuf::{EnumOrUnknown, Message, MessageField};
use tokio::sync::watch;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::{Code, Error, Result, get_status};
use windlass_api::convert::time;
use windlass_api::shim::bootstrap::{BootstrapParams, BootstrapResult};
use windlass_api::shim::forward::{Envelope, EventsClient, ForwardRequest};
use windlass_api::shim::types::task::Status;
use windlass_api::shim::{events, task_v2, task_v3 as v3, types};

type Empty = protobuf::well_known_types::empty::Empty;
type Exited = Option<(u32, SystemTime)>;

/// What `config.json` asks for.
fn mode() -> String {
    let spec = std::fs::read("config.json").unwrap_or_default();
    let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap_or_default();
    spec["mode"].as_str().unwrap_or_default().to_owned()
}

fn flag(args: &[String], name: &str) -> String {
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1)).cloned().unwrap_or_default()
}

pub fn run(args: &[String]) -> ExitCode {
    match args.last().map(String::as_str) {
        Some("start") => start(args),
        Some("delete") => delete(),
        Some("serve") => serve(args),
        _ => info(),
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

// The server outlives this process, whose child it only is for a moment.
#[allow(clippy::zombie_processes)]
fn start(args: &[String]) -> ExitCode {
    let mode = mode();
    let mut input = Vec::new();
    match mode.as_str() {
        "start-fail" => {
            eprintln!("boom");
            return ExitCode::FAILURE;
        }
        "start-hang" => forever(),
        "start-garbage" => {
            std::io::stdout().write_all(b"\xff\xfe two words").unwrap();
            return ExitCode::SUCCESS;
        }
        "start-flood" => {
            for _ in 0..1000 {
                std::io::stdout().write_all(&[b'x'; 10_000]).unwrap();
                std::io::stderr().write_all(&[b'y'; 10_000]).unwrap();
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    std::io::stdin().read_to_end(&mut input).unwrap();
    let params = BootstrapParams::parse_from_bytes(&input).unwrap();
    assert_eq!(params.instance_id, flag(args, "-id"));
    assert_eq!(params.namespace, std::env::var("NAMESPACE").unwrap());
    let group = mode.strip_prefix("group-");
    let dir = PathBuf::from(params.socket_dir.clone().unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join(format!("{}-{}", params.namespace, group.unwrap_or(&params.instance_id)));
    if !(group.is_some() && socket.exists()) && mode != "start-lie" {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(args.iter().take(args.len() - 1)).arg("-socket").arg(&socket).arg("serve");
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // One byte says that the socket is there.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    }
    let address = format!("unix://{}", socket.display());
    let answer = match mode.as_str() {
        "start-bare" => address.into_bytes(),
        "start-json" => format!(r#"{{"version":2,"address":"{address}","protocol":"ttrpc"}}"#).into_bytes(),
        _ => {
            let mut result = BootstrapResult::new();
            (result.version, result.address, result.protocol) = (3, address, "ttrpc".into());
            result.write_to_bytes().unwrap()
        }
    };
    std::io::stdout().write_all(&answer).unwrap();
    ExitCode::SUCCESS
}

fn delete() -> ExitCode {
    match mode().as_str() {
        "cleanup-hang" => forever(),
        "cleanup-fail" => return ExitCode::FAILURE,
        // The first time it is killed.
        "cleanup-die" if std::fs::File::create_new("died").is_ok() => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        _ => {}
    }
    let mut response = v3::DeleteResponse::new();
    (response.pid, response.exit_status) = (7, 137);
    response.exited_at = time::to_shim(SystemTime::now());
    std::io::stdout().write_all(&response.write_to_bytes().unwrap()).unwrap();
    ExitCode::SUCCESS
}

fn info() -> ExitCode {
    let mut info = types::introspection::RuntimeInfo::new();
    info.name = "fake".into();
    std::io::stdout().write_all(&info.write_to_bytes().unwrap()).unwrap();
    ExitCode::SUCCESS
}

fn serve(args: &[String]) -> ExitCode {
    let socket = flag(args, "-socket");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let _ = std::fs::remove_file(&socket);
        let shim = Arc::new(Shim {
            namespace: flag(args, "-namespace"),
            socket: socket.clone().into(),
            events: std::env::var("TTRPC_ADDRESS").unwrap(),
            tasks: Mutex::default(),
            client: tokio::sync::Mutex::new(None),
        });
        let mut server = Server::new().bind(&format!("unix://{socket}")).unwrap();
        if mode() != "only-v2" {
            server = server.register_service(v3::create_task(shim.clone()));
        }
        server = server.register_service(task_v2::create_task(shim));
        server.start().await.unwrap();
        if mode() == "log-flood" {
            log_flood();
        }
        std::io::stdout().write_all(b".").unwrap();
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

fn log_flood() {
    std::thread::spawn(|| {
        let mut log = std::fs::OpenOptions::new().write(true).open("log").unwrap();
        for _ in 0..50_000 {
            log.write_all(b"time=\"now\" level=info msg=\"this is a flood\"\n").unwrap();
        }
        std::fs::write("flooded", "").unwrap();
    });
}

struct Shim {
    namespace: String,
    socket: PathBuf,
    events: String,
    tasks: Mutex<HashMap<(String, String), Process>>,
    client: tokio::sync::Mutex<Option<EventsClient>>,
}

struct Process {
    mode: String,
    status: Status,
    pid: u32,
    exit: watch::Sender<Exited>,
}

fn failed<T>(code: Code, message: &str) -> Result<T> {
    Err(Error::RpcStatus(get_status(code, message)))
}

fn missing<T>() -> Result<T> {
    failed(Code::NOT_FOUND, "container not created")
}

impl Shim {
    async fn publish<M: Message>(&self, topic: &str, kind: &str, event: &M) {
        let mut client = self.client.lock().await;
        if client.is_none() {
            let address = format!("unix://{}", self.events);
            *client = ttrpc::asynchronous::Client::connect(&address).await.ok().map(EventsClient::new);
        }
        let mut envelope = Envelope::new();
        envelope.timestamp = time::to_shim(SystemTime::now());
        (envelope.namespace, envelope.topic) = (self.namespace.clone(), topic.to_owned());
        let mut any = protobuf::well_known_types::any::Any::new();
        any.type_url = format!("containerd.events.{kind}");
        any.value = event.write_to_bytes().unwrap();
        envelope.event = MessageField::some(any);
        let mut request = ForwardRequest::new();
        request.envelope = MessageField::some(envelope);
        let Some(sender) = &*client else { return };
        if sender.forward(ttrpc::context::with_timeout(0), &request).await.is_err() {
            *client = None;
        }
    }

    fn mode(&self, id: &str) -> String {
        let tasks = self.tasks.lock().unwrap();
        tasks.get(&(id.to_owned(), String::new())).map(|p| p.mode.clone()).unwrap_or_default()
    }

    fn insert(&self, id: &str, exec: &str, mode: String) -> u32 {
        let mut tasks = self.tasks.lock().unwrap();
        let pid = std::process::id() + tasks.len() as u32;
        let process = Process { mode, status: Status::CREATED, pid, exit: watch::Sender::new(None) };
        tasks.insert((id.to_owned(), exec.to_owned()), process);
        pid
    }

    fn with<T>(&self, id: &str, exec: &str, f: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        match self.tasks.lock().unwrap().get_mut(&(id.to_owned(), exec.to_owned())) {
            Some(process) => f(process),
            None => missing(),
        }
    }

    async fn end(&self, id: &str, exec: &str, status: u32) -> Result<()> {
        let at = SystemTime::now();
        let pid = self.with(id, exec, |process| {
            if process.status == Status::STOPPED {
                return failed(Code::NOT_FOUND, "process already finished");
            }
            process.status = Status::STOPPED;
            Ok(process.pid)
        })?;
        let mut event = events::TaskExit::new();
        event.container_id = id.to_owned();
        event.id = if exec.is_empty() { id.to_owned() } else { exec.to_owned() };
        (event.pid, event.exit_status) = (pid, status);
        event.exited_at = time::to_shim(at);
        self.publish("/tasks/exit", "TaskExit", &event).await;
        self.with(id, exec, |process| {
            process.exit.send_replace(Some((status, at)));
            Ok(())
        })
    }
}

macro_rules! task_service {
    ($v:ident) => {
        #[async_trait]
        impl $v::Task for Shim {
            async fn create(
                &self,
                _: &TtrpcContext,
                r: $v::CreateTaskRequest,
            ) -> Result<$v::CreateTaskResponse> {
                // The bundle's own, since one shim may serve several.
                let spec = std::fs::read(PathBuf::from(&r.bundle).join("config.json")).unwrap_or_default();
                let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap_or_default();
                let mode = spec["mode"].as_str().unwrap_or_default().to_owned();
                match mode.as_str() {
                    "create-fail" => {
                        return failed(Code::UNKNOWN, "OCI runtime create failed: no such thing");
                    }
                    "create-hang" => std::future::pending::<()>().await,
                    "create-die" => std::process::exit(1),
                    _ => {}
                }
                let pid = self.insert(&r.id, "", mode);
                let mut event = events::TaskCreate::new();
                (event.container_id, event.bundle, event.pid) = (r.id, r.bundle, pid);
                self.publish("/tasks/create", "TaskCreate", &event).await;
                let mut response = $v::CreateTaskResponse::new();
                response.pid = pid;
                Ok(response)
            }

            async fn start(&self, _: &TtrpcContext, r: $v::StartRequest) -> Result<$v::StartResponse> {
                if self.mode(&r.id) == "start-die" {
                    std::process::exit(1);
                }
                let pid = self.with(&r.id, &r.exec_id, |p| {
                    if p.status != Status::CREATED {
                        return failed(Code::FAILED_PRECONDITION, "cannot start a running process");
                    }
                    p.status = Status::RUNNING;
                    Ok(p.pid)
                })?;
                if r.exec_id.is_empty() {
                    let mut event = events::TaskStart::new();
                    (event.container_id, event.pid) = (r.id.clone(), pid);
                    self.publish("/tasks/start", "TaskStart", &event).await;
                } else {
                    let mut event = events::TaskExecStarted::new();
                    (event.container_id, event.exec_id, event.pid) = (r.id.clone(), r.exec_id, pid);
                    self.publish("/tasks/exec-started", "TaskExecStarted", &event).await;
                }
                let mut response = $v::StartResponse::new();
                response.pid = pid;
                Ok(response)
            }

            async fn delete(&self, _: &TtrpcContext, r: $v::DeleteRequest) -> Result<$v::DeleteResponse> {
                match self.mode(&r.id).as_str() {
                    "delete-hang" => std::future::pending::<()>().await,
                    "delete-die" => std::process::exit(1),
                    _ => {}
                }
                let (pid, exit) = self.with(&r.id, &r.exec_id, |p| match *p.exit.borrow() {
                    Some(exit) => Ok((p.pid, exit)),
                    None if p.status == Status::CREATED => Ok((p.pid, (0, SystemTime::now()))),
                    None => failed(Code::FAILED_PRECONDITION, "cannot delete a running process"),
                })?;
                self.tasks.lock().unwrap().remove(&(r.id.clone(), r.exec_id.clone()));
                if r.exec_id.is_empty() {
                    let mut event = events::TaskDelete::new();
                    (event.container_id, event.pid, event.exit_status) = (r.id, pid, exit.0);
                    event.exited_at = time::to_shim(exit.1);
                    self.publish("/tasks/delete", "TaskDelete", &event).await;
                }
                let mut response = $v::DeleteResponse::new();
                (response.pid, response.exit_status) = (pid, exit.0);
                response.exited_at = time::to_shim(exit.1);
                Ok(response)
            }

            async fn exec(&self, _: &TtrpcContext, r: $v::ExecProcessRequest) -> Result<Empty> {
                self.with(&r.id, "", |_| Ok(()))?;
                self.insert(&r.id, &r.exec_id, String::new());
                let mut event = events::TaskExecAdded::new();
                (event.container_id, event.exec_id) = (r.id, r.exec_id);
                self.publish("/tasks/exec-added", "TaskExecAdded", &event).await;
                Ok(Empty::new())
            }

            async fn state(&self, _: &TtrpcContext, r: $v::StateRequest) -> Result<$v::StateResponse> {
                if self.mode(&r.id) == "state-hang" {
                    std::future::pending::<()>().await;
                }
                self.with(&r.id, &r.exec_id, |p| {
                    let mut response = $v::StateResponse::new();
                    (response.id, response.pid) = (r.id.clone(), p.pid);
                    response.status = EnumOrUnknown::new(p.status);
                    if let Some((status, at)) = *p.exit.borrow() {
                        response.exit_status = status;
                        response.exited_at = time::to_shim(at);
                    }
                    Ok(response)
                })
            }

            async fn kill(&self, _: &TtrpcContext, r: $v::KillRequest) -> Result<Empty> {
                self.end(&r.id, &r.exec_id, 128 + r.signal).await?;
                Ok(Empty::new())
            }

            async fn wait(&self, _: &TtrpcContext, r: $v::WaitRequest) -> Result<$v::WaitResponse> {
                let mut exit = self.with(&r.id, &r.exec_id, |p| Ok(p.exit.subscribe()))?;
                let Ok(exit) = exit.wait_for(Option::is_some).await.map(|e| e.unwrap()) else {
                    return missing();
                };
                let mut response = $v::WaitResponse::new();
                response.exit_status = exit.0;
                response.exited_at = time::to_shim(exit.1);
                Ok(response)
            }

            async fn connect(&self, _: &TtrpcContext, r: $v::ConnectRequest) -> Result<$v::ConnectResponse> {
                let pid = self.with(&r.id, "", |p| Ok(p.pid))?;
                let mut response = $v::ConnectResponse::new();
                (response.shim_pid, response.task_pid) = (std::process::id(), pid);
                Ok(response)
            }

            async fn pids(&self, _: &TtrpcContext, r: $v::PidsRequest) -> Result<$v::PidsResponse> {
                let pid = self.with(&r.id, "", |p| Ok(p.pid))?;
                let mut response = $v::PidsResponse::new();
                let mut process = types::task::ProcessInfo::new();
                process.pid = pid;
                response.processes.push(process);
                Ok(response)
            }

            async fn shutdown(&self, _: &TtrpcContext, r: $v::ShutdownRequest) -> Result<Empty> {
                if self.mode(&r.id) == "shutdown-hang" || mode() == "shutdown-hang" {
                    std::future::pending::<()>().await;
                }
                let alone = self.tasks.lock().unwrap().keys().all(|(_, exec)| !exec.is_empty());
                if alone || r.now {
                    let _ = std::fs::remove_file(&self.socket);
                    std::process::exit(0);
                }
                Ok(Empty::new())
            }
        }
    };
}

task_service!(v3);
task_service!(task_v2);
