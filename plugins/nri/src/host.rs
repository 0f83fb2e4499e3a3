//! All plugins together: who has joined, who is asked about what, and in which order.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use windlass_api::nri::Event;
use windlass_core::nri::{Changes, Domain, Eviction, State, Update};

use crate::accept;
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::launch::{self, Installed};
use crate::peer::{Identity, Peer, Wishes};
use crate::states::{Life, States};
use crate::sync::synchronize;
use crate::wire;

/// Plugins at a time. Each is asked about every container in turn, so there are few in practice.
const MAX_PEERS: usize = 64;
/// How long who joins holds others up at first.
const PATIENCE: Duration = Duration::from_millis(100);

/// The plugin host. Dropping it ends all connections, without a word; see [`windlass_core::nri::Nri::shutdown`].
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    limits: Limits,
    domain: OnceLock<Arc<dyn Domain>>,
    /// In the order in which they are asked.
    peers: RwLock<Arc<Vec<Arc<Peer>>>>,
    pub(crate) states: States,
    /// Operations share it; who joins has it alone.
    pub(crate) gate: Arc<tokio::sync::RwLock<()>>,
    pub(crate) end: CancellationToken,
    /// Is done when nobody can connect any more.
    listening: Mutex<Option<JoinHandle<()>>>,
}

/// Logs a failure and what came before it.
pub(crate) fn warn(error: Error, what: &'static str) {
    tracing::warn!(error = %windlass_core::Error::from(error).chain(), "{what}");
}

// === impl Host ===

