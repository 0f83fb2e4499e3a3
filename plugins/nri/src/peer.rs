//! One plugin that has registered: how it joins, and how it is asked.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use protobuf::{Enum, Message};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use windlass_api::nri::{
    ConfigureRequest, ConfigureResponse, Empty, Event, RegisterPluginRequest, StateChangeEvent,
    UpdateContainersRequest, UpdateContainersResponse,
};
use windlass_core::nri::{Eviction, Update};
use windlass_core::{Class, Error as Status};

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::link::{Link, Service};
use crate::wire;

const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
/// The version of NRI that is spoken.
const NRI_VERSION: &str = "v0.12.0";
/// The runtime that plugins are told they run in: they choose what they do by it.
const RUNTIME_NAME: &str = "containerd";
const RUNTIME_VERSION: &str = "v2.3.4";
/// Longest name of a plugin.
const MAX_NAME: usize = 128;

/// What plugins may ask unasked.
#[async_trait]
pub trait Wishes: Send + Sync + 'static {
    /// Carries out updates and evictions; answers the updates that failed.
    async fn update(&self, updates: Vec<Update>, evictions: Vec<Eviction>) -> Vec<Update>;
}

/// Index and name: `NN-name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub index: String,
    pub base: String,
}

/// A plugin. Dropping it ends its connection and, if it was started here, its process.
pub struct Peer {
    identity: Identity,
    name: String,
    link: Link,
    events: i32,
    /// Events that it wants in the older form.
    older: AtomicU32,
    /// One request at a time, in the order in which they come.
    turn: tokio::sync::Mutex<()>,
    limit: Duration,
    /// A process that was started here. It is killed when dropped.
    child: Mutex<Option<Child>>,
}

/// The daemon's side of the connection.
struct Door {
    /// Waits for the registration.
    waiting: Mutex<Option<oneshot::Sender<Identity>>>,
    /// Set from the start for a plugin that was started here: its file's name counts, whatever it says.
    identity: OnceLock<Identity>,
    wishes: Weak<dyn Wishes>,
}

// === impl Identity ===

impl Identity {
    /// Of a plugin that says itself who it is.
    pub fn new(index: &str, base: &str) -> Result<Self> {
        let digits = index.len() == 2 && index.bytes().all(|b| b.is_ascii_digit());
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
        let reason = if !digits {
            "an index is two digits"
        } else if base.is_empty() || base.len() > MAX_NAME || !base.bytes().all(plain) {
            "a name is up to 128 of letters, digits and -_.+"
        } else {
            return Ok(Self { index: index.to_owned(), base: base.to_owned() });
        };
        let short = |text: &str| text.chars().take(MAX_NAME).collect();
        Err(Error::Name { name: short(base), index: short(index), reason })
    }

    /// Of a file: `NN-name`.
    pub fn parse(file: &str) -> Result<Self> {
        let (index, base) = file.split_once('-').unwrap_or((file, ""));
        Self::new(index, base)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.base)
    }
}

// === impl Door ===

impl Door {
    /// A plugin that is refused hears why, and may try again for as long as it has time to register.
    fn register(&self, request: RegisterPluginRequest) -> Result<Empty, Status> {
        let identity = match self.identity.get() {
            Some(identity) => identity.clone(),
            None => Identity::new(&request.plugin_idx, &request.plugin_name).map_err(|error| {
                tracing::warn!(%error, "NRI plugin refused");
                Status::invalid(error.to_string())
            })?,
        };
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waiting = waiting.ok_or_else(|| Status::exists("the plugin has registered already"))?;
        tracing::info!(plugin = %identity, version = request.NRI_version, "NRI plugin registered");
        let _ = self.identity.set(identity.clone());
        let _ = waiting.send(identity);
        Ok(Empty::new())
    }

    async fn update(&self, request: UpdateContainersRequest) -> Result<UpdateContainersResponse, Status> {
        let registered = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let identity = self.identity.get().filter(|_| registered);
        let identity = identity.ok_or_else(|| Status::precondition("the plugin has not registered"))?;
        let wishes = self.wishes.upgrade().ok_or_else(|| Status::unavailable("the daemon ends"))?;
        tracing::debug!(plugin = %identity, updates = request.update.len(), "NRI plugin asks for updates");
        let updates = request.update.iter().map(wire::update).collect();
        let evictions = request.evict.into_iter().map(wire::eviction).collect();
        let failed = wishes.update(updates, evictions).await;
        let failed = failed.into_iter().map(wire::failed).collect();
        Ok(UpdateContainersResponse { failed, ..Default::default() })
    }
}

fn parse<M: Message>(payload: &[u8]) -> Result<M, Status> {
    M::parse_from_bytes(payload).map_err(|e| Status::invalid(format!("request cannot be read: {e}")))
}

fn print<M: Message>(message: &M) -> Result<Vec<u8>, Status> {
    message.write_to_bytes().map_err(|e| Status::internal(format!("answer cannot be written: {e}")))
}

#[async_trait]
impl Service for Door {
    async fn serve(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        match (service, method) {
            (RUNTIME, "RegisterPlugin") => print(&self.register(parse(payload)?)?),
            (RUNTIME, "UpdateContainers") => print(&self.update(parse(payload)?).await?),
            _ => Err(Status::unimplemented(format!("/{service}/{method} is not there"))),
        }
    }
}

// === impl Peer ===

