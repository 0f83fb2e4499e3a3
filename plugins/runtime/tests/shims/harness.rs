//! A place for a manager: directories, an exchange, and the socket that shims tell events to.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protobuf::Message;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use windlass_api::convert::{any, time};
use windlass_api::shim::events as e;
use windlass_api::shim::forward::{Events, ForwardRequest, create_events};
use windlass_core::container::Runtime;
use windlass_core::event::{Envelope, Event, Exchange, Subscription};
use windlass_core::task::{CreateOptions, Io, Tasks};
use windlass_core::{Any, Context, Filters, Result};
use windlass_runtime::{Launcher, Limits, Manager, Place, Settings};

pub type Case = (&'static str, fn());

/// Longest that a case waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(case: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // On a worker, where the daemon's callers are.
    runtime.block_on(runtime.spawn(case)).unwrap();
}

/// An exchange as simple as it gets.
pub struct Board(broadcast::Sender<Arc<Envelope>>);

impl Exchange for Board {
    fn publish(&self, cx: &Context, event: Event) {
        let (timestamp, topic) = (std::time::SystemTime::now(), event.topic().unwrap().to_owned());
        let _ = self.0.send(Arc::new(Envelope { timestamp, namespace: cx.namespace.clone(), topic, event }));
    }

    fn forward(&self, envelope: Envelope) -> Result<()> {
        let _ = self.0.send(Arc::new(envelope));
        Ok(())
    }

    fn subscribe(&self, filters: &[String]) -> Result<Subscription> {
        let filters = Filters::parse(filters)?;
        let events = BroadcastStream::new(self.0.subscribe()).map(|e| Ok(e.unwrap()));
        Ok(Box::pin(events.filter(move |e: &Result<Arc<Envelope>>| filters.matches(&**e.as_ref().unwrap()))))
    }
}

#[async_trait]
impl Events for Board {
    async fn forward(
        &self,
        _: &ttrpc::asynchronous::TtrpcContext,
        request: ForwardRequest,
    ) -> ttrpc::Result<protobuf::well_known_types::empty::Empty> {
        let envelope = request.envelope.unwrap();
        let event = decode(any::from_shim(envelope.event.unwrap()));
        let timestamp = time::from_shim(&envelope.timestamp).unwrap().unwrap();
        let (namespace, topic) = (envelope.namespace, envelope.topic);
        let _ = Exchange::forward(self, Envelope { timestamp, namespace, topic, event });
        Ok(Default::default())
    }
}

fn decode(any: Any) -> Event {
    let at = |t| time::from_shim(t).unwrap().unwrap();
    let name = any.type_url.rsplit('.').next().unwrap_or_default();
    match name {
        "TaskCreate" => {
            let m = e::TaskCreate::parse_from_bytes(&any.value).unwrap();
            let (io, rootfs, checkpoint) = (Io::default(), Vec::new(), String::new());
            Event::TaskCreate {
                container_id: m.container_id,
                bundle: m.bundle,
                rootfs,
                io,
                checkpoint,
                pid: m.pid,
            }
        }
        "TaskStart" => {
            let m = e::TaskStart::parse_from_bytes(&any.value).unwrap();
            Event::TaskStart { container_id: m.container_id, pid: m.pid }
        }
        "TaskExit" => {
            let m = e::TaskExit::parse_from_bytes(&any.value).unwrap();
            let exited_at = at(&m.exited_at);
            Event::TaskExit {
                container_id: m.container_id,
                id: m.id,
                pid: m.pid,
                exit_status: m.exit_status,
                exited_at,
            }
        }
        "TaskDelete" => {
            let m = e::TaskDelete::parse_from_bytes(&any.value).unwrap();
            let (id, exited_at) = (m.id, at(&m.exited_at));
            Event::TaskDelete {
                container_id: m.container_id,
                id,
                pid: m.pid,
                exit_status: m.exit_status,
                exited_at,
            }
        }
        _ => Event::Other(any),
    }
}

/// Everything that outlives a daemon, and the limits of the next one.
pub struct Node {
    dir: tempfile::TempDir,
    pub board: Arc<Board>,
    pub limits: Limits,
    pub env: Vec<String>,
    _server: std::sync::Mutex<ttrpc::asynchronous::Server>,
}