impl Host {
    pub fn new(config: Config, limits: Limits) -> Self {
        let shared = Shared {
            config,
            limits,
            domain: OnceLock::new(),
            peers: RwLock::default(),
            states: States::default(),
            gate: Arc::default(),
            end: CancellationToken::new(),
            listening: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) async fn start(&self, domain: Arc<dyn Domain>) -> Result<()> {
        let shared = &self.shared;
        shared.domain.set(domain).map_err(|_| Error::Attached)?;
        if shared.config.disable {
            return Ok(());
        }
        shared.launch().await;
        if shared.config.disable_connections {
            return Ok(());
        }
        let listening = match accept::listen(shared.clone(), shared.config.socket_path.clone()).await {
            // The node's own daemon may have it; one beside it does without.
            Err(error) if accept::taken(&error) => {
                warn(
                    error,
                    "another process has the NRI socket: only installed plugins take part, or set socket_path",
                );
                return Ok(());
            }
            listening => listening?,
        };
        *shared.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        self.shared.end.cancel();
        let listening = self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listening) = listening
            && let Err(error) = listening.await
        {
            tracing::warn!(%error, "stop listening for NRI plugins");
        }
        join_all(self.shared.peers().iter().map(|peer| peer.shutdown())).await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.end.cancel();
        for peer in self.shared.peers().iter() {
            peer.cut();
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn peers(&self) -> Arc<Vec<Arc<Peer>>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn subscribed(&self, event: Event) -> Vec<Arc<Peer>> {
        self.peers().iter().filter(|peer| peer.subscribes(event)).cloned().collect()
    }

    /// Starts all plugins that are installed, at once, and takes in those that come up, in order.
    async fn launch(self: &Arc<Self>) {
        let (plugins, configs) = (self.config.plugin_path.clone(), self.config.plugin_config_path.clone());
        let found = match spawn_blocking(move || launch::discover(&plugins, &configs)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return warn(error, "look for NRI plugins"),
            Err(error) => return tracing::warn!(%error, "look for NRI plugins"),
        };
        let mut joining = JoinSet::new();
        for plugin in found {
            let (shared, plugin_name) = (self.clone(), plugin.identity.to_string());
            joining.spawn(async move {
                shared.run(plugin).await.map_err(|error| match error {
                    error @ (Error::Plugin { .. } | Error::Io { .. }) => error,
                    error => {
                        let source = Box::new(error);
                        Error::Plugin { plugin: plugin_name, method: "registration", source }
                    }
                })
            });
        }
        let mut ready = Vec::new();
        for joined in joining.join_all().await {
            match joined {
                Ok(peer) => ready.push(peer),
                Err(error) => warn(error, "start NRI plugin"),
            }
        }
        ready.sort_by(|a, b| a.name().cmp(b.name()));
        for peer in ready {
            if let Err(error) = self.enter(peer).await {
                warn(error, "synchronize NRI plugin");
            }
        }
    }

    /// Starts a plugin's process.
    async fn run(self: &Arc<Self>, plugin: Installed) -> Result<Peer> {
        let path = plugin.path.clone();
        let failed = |source| Error::Io { operation: "start", path: path.clone(), source };
        let started = spawn_blocking(move || launch::start(&plugin).map(|started| (started, plugin)));
        let ((stream, child), plugin) = started.await.map_err(|e| failed(std::io::Error::other(e)))??;
        let stream = UnixStream::from_std(stream).map_err(failed)?;
        self.join(stream, Some((plugin.identity, child, plugin.config))).await
    }

    async fn join(
        self: &Arc<Self>,
        stream: UnixStream,
        started: Option<(Identity, Child, String)>,
    ) -> Result<Peer> {
        let shared: Arc<dyn Wishes> = self.clone();
        let wishes: Weak<dyn Wishes> = Arc::downgrade(&shared);
        drop(shared);
        Peer::join(stream, started, self.limits, wishes).await
    }

    /// Takes in a plugin that has connected by itself.
    pub(crate) async fn admit(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let peer = self.join(stream, None).await?;
        self.enter(peer).await
    }

    /// Synchronizes a plugin between two operations, and lets it take part from then on.
    async fn enter(self: &Arc<Self>, peer: Peer) -> Result<()> {
        let peer = Arc::new(peer);
        let domain = self.domain.get().ok_or(Error::Closed)?;
        let asked = {
            let _alone = self.alone(&peer).await?;
            let (pods, containers) = (domain.pods().await, domain.containers().await);
            self.states.reset(
                pods.iter()
                    .map(|pod| (pod.id.clone(), Life::Running))
                    .chain(containers.iter().filter_map(|c| Some((c.id.clone(), life(c.state)?)))),
            );
            let pods = pods.iter().map(wire::pod).collect();
            let containers = containers.iter().map(wire::container).collect();
            let asked = synchronize(&peer, pods, containers).await?;
            self.insert(&peer)?;
            asked
        };
        tracing::info!(plugin = peer.name(), "NRI plugin joined");
        tokio::spawn(self.clone().watch(peer));
        let updates: Vec<Update> = asked.iter().map(wire::update).collect();
        if !updates.is_empty() {
            self.carry_out(updates, Vec::new()).await;
        }
        Ok(())
    }

    /// Waits for a moment between operations. Those that come later are held up for a while, at first a short one and
    /// never longer than the request limit; then they go first for as long, and it is tried again.
    async fn alone(&self, peer: &Peer) -> Result<OwnedRwLockWriteGuard<()>> {
        let mut patience = PATIENCE.min(self.limits.request);
        loop {
            let wait = self.gate.clone().write_owned();
            if let Ok(guard) = tokio::time::timeout(patience, wait).await {
                return Ok(guard);
            }
            tokio::select! {
                () = peer.ended().cancelled_owned() => return Err(Error::Closed),
                () = self.end.cancelled() => return Err(Error::Closed),
                () = tokio::time::sleep(patience) => {}
            }
            patience = (2 * patience).min(self.limits.request);
        }
    }

    fn insert(&self, peer: &Arc<Peer>) -> Result<()> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if self.end.is_cancelled() {
            return Err(Error::Closed);
        }
        if peers.len() >= MAX_PEERS {
            return Err(Error::Full(MAX_PEERS));
        }
        let mut new = peers.to_vec();
        let at = new.partition_point(|other| other.identity().index <= peer.identity().index);
        new.insert(at, peer.clone());
        *peers = Arc::new(new);
        Ok(())
    }

    /// Drops a plugin once its connection has ended.
    async fn watch(self: Arc<Self>, peer: Arc<Peer>) {
        peer.ended().cancelled_owned().await;
        {
            let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
            *peers = Arc::new(peers.iter().filter(|other| !Arc::ptr_eq(other, &peer)).cloned().collect());
        }
        tracing::info!(plugin = peer.name(), "NRI plugin left");
        peer.close().await;
    }

    /// What plugins ask outside of any operation, or at its edge.
    async fn carry_out(&self, updates: Vec<Update>, evictions: Vec<Eviction>) -> Vec<Update> {
        let Some(domain) = self.domain.get() else { return updates };
        if !evictions.is_empty() {
            for failed in domain.evict(evictions).await {
                tracing::warn!(container = failed.container_id, "evict container for NRI plugin");
            }
        }
        let failed = if updates.is_empty() { updates } else { domain.update(updates).await };
        for failed in &failed {
            tracing::warn!(container = failed.container_id, "update container for NRI plugin");
        }
        failed
    }
}

#[async_trait]
impl Wishes for Shared {
    async fn update(&self, updates: Vec<Update>, evictions: Vec<Eviction>) -> Vec<Update> {
        self.carry_out(updates, evictions).await
    }
}

fn life(state: State) -> Option<Life> {
    match state {
        State::Created => Some(Life::Created),
        State::Running | State::Paused => Some(Life::Running),
        State::Stopped => Some(Life::Stopped),
        State::Unknown => None,
    }
}

/// What is left of a call that failed: nothing if the plugin was dropped for it, else the failure.
pub(crate) fn survive<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_fatal() => {
            warn(error, "NRI plugin dropped");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The updates and evictions of an answer as core has them, each container evicted once.
pub(crate) fn changes(
    updates: Vec<windlass_api::nri::ContainerUpdate>,
    evictions: Vec<windlass_api::nri::ContainerEviction>,
) -> Changes {
    let mut seen = HashSet::new();
    let evictions = evictions.into_iter().map(wire::eviction);
    Changes {
        updates: updates.iter().map(wire::update).collect(),
        evictions: evictions.filter(|e| seen.insert(e.container_id.clone())).collect(),
    }
}
