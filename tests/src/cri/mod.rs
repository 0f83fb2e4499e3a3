//! Kubernetes' side of a daemon: what a kubelet asks over runtime.v1, a network plugin, and what is left of pods.

mod groups;
mod plugin;
mod pods;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::{Response, Status};
use windlass_api::cri;
use windlass_api::cri::image_service_client::ImageServiceClient;
use windlass_api::cri::runtime_service_client::RuntimeServiceClient;

use crate::{Builder, Daemon, IMAGE};

use groups::Groups;
pub use plugin::{COMPLAINT, Mode, Plugin};
pub use pods::{Process, log, pod, script};

/// Longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(40);

pub type Client = RuntimeServiceClient<tonic::transport::Channel>;

/// Events that have come, each with the id that it is about.
pub type Happened = Arc<Mutex<Vec<(String, cri::ContainerEventType)>>>;

/// A daemon with a network for pods. Everything goes with it: first the daemon and its shims, then what they were in.
pub struct Node {
    runtime: tokio::runtime::Runtime,
    pub daemon: Daemon,
    pub plugin: Plugin,
    groups: Groups,
}

impl Node {
    /// A daemon that holds the test image in Kubernetes' namespace.
    pub fn start() -> Self {
        Self::with(Daemon::builder())
    }

    pub fn with(builder: Builder) -> Self {
        Self::with_network(builder, "")
    }

    /// With more keys of the table `cni`.
    pub fn with_network(builder: Builder, keys: &str) -> Self {
        let plugin = Plugin::default();
        // Plugins of NRI join at a socket of the machine, of which there is one.
        let config =
            format!("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n{}{keys}", plugin.config());
        let daemon = builder.config(&config).start();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let node = Self {
            groups: Groups::new(&daemon.namespace()),
            runtime: runtime.expect("a runtime can be made"),
            daemon,
            plugin,
        };
        let archive = crate::archive_with_volume().to_str().expect("the path is UTF-8");
        node.daemon.windlass(&["-n", "k8s.io", "import", "--quiet", archive]).ok();
        node
    }

    /// Asks, and waits for the answer.
    pub fn call<T, F>(&self, ask: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let asked = async {
            let channel = self.daemon.connect().await.map_err(|e| Status::unavailable(format!("{e:#}")))?;
            ask(Client::new(channel)).await.map(Response::into_inner)
        };
        let late = |_| Status::deadline_exceeded("the daemon does not answer");
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|e| Err(late(e))) })
    }

    /// Asks, and does something else meanwhile. Dropped calls are given up with [`Asked::give_up`].
    pub fn ask<T, F>(&self, ask: impl FnOnce(Client) -> F + Send + 'static) -> Asked<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let address = self.daemon.address();
        Asked(self.runtime.spawn(async move {
            let channel = windlass_api::connect::connect(address).await;
            let channel = channel.map_err(|e| Status::unavailable(e.chain()))?;
            ask(Client::new(channel)).await.map(Response::into_inner)
        }))
    }

    /// The answer to what was asked before.
    pub fn answer<T>(&self, asked: Asked<T>) -> Result<T, Status> {
        let answer = async { tokio::time::timeout(PATIENCE, asked.0).await };
        self.runtime.block_on(answer).expect("the daemon answers").expect("the call does not panic")
    }

    /// Follows what happens from now on.
    pub fn events(&self) -> Happened {
        let happened = Happened::default();
        let mut stream = self
            .call(|mut client| async move { client.get_container_events(cri::GetEventsRequest {}).await })
            .expect("events can be followed");
        let told = happened.clone();
        self.runtime.spawn(async move {
            while let Ok(Some(event)) = stream.message().await {
                let kind = event.container_event_type();
                told.lock().expect("nobody panics").push((event.container_id, kind));
            }
        });
        happened
    }

    /// A control group for a pod of this name, as the kubelet makes one.
    pub fn group(&self, pod: &str) -> String {
        self.groups.of(pod)
    }

    /// Where logs of a pod go.
    pub fn logs(&self, pod: &str) -> PathBuf {
        let dir = self.daemon.root().with_file_name("pods").join(pod);
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        dir
    }

    /// Directory of the plugin's files that lasts, and the one that a reboot empties.
    fn directories(&self) -> [PathBuf; 2] {
        [self.daemon.root(), self.daemon.state()].map(|dir| dir.join("io.containerd.cri.v1.runtime"))
    }

    /// What pods have left anywhere: there are none any more.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.daemon.leftovers();
        let [root, state] = self.directories();
        let places = [
            state.join("ns"),
            state.join("sandboxes"),
            state.join("io"),
            root.join("containers"),
            root.join("cni/results"),
        ];
        left.extend(
            places.iter().flat_map(|dir| entries(dir)).map(|path| format!("file {}", path.display())),
        );
        left.extend(self.plugin.addresses().iter().map(|taken| format!("address {taken:?}")));
        left.extend(self.groups.left().iter().map(|path| format!("group {}", path.display())));
        left.extend(self.pods().iter().map(|pod| format!("pod {}", pod.id)));
        left.extend(self.containers().iter().map(|container| format!("container {}", container.id)));
        let records = self.daemon.windlass(&["-n", "k8s.io", "ps", "--all", "--quiet"]).ok();
        left.extend(records.lines().map(|id| format!("record {id}")));
        left
    }

    /// What is on disk although there are neither images nor pods.
    pub fn rubbish(&self) -> Vec<String> {
        let kept = [
            "io.containerd.content.v1.content/blobs/sha256",
            "io.containerd.content.v1.content/ingest",
            "io.containerd.snapshotter.v1.overlayfs/snapshots",
        ];
        let found = kept.iter().flat_map(|dir| entries(&self.daemon.root().join(dir)));
        found.map(|path| path.display().to_string()).collect()
    }

    /// Removes everything, as the kubelet does, and the image; nothing may be left.
    #[track_caller]
    pub fn end(&self) {
        for pod in self.pods() {
            self.stop_pod(&pod.id).expect("a pod can be stopped");
            self.remove_pod(&pod.id).expect("a pod can be removed");
        }
        let left = self.left_in_the_end();
        assert!(left.is_empty(), "left over: {left:#?}\n{}", self.daemon.log());
    }

    /// There are no pods; everything of theirs goes.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = self.at_last(|| self.leftovers());
        assert!(left.is_empty(), "left over: {left:#?}\n{}", self.daemon.log());
    }

    /// What is still left after a while.
    fn at_last(&self, mut left: impl FnMut() -> Vec<String>) -> Vec<String> {
        let begun = std::time::Instant::now();
        loop {
            let last = left();
            if last.is_empty() || begun.elapsed() > PATIENCE {
                return last;
            }
        }
    }

    /// The image goes with all its names.
    #[track_caller]
    fn remove_image(&self) {
        let image = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
        let request = cri::RemoveImageRequest { image: Some(image) };
        let asked = async {
            let channel = self.daemon.connect().await.expect("the daemon answers");
            ImageServiceClient::new(channel).remove_image(request).await
        };
        self.runtime.block_on(asked).expect("the image can be removed");
    }

    /// What is left although all pods have been removed, and the image too.
    pub fn left_in_the_end(&self) -> Vec<String> {
        let mut left = self.at_last(|| self.leftovers());
        self.remove_image();
        left.extend(self.at_last(|| self.rubbish()));
        left
    }
}

/// A call that is under way.
pub struct Asked<T>(tokio::task::JoinHandle<Result<T, Status>>);

impl<T> Asked<T> {
    /// The caller goes away.
    pub fn give_up(self) {
        self.0.abort();
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Labels of one pair.
fn label(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}
