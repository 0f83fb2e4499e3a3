//! Lives of containers over real stores and tasks that are not.

#![allow(clippy::unwrap_used)]

mod ends;
mod fake;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use serde_json::json;
use tempfile::TempDir;
use windlass_core::metadata::Database as _;
use windlass_core::metastore::MetaStore;
use windlass_core::task::Status;
use windlass_core::{Any, Context, container, event, event::Exchange as _, snapshot, transfer};
use windlass_metadata::{Database, Options, Policy};

use super::*;
use crate::config::{Config, Runtime};
use crate::image::{Images, ImagesConfig, Parts};
use crate::network::Networks;
use crate::state::record::{ContainerRecord, SandboxPhase, SandboxRecord, SandboxStatus};
use crate::state::{Phase, Sandbox};
use fake::{FakeTasks, Refusing};

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

struct NoTransfer;

#[async_trait::async_trait]
impl transfer::Transferrer for NoTransfer {
    async fn transfer(
        &self,
        _: &Context,
        _: transfer::Source,
        _: transfer::Destination,
        _: Arc<dyn transfer::ProgressSink>,
    ) -> Result<Vec<windlass_core::image::Image>> {
        Err(Error::unimplemented("no transfers here"))
    }
}

pub(crate) struct Stack {
    pub(crate) root: TempDir,
    pub(crate) db: Arc<Database>,
    exchange: Arc<windlass_event::Exchange>,
    pub(crate) tasks: Arc<FakeTasks>,
    /// Nothing can be written.
    refuse: Arc<AtomicBool>,
    pub(crate) cri: Arc<Cri>,
}

impl Stack {
    pub(crate) async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["meta", "native", "content", "root", "state", "images", "cni"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let store =
            windlass_metastore::open(&root.path().join("meta"), windlass_metastore::Options::default())
                .unwrap();
        let refuse = Arc::new(AtomicBool::new(false));
        let store: Arc<dyn MetaStore> = Arc::new(Refusing { inner: store, refuse: refuse.clone() });
        let native =
            windlass_snapshotter::Native::open(&root.path().join("native"), "native", store.clone()).unwrap();
        let exchange = Arc::new(windlass_event::Exchange::new(windlass_event::QUEUE));
        let db = Database::open(Options {
            store,
            content: Arc::new(windlass_content::Store::open(&root.path().join("content")).unwrap()),
            snapshotters: BTreeMap::from([("native".to_owned(), Arc::new(native) as snapshot::Shared)]),
            events: Some(exchange.clone()),
            policy: Policy::Shared,
            sweep_limit: Duration::from_secs(30),
        });
        let (db, tasks) = (Arc::new(db.unwrap()), Arc::new(FakeTasks::default()));
        let cri = plugin(&root, &db, &exchange, &tasks).await;
        cri.restore_containers().await.unwrap();
        Self { root, db, exchange, tasks, refuse, cri }
    }

    /// The plugin of a daemon that has just started over the same stores.
    pub(crate) async fn restarted(&mut self) {
        self.cri = plugin(&self.root, &self.db, &self.exchange, &self.tasks).await;
        pod(&self.cri);
        self.cri.restore_containers().await.unwrap();
    }

    /// A container that was made, without an image.
    async fn made(&self, name: &str, status: ContainerStatus) -> Arc<Container> {
        self.made_as(name, status, ContainerRecord::default()).await
    }

    /// One that is to be restored from a checkpoint.
    pub(crate) async fn restored(&self, name: &str, log: &std::path::Path) -> Arc<Container> {
        let record = ContainerRecord {
            asked: Some(Default::default()),
            log_path: log.to_str().unwrap().to_owned(),
            ..Default::default()
        };
        self.made_as(name, ContainerStatus::default(), record).await
    }

    async fn made_as(&self, name: &str, status: ContainerStatus, more: ContainerRecord) -> Arc<Container> {
        pod(&self.cri);
        let id = format!("{name:0>64}");
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            ..Default::default()
        };
        let record = ContainerRecord {
            config: Some(config),
            sandbox_id: "pod".into(),
            name: format!("{name}_pod"),
            created_at: now(),
            stop_signal: 15,
            snapshotter: "native".into(),
            ..more
        };
        let spec = json!({"process": {"args": ["x"]}, "linux": {"resources": {"cpu": {"shares": 2}}}});
        let written = container::Container {
            id: id.clone(),
            labels: BTreeMap::from([(plan::KIND.to_owned(), plan::KIND_CONTAINER.to_owned())]),
            image: String::new(),
            runtime: container::Runtime { name: "io.containerd.runc.v2".into(), options: None },
            spec: Some(Any { type_url: "spec".into(), value: serde_json::to_vec(&spec).unwrap().into() }),
            snapshotter: "native".into(),
            snapshot_key: id.clone(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::from([
                (record::RECORD.to_owned(), record::encode(&record, "Container")),
                (record::STATUS.to_owned(), record::encode(&status, "ContainerStatus")),
            ]),
            sandbox_id: "pod".into(),
        };
        self.db.containers().create(&self.cri.cx, written).await.unwrap();
        let snapshotter = self.db.snapshotter("native").unwrap();
        snapshotter.prepare(&self.cri.cx, &id, "", Default::default()).await.unwrap();
        let container = Arc::new(Container::new(id, record, status));
        self.cri.state.containers.restore(container.clone());
        container
    }