impl Node {
    pub async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wr").tempdir_in("/dev/shm").unwrap();
        let board = Arc::new(Board(broadcast::channel(4096).0));
        let mut server = ttrpc::asynchronous::Server::new()
            .bind(&format!("unix://{}", dir.path().join("ttrpc").display()))
            .unwrap()
            .register_service(create_events(board.clone()));
        server.start().await.unwrap();
        let second = Duration::from_secs(1);
        let limits = Limits { launch: PATIENCE, cleanup: 10 * second, load: 2 * second, ..Limits::default() };
        Self { dir, board, limits, env: Vec::new(), _server: server.into() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn manager(&self) -> Manager {
        self.try_manager().await.unwrap()
    }

    pub async fn try_manager(&self) -> Result<Manager> {
        let settings = Settings {
            grpc_address: self.path().join("grpc").to_string_lossy().into_owned(),
            ttrpc_address: self.path().join("ttrpc").to_string_lossy().into_owned(),
            executable: std::env::current_exe().unwrap(),
            socket_dir: self.path().join("s"),
            env: self.env.clone(),
            limits: self.limits.clone(),
            ..Settings::default()
        };
        let place = Place {
            launcher: Arc::new(Launcher::new(settings)),
            exchange: self.board.clone(),
            sandboxes: None,
            state: self.path().join("state"),
            root: self.path().join("root"),
        };
        Manager::start(place).await
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.path().join("state").join(namespace()).join(id)
    }

    /// All events from now on.
    pub fn watch(&self) -> Told {
        Told { events: self.board.subscribe(&[]).unwrap(), seen: Vec::new() }
    }

    /// Nothing but empty directories is left, and no process of ours in them.
    pub async fn assert_clean(&self) {
        let left = |dir: &str| -> Vec<_> {
            let dir = dir.replace("ns", &namespace());
            let entries = std::fs::read_dir(self.path().join(dir));
            entries.map(|entries| entries.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
        };
        for dir in ["state/ns", "root/ns"] {
            assert!(left(dir).is_empty(), "left over in {dir}: {:?}", left(dir));
        }
        until("all shims have ended", || self.shims().is_empty()).await;
        assert!(left("s").is_empty(), "left over: {:?}", left("s"));
    }

    /// Processes whose directory is in ours.
    pub fn shims(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.path())) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pid in self.shims() {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// Waits for what cannot tell when it happens.
pub async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Events as they come.
pub struct Told {
    events: Subscription,
    pub seen: Vec<Arc<Envelope>>,
}

impl Told {
    /// The topics up to and with `last`.
    pub async fn until(&mut self, last: &str) -> Vec<String> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.events.next()).await;
            let envelope =
                next.unwrap_or_else(|_| panic!("no {last}, but {:?}", self.topics())).unwrap().unwrap();
            self.seen.push(envelope.clone());
            if envelope.topic == last {
                return self.topics();
            }
        }
    }

    pub fn topics(&self) -> Vec<String> {
        self.seen.iter().map(|e| e.topic.clone()).collect()
    }

    /// What is told already, without waiting.
    pub fn rest(&mut self) -> Vec<String> {
        use futures::FutureExt;
        while let Some(Some(Ok(envelope))) = self.events.next().now_or_never() {
            self.seen.push(envelope);
        }
        self.topics()
    }
}

/// Of this run alone, as runc's own directory is everybody's.
pub fn namespace() -> String {
    format!("test{}", std::process::id())
}

pub fn cx() -> &'static Context {
    static CX: std::sync::LazyLock<Context> = std::sync::LazyLock::new(|| Context::new(namespace()));
    &CX
}

/// Options of a task whose fake shim behaves as `mode` says.
pub fn options(mode: &str) -> CreateOptions {
    let shim = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let spec = serde_json::json!({ "mode": mode }).to_string();
    CreateOptions {
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: spec.into(),
        }),
        runtime: Runtime { name: shim, options: None },
        ..CreateOptions::default()
    }
}

/// A task that runs.
pub async fn running(manager: &Manager, id: &str, mode: &str) -> u32 {
    let pid = manager.create(cx(), id, options(mode)).await.unwrap();
    assert_eq!(manager.start(cx(), id, "").await.unwrap(), pid);
    pid
}

/// Kills and deletes.
pub async fn end(manager: &Manager, id: &str) {
    manager.kill(cx(), id, "", 9, false).await.unwrap();
    assert_eq!(manager.wait(cx(), id, "").await.unwrap().status, 137);
    assert_eq!(manager.delete(cx(), id, "").await.unwrap().status, 137);
}

/// A socket in front of another, whose connections can be cut.
pub struct Wire(broadcast::Sender<()>);

impl Wire {
    pub fn new(front: &Path, back: &Path) -> Self {
        let listener = tokio::net::UnixListener::bind(front).unwrap();
        let (cut, back) = (broadcast::channel(1).0, back.to_owned());
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut one, _)) = listener.accept().await {
                let Ok(mut two) = tokio::net::UnixStream::connect(&back).await else { continue };
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut one, &mut two) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self(cut)
    }

    pub fn cut(&self) {
        let _ = self.0.send(());
    }
}