impl Peer {
    /// Waits for the plugin at the other end of `stream` to register, and configures it. `given` is who it is if it was
    /// started here, as `child`, with its configuration.
    pub async fn join(
        stream: UnixStream,
        started: Option<(Identity, Child, String)>,
        limits: Limits,
        wishes: Weak<dyn Wishes>,
    ) -> Result<Self> {
        let (given, child, config) = match started {
            Some((identity, child, config)) => (OnceLock::from(identity), Some(child), config),
            None => Default::default(),
        };
        let (registered, registration) = oneshot::channel();
        let door = Door { waiting: Mutex::new(Some(registered)), identity: given, wishes };
        let link = Link::start(stream, Arc::new(door));
        let ended = link.ended();
        let wait = async {
            tokio::select! {
                () = ended.cancelled() => Err(Error::Closed),
                identity = registration => identity.map_err(|_| Error::Closed),
            }
        };
        let identity = tokio::time::timeout(limits.registration, wait)
            .await
            .map_err(|_| Error::Elapsed(limits.registration))??;
        let mut peer = Self {
            name: identity.to_string(),
            identity,
            link,
            events: 0,
            older: AtomicU32::new(0),
            turn: tokio::sync::Mutex::new(()),
            limit: limits.request,
            child: Mutex::new(child),
        };
        peer.events = peer.configure(config, limits).await?;
        Ok(peer)
    }

    async fn configure(&self, config: String, limits: Limits) -> Result<i32> {
        let millis = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config,
            runtime_name: RUNTIME_NAME.into(),
            runtime_version: RUNTIME_VERSION.into(),
            registration_timeout: millis(limits.registration),
            request_timeout: millis(limits.request),
            NRI_version: NRI_VERSION.into(),
            ..Default::default()
        };
        let answer: ConfigureResponse = self.ask("Configure", &request).await?;
        let valid = (1 << (Event::LAST.value() - 1)) - 1;
        match answer.events {
            0 => Ok(valid),
            events if events & !valid != 0 => {
                let what = format!("events that there are not: {:#x}", events & !valid);
                Err(self.failed("Configure", Error::Protocol(what)))
            }
            events => Ok(events),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn subscribes(&self, event: Event) -> bool {
        self.events & (1 << (event.value() - 1)) != 0
    }

    /// Is done when the plugin has gone or was dropped.
    pub fn ended(&self) -> CancellationToken {
        self.link.ended()
    }

    /// Asks, once all that was asked before is answered.
    pub async fn ask<A: Message>(&self, method: &'static str, request: &impl Message) -> Result<A> {
        let payload = request.write_to_bytes().map_err(|e| Error::Protocol(e.to_string()));
        let payload = payload.map_err(|e| self.failed(method, e))?;
        self.ask_bytes(method, payload).await
    }

    async fn ask_bytes<A: Message>(&self, method: &'static str, payload: Vec<u8>) -> Result<A> {
        let _turn = self.turn.lock().await;
        let answer = self.link.call(PLUGIN, method, payload, self.limit).await;
        let answer = answer.and_then(|payload| {
            A::parse_from_bytes(&payload).map_err(|e| Error::Protocol(format!("answer cannot be read: {e}")))
        });
        answer.map_err(|error| self.failed(method, error))
    }

    /// Tells the plugin of an event that has no answer: `payload` is its request, `older` makes the older form.
    pub async fn tell(
        &self,
        event: Event,
        method: &'static str,
        payload: &[u8],
        older: impl FnOnce() -> StateChangeEvent,
    ) -> Result<()> {
        let bit = 1 << event.value();
        if self.older.load(Ordering::Relaxed) & bit == 0 {
            match self.ask_bytes::<Empty>(method, payload.to_vec()).await {
                Err(Error::Plugin { source, .. }) if unimplemented(&source) => {
                    tracing::warn!(plugin = self.name, method, "NRI plugin knows only the older StateChange");
                    self.older.fetch_or(bit, Ordering::Relaxed);
                }
                answer => return answer.map(drop),
            }
        }
        self.ask::<Empty>("StateChange", &older()).await.map(drop)
    }

    /// Ends the connection if `source` says that it is of no use any more.
    fn failed(&self, method: &'static str, source: Error) -> Error {
        if source.is_fatal() {
            self.link.close();
        }
        Error::Plugin { plugin: self.name.clone(), method, source: Box::new(source) }
    }

    /// Says that the daemon ends, ends the connection, and ends the process if it was started here.
    pub async fn shutdown(&self) {
        if let Err(error) = self.ask::<Empty>("Shutdown", &Empty::new()).await {
            tracing::debug!(plugin = self.name, error = %windlass_core::Error::from(error).chain(), "shutdown");
        }
        self.close().await;
    }

    /// Ends the connection.
    pub fn cut(&self) {
        self.link.close();
    }

    /// Ends the connection and the process.
    pub async fn close(&self) {
        self.link.close();
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child
            && let Err(error) = child.kill().await
        {
            tracing::warn!(plugin = self.name, %error, "kill plugin");
        }
    }
}

fn unimplemented(error: &Error) -> bool {
    matches!(error, Error::Answer(status) if status.is(Class::Unimplemented))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let identity = Identity::parse("10-my-plugin.x").unwrap();
        assert_eq!((identity.index.as_str(), identity.base.as_str()), ("10", "my-plugin.x"));
        assert_eq!(identity.to_string(), "10-my-plugin.x");
        for bad in ["", "10", "10-", "1-a", "100-a", "aa-b", "10-a b", "10-ä", "10-a/../b", "-10-a"] {
            assert!(Identity::parse(bad).is_err(), "{bad}");
        }
        assert!(Identity::new("10", &"a".repeat(MAX_NAME + 1)).is_err());
    }
}