    pub(crate) async fn running(&self, name: &str) -> Arc<Container> {
        let container = self.made(name, ContainerStatus::default()).await;
        self.start(&container).await.unwrap();
        container
    }

    async fn start(&self, container: &Container) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: container.id.clone() };
        self.cri.start_container(request).await.map(drop)
    }

    async fn stop(&self, container: &Container, timeout: i64) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: container.id.clone(), timeout };
        self.cri.stop_container(request).await.map(drop)
    }

    /// What the record says.
    async fn written(&self, id: &str) -> ContainerStatus {
        let record = self.db.containers().get(&self.cri.cx, id).await.unwrap();
        record::decode(record.extensions.get(record::STATUS), "test").unwrap()
    }

    fn found(&self, container: &Container) -> Arc<Container> {
        self.cri.state.containers.get(&container.id).unwrap()
    }

    /// Waits until all that was begun is done.
    async fn idle(&self, container: &Container) {
        let _guard = tokio::time::timeout(PATIENCE, container.lock.lock()).await.unwrap();
    }
}

fn pod(cri: &Arc<Cri>) {
    let metadata = cri::PodSandboxMetadata { name: "pod".into(), ..Default::default() };
    let config = cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let record = SandboxRecord { config: Some(config), ..Default::default() };
    let status = SandboxStatus { phase: SandboxPhase::Ready.into(), ..Default::default() };
    cri.state.sandboxes.restore(Arc::new(Sandbox::new("pod".into(), record, status)));
}

async fn plugin(
    root: &TempDir,
    db: &Arc<Database>,
    exchange: &Arc<windlass_event::Exchange>,
    tasks: &Arc<FakeTasks>,
) -> Arc<Cri> {
    let cx = Context::new("k8s.io");
    let mut config = Config::default();
    let vm = Runtime { runtime_type: "io.containerd.kata.v2".into(), ..Runtime::default() };
    config.containerd.runtimes.insert("vm".into(), vm);
    config.cni.conf_dir = root.path().join("cni").to_str().unwrap().to_owned();
    let images: ImagesConfig = toml::from_str("snapshotter = \"native\"").unwrap();
    let images = Images::new(Parts {
        cx: cx.clone(),
        config: images,
        database: db.clone(),
        transfer: Arc::new(NoTransfer),
        exchange: exchange.clone(),
        state: root.path().join("images"),
        roots: BTreeMap::new(),
    });
    Arc::new(Cri {
        cx,
        root: root.path().join("root"),
        state_dir: root.path().join("state"),
        database: db.clone(),
        tasks: tasks.clone(),
        exchange: exchange.clone(),
        images: images.await.unwrap(),
        state: Default::default(),
        host: crate::spec::Host::default(),
        settings: BTreeMap::from([("runc".to_owned(), crate::spec::Settings::default())]),
        networks: Networks::new(&config, &root.path().join("cni")).await.unwrap(),
        differ: Some(Arc::new(windlass_diff::Walking::new(db.content(), windlass_diff::Limit::default()))),
        nri: None,
        users: Default::default(),
        events: Default::default(),
        figures: Default::default(),
        streaming: Default::default(),
        work: Default::default(),
        address: Default::default(),
        handlers: Default::default(),
        pause_program: Default::default(),
        config: Arc::new(config),
    })
}

