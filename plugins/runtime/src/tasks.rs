//! The task manager: core's trait over shims.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use protobuf::well_known_types::empty::Empty;
use windlass_api::convert::{any, task as status, time};
use windlass_api::shim::task_v3 as v3;
use windlass_core::container::Runtime;
use windlass_core::event::Exchange;
use windlass_core::task::{
    CreateOptions, ExecOptions, Exit, Io, Metrics, Process, RuntimeInfo, State, Status, Tasks,
};
use windlass_core::{Any, Class, Context, Labels, Result, sandbox, validate};

use crate::Launcher;
use crate::config::Limits;
use crate::create::any_field;
use crate::error::Error;
use crate::task::{KILLED, Phase, Table, Task};
use crate::{exits, step};

/// States that are asked for at the same time.
const PARALLEL: usize = 64;

/// Tasks over shims.
pub struct Manager(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub launcher: Arc<Launcher>,
    pub exchange: Arc<dyn Exchange>,
    /// Where a sandbox's record says that a shim without a task is meant to be there.
    pub sandboxes: Option<Arc<dyn sandbox::Store>>,
    pub state: PathBuf,
    pub root: PathBuf,
    pub tasks: Table,
}

impl Inner {
    pub fn limits(&self) -> &Limits {
        &self.launcher.settings.limits
    }

    fn task(&self, cx: &Context, id: &str) -> Result<Arc<Task>, Error> {
        self.tasks.get(&cx.namespace, id)
    }
}

/// Runs a mutation in a task of its own: it ends as it should, also when the caller has gone.
async fn whole<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or(Err(Error::Cut(what))).map_err(Into::into)
}

macro_rules! request {
    ($kind:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let mut request = v3::$kind::new();
        $(request.$field = $value;)*
        request
    }};
}

/// Where a manager lives and whom it tells.
pub struct Place {
    pub launcher: Arc<Launcher>,
    pub exchange: Arc<dyn Exchange>,
    pub sandboxes: Option<Arc<dyn sandbox::Store>>,
    /// Bundles: gone after a reboot.
    pub state: PathBuf,
    /// Work directories: kept.
    pub root: PathBuf,
}

impl Manager {
    /// Takes on what runs already.
    pub async fn start(place: Place) -> Result<Self> {
        let Place { launcher, exchange, sandboxes, state, root } = place;
        let inner = Arc::new(Inner { launcher, exchange, sandboxes, state, root, tasks: Table::default() });
        exits::follow(&inner);
        inner.restore().await?;
        Ok(Self(inner))
    }

    /// A call that changes something, without an answer worth reading.
    async fn change(
        &self,
        cx: &Context,
        id: &str,
        method: &'static str,
        limit: Duration,
        request: impl protobuf::Message,
    ) -> Result<()> {
        let task = self.0.task(cx, id)?;
        whole(method, async move { task.call::<Empty>(method, &request, limit, false).await.map(drop) }).await
    }
}

async fn state(task: &Task, exec: &str, limit: Duration) -> Result<State, Error> {
    let request = request!(StateRequest { id: task.id().to_owned(), exec_id: exec.to_owned() });
    let answer: v3::StateResponse = task.call("State", &request, limit, true).await?;
    Ok(State {
        container_id: task.id().to_owned(),
        exec_id: exec.to_owned(),
        pid: answer.pid,
        status: status::from_shim(answer.status),
        io: Io {
            stdin: answer.stdin,
            stdout: answer.stdout,
            stderr: answer.stderr,
            terminal: answer.terminal,
        },
        exit_status: answer.exit_status,
        exited_at: time::from_shim(&answer.exited_at).ok().flatten(),
        bundle: task.bundle.path.to_string_lossy().into_owned(),
    })
}

/// What is said of a task whose shim does not answer.
fn unknown(task: &Task) -> State {
    State {
        container_id: task.id().to_owned(),
        exec_id: String::new(),
        pid: task.pid(),
        status: Status::Unknown,
        io: Io::default(),
        exit_status: 0,
        exited_at: None,
        bundle: task.bundle.path.to_string_lossy().into_owned(),
    }
}

