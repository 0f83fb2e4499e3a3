//! The Node Resource Interface: processes of their own that are told of every pod and container, may change a
//! container before it exists, and may change the resources of those that do.
//!
//! Nothing here knows how such a plugin is spoken to. OCI structures (a spec, `LinuxResources`) are carried as JSON, as
//! the runtime specification writes them.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Labels, Result};

/// A pod as plugins see it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub id: String,
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub runtime_handler: String,
    /// The cgroup that the pod was asked to live below.
    pub cgroup_parent: String,
    /// The sandbox's own `linux.cgroupsPath`.
    pub cgroups_path: String,
    pub namespaces: Vec<Namespace>,
    /// Of the sandbox; 0 where it has no process.
    pub pid: u32,
    pub ips: Vec<String>,
    /// What the pod needs beside its containers: OCI `LinuxResources`, null if unknown.
    pub overhead: Value,
    /// The sum of what its containers may use, likewise.
    pub resources: Value,
    /// Resources of the sandbox itself, likewise.
    pub sandbox_resources: Value,
}

/// A Linux namespace: type as OCI names it (`network`, `pid`, …), path empty if it is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub kind: String,
    pub path: String,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Unknown,
    Created,
    Paused,
    Running,
    Stopped,
}

/// The seccomp profile that a container was asked to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seccomp {
    RuntimeDefault,
    Unconfined,
    /// A profile on this machine, by its reference.
    Localhost(String),
}

/// A container as plugins see it. Arguments, environment, mounts, devices and all else that a spec says are read from
/// `spec`.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub id: String,
    pub pod_id: String,
    pub name: String,
    pub state: State,
    pub labels: Labels,
    pub annotations: Labels,
    /// The OCI spec; null where there is none yet.
    pub spec: Arc<Value>,
    /// 0 where it has no process.
    pub pid: u32,
    /// Nanoseconds since the epoch, 0 for "not yet"; so are the two that follow.
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// Fully qualified CDI names that the container was asked to have.
    pub cdi_devices: Vec<String>,
    pub seccomp: Option<Seccomp>,
}

/// Other resources for a container that exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    pub container_id: String,
    /// OCI `LinuxResources`: only what is to change.
    pub resources: Value,
    /// Whether the plugin does not mind if it cannot be done.
    pub ignore_failure: bool,
}

/// A container that a plugin wants stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    pub container_id: String,
    pub reason: String,
}

/// What plugins want of *other* containers than the one they were asked about. The caller carries it out; what fails is
/// logged and stops nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub updates: Vec<Update>,
    pub evictions: Vec<Eviction>,
}

/// What is left to do after a spec has been adjusted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adjusted {
    pub changes: Changes,
    /// Fully qualified CDI names to be resolved and injected into the spec.
    pub cdi_devices: Vec<String>,
    /// The class whose parameters become `linux.resources.blockIO`. An empty one has been carried out already.
    pub blockio_class: Option<String>,
}

/// The owner of pods and containers: what plugins are synchronized with, and who carries out what they ask unasked.
///
/// [`Domain::pods`] and [`Domain::containers`] are called while operations are kept out, so they must not take a
/// [`Hold`] or wait for somebody who does.
#[async_trait]
pub trait Domain: Send + Sync {
    /// All pods that are known and not being removed.
    async fn pods(&self) -> Vec<Pod>;
    /// All containers that have not stopped.
    async fn containers(&self) -> Vec<Container>;
    /// Changes containers; answers those that could not be changed although failure matters.
    async fn update(&self, updates: Vec<Update>) -> Vec<Update>;
    /// Stops containers; answers those that could not be stopped.
    async fn evict(&self, evictions: Vec<Eviction>) -> Vec<Eviction>;
}

/// Keeps plugins from joining while it lives; see [`Nri::hold`].
pub struct Hold(Option<Box<dyn Any + Send + Sync>>);

impl Hold {
    /// A hold that ends when `guard` is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// A hold on nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether it keeps anybody from anything.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

/// All plugins together.
///
/// Plugins are asked in the order of their index, each one thing at a time and in the order in which things happen. A
/// plugin that answers with an error fails the operation; one that does not answer in time, or breaks the connection or
/// the protocol, is dropped and the operation goes on without it. No call takes longer than the number of plugins times
/// the request limit.
#[async_trait]
pub trait Nri: Send + Sync {
    /// Whether anybody listens. If not, callers skip all other calls but [`Nri::attach`], [`Nri::hold`] and
    /// [`Nri::shutdown`].
    fn enabled(&self) -> bool;

    /// Names of the plugins in the order in which they are asked: `NN-name`.
    fn plugins(&self) -> Vec<String>;

    /// Starts the plugins that are installed, waits until each is ready or has had its time, and lets others register
    /// from then on, unless another process has the socket. Called once, before the first pod; a second call is *failed
    /// precondition*.
    async fn attach(&self, domain: Arc<dyn Domain>) -> Result<()>;

    /// Held over an operation that makes, changes or removes a pod or container, from before [`Nri::enabled`] is asked
    /// until what was done can be seen through the [`Domain`]: a plugin joins between such operations, never amid one.
    /// A second hold within an operation may have to wait until a plugin that wants to join gives up for a while, so
    /// take one only.
    async fn hold(&self) -> Hold;

    /// The sandbox runs and its network is there. On failure, plugins have been told that it was stopped and removed.
    async fn run_pod(&self, pod: &Pod) -> Result<()>;
    /// The pod is about to get other resources (OCI `LinuxResources`).
    async fn update_pod(&self, pod: &Pod, overhead: &Value, resources: &Value) -> Result<()>;
    async fn post_update_pod(&self, pod: &Pod) -> Result<()>;
    /// May be called again: plugins are told once.
    async fn stop_pod(&self, pod: &Pod) -> Result<()>;
    /// May be called again: plugins are told once.
    async fn remove_pod(&self, pod: &Pod) -> Result<()>;

    /// The container is about to be made of `spec` (`container.spec` is not read), which is adjusted in place; on
    /// failure it is as it was. If making it fails later, [`Nri::stop_container`] and [`Nri::remove_container`] undo it.
    async fn create_container(&self, pod: &Pod, container: &Container, spec: &mut Value) -> Result<Adjusted>;
    async fn post_create_container(&self, pod: &Pod, container: &Container) -> Result<()>;
    async fn start_container(&self, pod: &Pod, container: &Container) -> Result<()>;
    async fn post_start_container(&self, pod: &Pod, container: &Container) -> Result<()>;
    /// The container is about to get other `resources` (OCI `LinuxResources`), which plugins may change in place.
    async fn update_container(
        &self,
        pod: &Pod,
        container: &Container,
        resources: &mut Value,
    ) -> Result<Changes>;
    async fn post_update_container(&self, pod: &Pod, container: &Container) -> Result<()>;
    /// The container was stopped or has ended by itself. May be called again: plugins are told once.
    async fn stop_container(&self, pod: &Pod, container: &Container) -> Result<Changes>;
    /// The container is gone; plugins that have not been told of its stop are told first. May be called again.
    async fn remove_container(&self, pod: &Pod, container: &Container) -> Result<Changes>;

    /// Tells plugins that the daemon ends, ends those that it has started, and lets nobody register any more.
    async fn shutdown(&self);
}
