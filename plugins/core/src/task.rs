//! Tasks: the running side of containers.

use std::time::SystemTime;

use async_trait::async_trait;

use crate::container::Runtime;
use crate::mount::Mount;
use crate::{Any, Context, Labels, Result};

/// Where a process's standard streams go: a fifo's path, a `file://` or `binary://` URI, or empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Unknown,
    Created,
    Running,
    Stopped,
    Paused,
    Pausing,
}

/// A process as its shim sees it.
#[derive(Clone, Debug)]
pub struct State {
    pub container_id: String,
    /// Exec id, empty for the container's own process.
    pub exec_id: String,
    pub pid: u32,
    pub status: Status,
    pub io: Io,
    pub exit_status: u32,
    pub exited_at: Option<SystemTime>,
    pub bundle: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub pid: u32,
    /// 128 + signal for a killed process.
    pub status: u32,
    pub at: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The OCI runtime specification as the container record holds it.
    pub spec: Option<Any>,
    /// The container's runtime.
    pub runtime: Runtime,
    /// Mounts that make the root file system, below the bundle's `rootfs`.
    pub rootfs: Vec<Mount>,
    pub io: Io,
    /// Directory of a checkpoint to restore from, empty for none. It is read when the task is started.
    pub checkpoint: String,
    /// The checkpoint's directory becomes the task's, and goes with it. It must be on the file system of the state.
    pub take_checkpoint: bool,
    /// Options of the task's creator (`containerd.runc.v1.Options`); the runtime's where empty.
    pub options: Option<Any>,
    /// The sandbox whose shim serves this task, empty for its own shim.
    pub sandbox_id: String,
    /// A running shim's address to use instead of starting one, empty for none.
    pub address: String,
}

#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    pub io: Io,
    /// The OCI `Process` as `Any`.
    pub spec: Option<Any>,
}

/// A process in a container and, where the shim knows more about it, details.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub info: Option<Any>,
}

#[derive(Clone, Debug)]
pub struct Metrics {
    pub id: String,
    pub at: SystemTime,
    pub data: Option<Any>,
}

/// What a runtime says of itself.
#[derive(Clone, Debug, Default)]
pub struct RuntimeInfo {
    pub name: String,
    pub version: String,
    pub revision: String,
    pub options: Option<Any>,
    pub features: Option<Any>,
    pub annotations: Labels,
}

/// Runs tasks.
///
/// - `exec` is an exec id, empty for the container's own process. Unknown ids are *not found*; wrong states
///   (starting twice, deleting what runs) are *failed precondition*.
/// - A task outlives the daemon. After a restart it is found again; one that ended meanwhile shows its true exit.
/// - A mutating call that was begun is finished or rolled back, also when the caller's future is dropped.
/// - A call to a shim that hangs ends with *deadline exceeded* and hurts no other task.
/// - Events per task, always in this order: create, start, (exec-added, exec-started, exit), exit, delete.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Makes a bundle, starts a shim (or uses the sandbox's), creates the container; answers its pid.
    async fn create(&self, cx: &Context, id: &str, options: CreateOptions) -> Result<u32>;
    /// Answers the pid.
    async fn start(&self, cx: &Context, id: &str, exec: &str) -> Result<u32>;
    /// Of the container's own process: ends the shim too and removes the bundle.
    async fn delete(&self, cx: &Context, id: &str, exec: &str) -> Result<Exit>;
    async fn exec(&self, cx: &Context, id: &str, exec: &str, options: ExecOptions) -> Result<()>;
    async fn state(&self, cx: &Context, id: &str, exec: &str) -> Result<State>;
    /// States of all tasks of the namespace; a shim that does not answer in time shows as unknown.
    async fn list(&self, cx: &Context) -> Result<Vec<State>>;
    async fn kill(&self, cx: &Context, id: &str, exec: &str, signal: u32, all: bool) -> Result<()>;
    async fn pause(&self, cx: &Context, id: &str) -> Result<()>;
    async fn resume(&self, cx: &Context, id: &str) -> Result<()>;
    async fn resize_pty(&self, cx: &Context, id: &str, exec: &str, width: u32, height: u32) -> Result<()>;
    async fn close_io(&self, cx: &Context, id: &str, exec: &str) -> Result<()>;
    async fn pids(&self, cx: &Context, id: &str) -> Result<Vec<Process>>;
    /// Waits for the end; answers at once where it has ended. Dropping the future stops the wait only.
    async fn wait(&self, cx: &Context, id: &str, exec: &str) -> Result<Exit>;
    async fn update(&self, cx: &Context, id: &str, resources: Any, annotations: Labels) -> Result<()>;
    /// Dumps the task into the directory `path`.
    async fn checkpoint(&self, cx: &Context, id: &str, path: &str, options: Option<Any>) -> Result<()>;
    async fn metrics(&self, cx: &Context, id: &str) -> Result<Metrics>;
    /// Ids of the namespace's tasks, without asking any shim.
    async fn ids(&self, cx: &Context) -> Vec<String>;
    /// What a runtime can do, asked from its shim binary.
    async fn runtime_info(&self, runtime: &Runtime) -> Result<RuntimeInfo>;
}
