//! What everything in this plugin holds on to, and the few things that pods and containers share.
//!
//! The calls of the interface are methods of [`Cri`], each named after its RPC, beside the noun that it is about:
//! `sandbox::run`, `container::create`, …. A call that changes something is one future that [`Cri::finish`] runs in a task of
//! its own, so that it ends or rolls back whatever becomes of the client.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use windlass_api::cri;
use windlass_core::{Context, Error, Result, container, diff, event, metadata, nri, task};

use crate::config::{Config, Handler};
use crate::container::Users;
use crate::events::Events;
use crate::image::Images;
use crate::network::Networks;
use crate::spec;
use crate::state::{Sandbox, State};
use crate::stats;

/// The namespace of everything that Kubernetes runs.
pub const NAMESPACE: &str = "k8s.io";

/// Longest wait for changes that are under way when the daemon stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin.
pub struct Cri {
    /// On whose behalf everything is done: namespace [`NAMESPACE`], no lease.
    pub cx: Context,
    pub config: Arc<Config>,
    /// Lasts: `containers/<id>` lies here.
    pub root: PathBuf,
    /// Gone after a reboot: `sandboxes/<id>`, `ns/<id>` and `io/<id>` lie here.
    pub state_dir: PathBuf,
    pub database: Arc<dyn metadata::Database>,
    pub tasks: Arc<dyn task::Tasks>,
    pub exchange: Arc<dyn event::Exchange>,
    pub images: Arc<Images>,
    /// Pods and containers.
    pub state: State,
    pub host: spec::Host,
    /// What specifications are made with, by runtime handler.
    pub settings: BTreeMap<String, spec::Settings>,
    pub networks: Networks,
    /// What finds out what a container changed; `None` where there is no such plugin.
    pub differ: Option<Arc<dyn diff::Differ>>,
    /// `None` where there is no such plugin.
    pub nri: Option<Arc<dyn nri::Nri>>,
    /// Whom images know.
    pub users: Users,
    /// What `GetContainerEvents` tells.
    pub events: Events,
    /// What figures are taken with.
    pub figures: stats::Shared,
    /// Where exec, attach and port forward are served; set once the server listens.
    pub streaming: OnceLock<windlass_streaming::Server>,
    /// Changes under way.
    pub work: TaskTracker,
    /// The daemon's own socket, for tools.
    pub address: PathBuf,
    /// What the runtime handlers can do, once somebody has asked.
    pub handlers: tokio::sync::OnceCell<Vec<cri::RuntimeHandler>>,
    /// The program of pods' own processes, once there is such a pod.
    pub pause_program: tokio::sync::OnceCell<PathBuf>,
}

impl Cri {
    /// Runs a change in a task of its own and waits for it: dropped, the change goes on.
    pub async fn finish<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.work.spawn(change).await {
            Ok(result) => result,
            Err(error) => Err(Error::internal("the request's task ended early").with_source(error)),
        }
    }

    /// Ends what goes on, and waits for changes under way for a while. Blocks; called when no more calls come in.
    pub fn close(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.events.close();
        self.work.close();
        runtime.block_on(async {
            if let Some(server) = self.streaming.get() {
                server.close().await;
            }
            if tokio::time::timeout(PATIENCE, self.work.wait()).await.is_err() {
                tracing::warn!(
                    calls = self.work.len(),
                    "changes to pods are still under way; they are given up"
                );
            }
            if let Some(nri) = &self.nri {
                nri.shutdown().await;
            }
        });
    }

    /// The runtime handler of a pod: its configuration by name, the default one for an empty name. *Invalid argument* for
    /// one that is not configured.
    pub fn handler(&self, name: &str) -> Result<Handler<'_>> {
        self.config.handler(name)
    }

    /// What specifications of a handler's containers are made with.
    pub fn settings(&self, handler: &Handler<'_>) -> &spec::Settings {
        self.settings.get(handler.name).expect("settings are made for every handler")
    }

    /// The runtime of a handler as records hold it.
    pub fn runtime(&self, handler: &Handler<'_>) -> container::Runtime {
        container::Runtime { name: handler.runtime_name().to_owned(), options: handler.options() }
    }

    /// The server of exec, attach and port forward. *Unavailable* where it does not listen.
    pub fn streaming_server(&self) -> Result<&windlass_streaming::Server> {
        self.streaming.get().ok_or_else(|| Error::unavailable("the streaming server does not listen"))
    }

    /// Directory of a pod's files: `hostname`, `hosts`, `resolv.conf`, `shm`.
    pub fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.state_dir.join("sandboxes").join(id)
    }

    /// Directory of a pod's namespace files.
    pub fn namespaces_dir(&self, id: &str) -> PathBuf {
        self.state_dir.join("ns").join(id)
    }

    /// Directory of a container's files that last: image volumes and the like.
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// Directory of a container's fifos.
    pub fn io_dir(&self, id: &str) -> PathBuf {
        self.state_dir.join("io").join(id)
    }

    /// The pod that a container is to be made in. *Not found*; *failed precondition* where it is not ready.
    pub fn ready_sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let sandbox = self.state.sandboxes.get(id)?;
        if !sandbox.is_ready() {
            return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
        }
        Ok(sandbox)
    }
}

/// An id nobody else has: 64 hexadecimal digits.
pub fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("read random numbers").with_source(e))?;
    Ok(hex::encode(bytes))
}