/// Waits for the shim's answer or the shim's end, over as many connections as it takes.
async fn wait(task: &Task, exec: &str) -> Result<Exit, Error> {
    let request = request!(WaitRequest { id: task.id().to_owned(), exec_id: exec.to_owned() });
    let mut phase = task.phase();
    loop {
        if let Some(exit) = task.exit(exec) {
            return Ok(exit);
        }
        let seen = *phase.borrow_and_update();
        if let Phase::Gone(exit) = seen {
            return Ok(if exec.is_empty() { exit } else { Exit { pid: 0, status: KILLED, at: exit.at } });
        }
        match task.shim.call::<v3::WaitResponse>("Wait", &request, None).await {
            Ok(answer) => {
                let at = time::from_shim(&answer.exited_at).ok().flatten().unwrap_or_else(SystemTime::now);
                let pid = if exec.is_empty() { task.pid() } else { 0 };
                return Ok(Exit { pid, status: answer.exit_status, at });
            }
            Err(error) if error.is_closed() => {
                if phase.wait_for(|now| *now != seen).await.is_err() {
                    return Err(Error::NotFound(task.id().to_owned()));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

// === impl Tasks ===

#[async_trait]
impl Tasks for Manager {
    async fn create(&self, cx: &Context, id: &str, options: CreateOptions) -> Result<u32> {
        whole("create", self.0.clone().create(cx.namespace.clone(), id.to_owned(), options)).await
    }

    async fn start(&self, cx: &Context, id: &str, exec: &str) -> Result<u32> {
        let task = self.0.task(cx, id)?;
        let limit = self.0.limits().start;
        let request = request!(StartRequest { id: id.to_owned(), exec_id: exec.to_owned() });
        whole("start", async move {
            step!("start.begin");
            let pid = task.call::<v3::StartResponse>("Start", &request, limit, false).await?.pid;
            step!("start.started");
            if request.exec_id.is_empty() && pid != 0 {
                task.set_pid(pid);
            }
            if pid != 0 {
                return Ok(pid);
            }
            Ok(state(&task, &request.exec_id, limit).await?.pid)
        })
        .await
    }

    async fn delete(&self, cx: &Context, id: &str, exec: &str) -> Result<Exit> {
        let task = self.0.task(cx, id)?;
        let (manager, exec) = (self.0.clone(), exec.to_owned());
        whole("delete", async move {
            if exec.is_empty() {
                return manager.delete(task).await;
            }
            let exit = manager.delete_in_shim(&task, &exec, manager.limits().delete).await;
            let exit = exit?;
            task.forget(&exec, exit.pid);
            Ok(exit)
        })
        .await
    }

    async fn exec(&self, cx: &Context, id: &str, exec: &str, options: ExecOptions) -> Result<()> {
        validate::identifier("exec id", exec).map_err(|e| e.context(format!("invalid exec id {exec}")))?;
        let io = options.io;
        let request = request!(ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            terminal: io.terminal,
            stdin: io.stdin,
            stdout: io.stdout,
            stderr: io.stderr,
            spec: any_field(options.spec),
        });
        self.change(cx, id, "Exec", self.0.limits().call, request).await
    }

    async fn state(&self, cx: &Context, id: &str, exec: &str) -> Result<State> {
        let task = self.0.task(cx, id)?;
        Ok(state(&task, exec, self.0.limits().state).await?)
    }

    async fn list(&self, cx: &Context) -> Result<Vec<State>> {
        let limit = self.0.limits().state;
        let asked = self.0.tasks.all(&cx.namespace).into_iter().map(|task| async move {
            match state(&task, "", limit).await {
                Ok(state) => Some(state),
                Err(error) if error.is(Class::NotFound) => None,
                Err(error) => {
                    tracing::warn!(id = task.id(), error = %error.chain(), "state of a task is not known");
                    Some(unknown(&task))
                }
            }
        });
        let states: Vec<_> = futures::stream::iter(asked).buffered(PARALLEL).collect().await;
        Ok(states.into_iter().flatten().collect())
    }

    async fn kill(&self, cx: &Context, id: &str, exec: &str, signal: u32, all: bool) -> Result<()> {
        let request =
            request!(KillRequest { id: id.to_owned(), exec_id: exec.to_owned(), signal: signal, all: all });
        self.change(cx, id, "Kill", self.0.limits().call, request).await
    }

    async fn pause(&self, cx: &Context, id: &str) -> Result<()> {
        let request = request!(PauseRequest { id: id.to_owned() });
        self.change(cx, id, "Pause", self.0.limits().call, request).await
    }

    async fn resume(&self, cx: &Context, id: &str) -> Result<()> {
        let request = request!(ResumeRequest { id: id.to_owned() });
        self.change(cx, id, "Resume", self.0.limits().call, request).await
    }

    async fn resize_pty(&self, cx: &Context, id: &str, exec: &str, width: u32, height: u32) -> Result<()> {
        let request = request!(ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            width: width,
            height: height,
        });
        self.change(cx, id, "ResizePty", self.0.limits().call, request).await
    }

    async fn close_io(&self, cx: &Context, id: &str, exec: &str) -> Result<()> {
        let request = request!(CloseIORequest { id: id.to_owned(), exec_id: exec.to_owned(), stdin: true });
        self.change(cx, id, "CloseIO", self.0.limits().call, request).await
    }

    async fn pids(&self, cx: &Context, id: &str) -> Result<Vec<Process>> {
        let task = self.0.task(cx, id)?;
        let request = request!(PidsRequest { id: id.to_owned() });
        let answer = task.call::<v3::PidsResponse>("Pids", &request, self.0.limits().call, true).await;
        let processes = answer?.processes;
        let process = |p: windlass_api::shim::types::task::ProcessInfo| Process {
            pid: p.pid,
            info: p.info.into_option().map(any::from_shim),
        };
        Ok(processes.into_iter().map(process).collect())
    }

    async fn wait(&self, cx: &Context, id: &str, exec: &str) -> Result<Exit> {
        let task = self.0.task(cx, id)?;
        Ok(wait(&task, exec).await?)
    }

    async fn update(&self, cx: &Context, id: &str, resources: Any, annotations: Labels) -> Result<()> {
        let request = request!(UpdateTaskRequest {
            id: id.to_owned(),
            resources: any_field(Some(resources)),
            annotations: annotations.into_iter().collect(),
        });
        self.change(cx, id, "Update", self.0.limits().call, request).await
    }

    async fn checkpoint(&self, cx: &Context, id: &str, path: &str, options: Option<Any>) -> Result<()> {
        let request = request!(CheckpointTaskRequest {
            id: id.to_owned(),
            path: path.to_owned(),
            options: any_field(options),
        });
        self.change(cx, id, "Checkpoint", self.0.limits().checkpoint, request).await
    }

    async fn metrics(&self, cx: &Context, id: &str) -> Result<Metrics> {
        let task = self.0.task(cx, id)?;
        let request = request!(StatsRequest { id: id.to_owned() });
        let at = SystemTime::now();
        let answer = task.call::<v3::StatsResponse>("Stats", &request, self.0.limits().call, true).await;
        let data = answer?.stats.into_option().map(any::from_shim);
        Ok(Metrics { id: id.to_owned(), at, data })
    }

    async fn ids(&self, cx: &Context) -> Vec<String> {
        self.0.tasks.all(&cx.namespace).iter().map(|task| task.id().to_owned()).collect()
    }

    async fn runtime_info(&self, runtime: &Runtime) -> Result<RuntimeInfo> {
        Ok(self.0.launcher.info(runtime).await?)
    }
}