async fn exited(container: &Container) -> ContainerStatus {
    let mut status = container.follow();
    let ended = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.phase() == Phase::Exited));
    ended.await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn an_end_is_seen_written_down_and_told() {
    let stack = Stack::new().await;
    let follow = stack.cri.events.follow().unwrap();
    let container = stack.running("a").await;
    assert_eq!(container.status().pid, 42);
    assert_eq!(stack.written(&container.id).await.phase(), Phase::Running);
    // The caller asks again: it has not heard the answer.
    stack.start(&container).await.unwrap();
    stack.tasks.end(&container.id, 3);
    let status = exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str(), status.pid), (3, "Error", 0));
    assert_eq!(stack.written(&container.id).await, status);
    stack.idle(&container).await;
    assert!(stack.tasks.calls().contains(&format!("delete {}", container.id)));
    stack.cri.events.close();
    let kinds: Vec<_> = follow.map(|event| event.unwrap().container_event_type).collect().await;
    assert_eq!(kinds, [1, 2], "started and stopped");
    assert!(stack.start(&container).await.is_err(), "a container is started once");
}

#[tokio::test]
async fn a_failed_start_is_an_end_with_a_reason() {
    let stack = Stack::new().await;
    let container = stack.made("a", ContainerStatus::default()).await;
    stack.tasks.refuse_start.store(true, Ordering::SeqCst);
    let error = stack.start(&container).await.unwrap_err();
    assert!(error.chain().contains("no such file"), "{}", error.chain());
    let status = stack.written(&container.id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("no such file") && status.started_at == 0);
    assert_eq!(container.phase(), Phase::Exited);
    assert!(stack.cri.tasks.ids(&stack.cri.cx).await.is_empty(), "no task is left");
}

#[tokio::test]
async fn memory_that_ran_out_is_the_reason() {
    let stack = Stack::new().await;
    let container = stack.running("a").await;
    let mut seen = stack.exchange.subscribe(&[]).unwrap();
    stack.exchange.publish(&stack.cri.cx, event::Event::TaskOom { container_id: container.id.clone() });
    seen.next().await.unwrap().unwrap();
    let noted = async {
        while !container.is_oom() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.unwrap();
    stack.tasks.end(&container.id, 137);
    assert_eq!(exited(&container).await.reason, "OOMKilled");
}

#[tokio::test]
async fn a_stop_asks_first_and_kills_then() {
    let stack = Stack::new().await;
    let polite = stack.running("a").await;
    stack.stop(&polite, 60).await.unwrap();
    assert_eq!(polite.status().exit_code, 128 + 15);
    stack.stop(&polite, 60).await.unwrap();
    stack.tasks.stubborn.store(true, Ordering::SeqCst);
    let stubborn = stack.running("b").await;
    let patient = {
        let (cri, id) = (stack.cri.clone(), stubborn.id.clone());
        tokio::spawn(async move {
            cri.stop_container(cri::StopContainerRequest { container_id: id, timeout: 3600 }).await
        })
    };
    let asked = format!("kill {} 15", stubborn.id);
    let signalled = async {
        while !stack.tasks.calls().contains(&asked) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, signalled).await.unwrap();
    // Another one with less patience takes effect, and does not ask again.
    stack.stop(&stubborn, 0).await.unwrap();
    tokio::time::timeout(PATIENCE, patient).await.unwrap().unwrap().unwrap();
    assert_eq!(stubborn.status().exit_code, 137);
    assert_eq!(stack.tasks.calls().iter().filter(|call| **call == asked).count(), 1);
    let request = cri::StopContainerRequest { container_id: "nobody".into(), timeout: 0 };
    stack.cri.stop_container(request).await.unwrap();
}

#[tokio::test]
async fn removal_leaves_nothing_and_may_be_repeated() {
    let stack = Stack::new().await;
    let container = stack.running("a").await;
    let volumes = stack.cri.container_dir(&container.id).join("volumes");
    std::fs::create_dir_all(&volumes).unwrap();
    for _ in 0..2 {
        let request = cri::RemoveContainerRequest { container_id: container.id.clone() };
        stack.cri.remove_container(request).await.unwrap();
    }
    let cx = &stack.cri.cx;
    assert!(stack.db.containers().get(cx, &container.id).await.is_err_and(|e| e.is_not_found()));
    assert!(stack.db.snapshotter("native").unwrap().stat(cx, &container.id).await.is_err());
    assert!(!volumes.exists() && !stack.cri.io_dir(&container.id).exists());
    assert!(stack.cri.state.containers.all().is_empty());
    assert!(stack.start(&container).await.is_err_and(|e| e.is_not_found()));
}

#[tokio::test]
async fn an_exec_that_takes_too_long_is_killed() {
    let stack = Stack::new().await;
    let container = stack.running("a").await;
    let request =
        cri::ExecSyncRequest { container_id: container.id.clone(), cmd: vec!["x".into()], timeout: 1 };
    let error = stack.cri.exec_sync(request).await.unwrap_err();
    assert!(error.is(windlass_core::Class::DeadlineExceeded), "{error:?}");
    assert!(error.message().contains("timeout 1s exceeded: context deadline exceeded"), "{error}");
    let calls = stack.tasks.calls();
    let tail: Vec<_> = calls.iter().map(|call| call.replace(&container.id, "c")).collect();
    assert_eq!(tail[tail.len() - 4..], ["exec c", "start c", "kill c 9", "delete c"]);
    let made = stack.made("b", ContainerStatus::default()).await;
    let request = cri::ExecSyncRequest { container_id: made.id.clone(), cmd: vec!["x".into()], timeout: 1 };
    assert!(stack.cri.exec_sync(request).await.unwrap_err().message().contains("must be running"));
}

#[tokio::test]
async fn an_exec_whose_caller_has_gone_is_killed() {
    let stack = Stack::new().await;
    let container = stack.running("a").await;
    let request =
        cri::ExecSyncRequest { container_id: container.id.clone(), cmd: vec!["x".into()], timeout: 0 };
    let did = |what: &str| stack.tasks.calls().contains(&format!("{what} {}", container.id));
    let begun = async {
        while stack.tasks.calls().iter().filter(|call| call.starts_with("start ")).count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = stack.cri.exec_sync(request) => panic!("it has no end: {ended:?}"),
        () = begun => {}
    }
    stack.cri.work.close();
    tokio::time::timeout(std::time::Duration::from_secs(20), stack.cri.work.wait()).await.unwrap();
    assert!(stack.tasks.calls().contains(&format!("kill {} 9", container.id)) && did("delete"));
}

#[tokio::test]
async fn resources_that_the_runtime_refuses_are_put_back() {
    let stack = Stack::new().await;
    let container = stack.running("a").await;
    let update = async |shares: i64| {
        let linux = Some(cri::LinuxContainerResources { cpu_shares: shares, ..Default::default() });
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux,
            ..Default::default()
        };
        stack.cri.update_container_resources(request).await
    };
    let shares = async || {
        let spec = stack.db.containers().get(&stack.cri.cx, &container.id).await.unwrap().spec.unwrap();
        let spec: serde_json::Value = serde_json::from_slice(&spec.value).unwrap();
        spec["linux"]["resources"]["cpu"]["shares"].as_i64()
    };
    update(512).await.unwrap();
    assert_eq!(shares().await, Some(512));
    stack.tasks.refuse_update.store(true, Ordering::SeqCst);
    assert!(update(700).await.unwrap_err().chain().contains("the kernel refuses"));
    assert_eq!(shares().await, Some(512));
    let told = container.status().resources.clone().unwrap().linux.unwrap();
    assert_eq!(told.cpu_shares, 512);
}

#[tokio::test]
async fn a_restart_finds_what_became_of_containers() {
    let mut stack = Stack::new().await;
    let started = ContainerStatus { started_at: 5, pid: 42, ..Default::default() };
    let kept = stack.running("kept").await;
    let lost = stack.made("lost", started.clone()).await;
    let cut = stack.made("cut", started.clone()).await;
    stack.tasks.put(&cut.id, Status::Created);
    let unwritten = stack.made("unwritten", ContainerStatus::default()).await;
    stack.tasks.put(&unwritten.id, Status::Running);
    let created = stack.made("created", ContainerStatus::default()).await;
    let half = stack.made("half", ContainerStatus { creating: true, ..Default::default() }).await;
    let bare = stack.made("bare", ContainerStatus::default()).await;
    stack.db.snapshotter("native").unwrap().remove(&stack.cri.cx, &bare.id).await.unwrap();
    stack.restarted().await;

    assert_eq!(stack.found(&kept).phase(), Phase::Running);
    let status = stack.found(&lost).status().clone();
    assert_eq!((status.phase(), status.exit_code, status.reason.as_str()), (Phase::Exited, 255, "Unknown"));
    assert_eq!(stack.written(&lost.id).await, status);
    assert_eq!(stack.found(&cut).phase(), Phase::Created);
    stack.start(&cut).await.unwrap();
    assert_eq!(stack.found(&unwritten).phase(), Phase::Running);
    assert_eq!(stack.written(&unwritten.id).await.phase(), Phase::Running);
    assert_eq!(stack.found(&created).phase(), Phase::Created);
    for gone in [&half, &bare] {
        assert!(stack.cri.state.containers.get(&gone.id).is_err());
        assert!(stack.db.containers().get(&stack.cri.cx, &gone.id).await.is_err());
    }
    // One that ends after the restart is seen to.
    stack.tasks.end(&kept.id, 0);
    assert_eq!(exited(&stack.found(&kept)).await.reason, "Completed");
}
