//! `containerd.services.tasks.v1.Tasks`

mod checkpoint;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;

use futures::StreamExt;
use prost::Message;
use tonic::Request;
use windlass_api::convert::{any, mount, time};
use windlass_api::runc;
use windlass_api::services::tasks as api;
use windlass_core::filter::Fields;
use windlass_core::task::{CreateOptions, ExecOptions, Tasks};
use windlass_core::{Context, Error, Result, container, kinds};

use crate::edge::{Answer, answer, context, database, filters, finish, required, serve};

/// Tasks that are asked for their metrics at a time.
const AT_ONCE: usize = 16;

/// Annotation of a checkpoint's descriptor: the directory of the dump.
const RESTORE_FROM_PATH: &str = "RestoreFromPath";

struct Edge {
    tasks: Arc<dyn Tasks>,
    containers: Arc<dyn container::Store>,
    checkpoints: Arc<checkpoint::Checkpoints>,
}

/// The runc options of a request; options of other runtimes have no checkpoint.
fn runc_options(options: Option<&prost_types::Any>) -> Result<runc::Options> {
    match options {
        Some(any) if any.type_url.ends_with("containerd.runc.v1.Options") => {
            runc::Options::decode(any.value.as_slice())
                .map_err(|source| Error::invalid("runtime options").with_source(source))
        }
        _ => Ok(runc::Options::default()),
    }
}

struct Metric<'a> {
    id: &'a str,
    namespace: &'a str,
}

impl Fields for Metric<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(self.id.into()),
            ["namespace"] => Some(self.namespace.into()),
            _ => None,
        }
    }
}

async fn create(
    cx: Context,
    tasks: Arc<dyn Tasks>,
    containers: Arc<dyn container::Store>,
    checkpoints: Arc<checkpoint::Checkpoints>,
    request: api::CreateTaskRequest,
) -> Result<api::CreateTaskResponse> {
    let id = request.container_id;
    let record = containers.get(&cx, &id).await?;
    let options = runc_options(request.options.as_ref())?;
    let mut checkpoint = options.criu_image_path;
    let restore = match &request.checkpoint {
        // A dump that is a directory already: its maker says so.
        Some(descriptor) if descriptor.annotations.contains_key(RESTORE_FROM_PATH) => {
            checkpoint = descriptor.annotations[RESTORE_FROM_PATH].clone();
            None
        }
        Some(_) if !checkpoint.is_empty() => None,
        Some(descriptor) => Some(checkpoints.unpack(&cx, descriptor).await?),
        None => None,
    };
    let mut runtime = record.runtime;
    if !request.runtime_path.is_empty() {
        runtime.name = request.runtime_path;
    }
    #[expect(deprecated, reason = "clients from before the request's own field still set it")]
    let address =
        if request.task_api_address.is_empty() { options.task_api_address } else { request.task_api_address };
    let pid = tasks
        .create(
            &cx,
            &id,
            CreateOptions {
                spec: record.spec,
                runtime,
                rootfs: request.rootfs.into_iter().map(mount::from_wire).collect(),
                io: wire::io(request.stdin, request.stdout, request.stderr, request.terminal),
                take_checkpoint: restore.is_some(),
                checkpoint: restore.as_ref().map_or(checkpoint, |r| r.path()),
                options: request.options.map(any::from_wire),
                sandbox_id: record.sandbox_id,
                address,
            },
        )
        .await?;
    Ok(api::CreateTaskResponse { container_id: id, pid })
}

async fn metrics(
    cx: Context,
    tasks: Arc<dyn Tasks>,
    containers: Arc<dyn container::Store>,
    request: api::MetricsRequest,
) -> Result<api::MetricsResponse> {
    let filters = filters(&request.filters)?;
    let mut ids = tasks.ids(&cx).await;
    ids.retain(|id| filters.matches(&Metric { id, namespace: &cx.namespace }));
    let asked = ids.into_iter().map(|id| {
        let (cx, tasks, containers) = (&cx, &tasks, &containers);
        async move {
            let found = tasks.metrics(cx, &id).await;
            if let Err(error) = &found
                && !error.is_not_found()
                && containers.get(cx, &id).await.is_ok()
            {
                tracing::warn!(namespace = %cx.namespace, task = %id, error = %error.chain(), "no metrics");
            }
            found.ok()
        }
    });
    let found: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    Ok(api::MetricsResponse { metrics: found.into_iter().flatten().map(wire::metric).collect() })
}

#[tonic::async_trait]
impl api::tasks_server::Tasks for Edge {
    async fn create(&self, request: Request<api::CreateTaskRequest>) -> Answer<api::CreateTaskResponse> {
        let cx = context(&request)?;
        let (tasks, containers, checkpoints) =
            (self.tasks.clone(), self.containers.clone(), self.checkpoints.clone());
        finish(create(cx, tasks, containers, checkpoints, request.into_inner())).await
    }

    async fn start(&self, request: Request<api::StartRequest>) -> Answer<api::StartResponse> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let request = request.into_inner();
            let pid = tasks.start(&cx, &request.container_id, &request.exec_id).await?;
            Ok(api::StartResponse { pid })
        })
        .await
    }

    async fn delete(&self, request: Request<api::DeleteTaskRequest>) -> Answer<api::DeleteResponse> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let id = request.into_inner().container_id;
            let exit = tasks.delete(&cx, &id, "").await?;
            Ok(wire::deleted(id, exit))
        })
        .await
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Answer<api::DeleteResponse> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let request = request.into_inner();
            let exit = tasks.delete(&cx, &request.container_id, &request.exec_id).await?;
            Ok(wire::deleted(request.exec_id, exit))
        })
        .await
    }

    async fn get(&self, request: Request<api::GetRequest>) -> Answer<api::GetResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let state = self.tasks.state(&cx, &request.container_id, &request.exec_id).await;
        answer(state.map(|s| api::GetResponse { process: Some(wire::process(s)) }))
    }

    async fn list(&self, request: Request<api::ListTasksRequest>) -> Answer<api::ListTasksResponse> {
        let cx = context(&request)?;
        let all = self.tasks.list(&cx).await;
        answer(all.map(|all| api::ListTasksResponse { tasks: all.into_iter().map(wire::process).collect() }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Answer<()> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let request = request.into_inner();
            tasks.kill(&cx, &request.container_id, &request.exec_id, request.signal, request.all).await
        })
        .await
    }

    async fn exec(&self, request: Request<api::ExecProcessRequest>) -> Answer<()> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let request = request.into_inner();
            if request.exec_id.is_empty() {
                return Err(Error::invalid("exec id cannot be empty"));
            }
            let options = ExecOptions {
                io: wire::io(request.stdin, request.stdout, request.stderr, request.terminal),
                spec: request.spec.map(any::from_wire),
            };
            tasks.exec(&cx, &request.container_id, &request.exec_id, options).await
        })
        .await
    }

    async fn resize_pty(&self, request: Request<api::ResizePtyRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let r = request.into_inner();
        answer(self.tasks.resize_pty(&cx, &r.container_id, &r.exec_id, r.width, r.height).await)
    }

    async fn close_io(&self, request: Request<api::CloseIoRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let request = request.into_inner();
        if !request.stdin {
            return answer(Ok(()));
        }
        answer(self.tasks.close_io(&cx, &request.container_id, &request.exec_id).await)
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Answer<()> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move { tasks.pause(&cx, &request.into_inner().container_id).await }).await
    }

    async fn resume(&self, request: Request<api::ResumeTaskRequest>) -> Answer<()> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move { tasks.resume(&cx, &request.into_inner().container_id).await }).await
    }

    async fn list_pids(&self, request: Request<api::ListPidsRequest>) -> Answer<api::ListPidsResponse> {
        let cx = context(&request)?;
        let all = self.tasks.pids(&cx, &request.into_inner().container_id).await;
        answer(all.map(|all| api::ListPidsResponse { processes: all.into_iter().map(wire::pid).collect() }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Answer<api::CheckpointTaskResponse> {
        let cx = context(&request)?;
        let (tasks, containers, checkpoints) =
            (self.tasks.clone(), self.containers.clone(), self.checkpoints.clone());
        finish(async move {
            let request = request.into_inner();
            let record = containers.get(&cx, &request.container_id).await?;
            checkpoints.make(&cx, tasks.as_ref(), record, request.options).await
        })
        .await
    }

    async fn update(&self, request: Request<api::UpdateTaskRequest>) -> Answer<()> {
        let (cx, tasks) = (context(&request)?, self.tasks.clone());
        finish(async move {
            let request = request.into_inner();
            let resources = any::from_wire(required("resources", request.resources)?);
            tasks.update(&cx, &request.container_id, resources, request.annotations).await
        })
        .await
    }

    async fn metrics(&self, request: Request<api::MetricsRequest>) -> Answer<api::MetricsResponse> {
        let cx = context(&request)?;
        answer(metrics(cx, self.tasks.clone(), self.containers.clone(), request.into_inner()).await)
    }

    async fn wait(&self, request: Request<api::WaitRequest>) -> Answer<api::WaitResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let exit = self.tasks.wait(&cx, &request.container_id, &request.exec_id).await;
        answer(
            exit.map(|e| api::WaitResponse { exit_status: e.status, exited_at: Some(time::to_wire(e.at)) }),
        )
    }
}

serve!(
    TasksPlugin,
    "tasks",
    api::tasks_server::TasksServer,
    [kinds::Runtime, kinds::Metadata, kinds::Differ],
    |ctx| {
        let database = database(ctx)?;
        Ok(Edge {
            tasks: ctx.single::<kinds::Runtime>()?,
            containers: database.containers(),
            checkpoints: Arc::new(checkpoint::Checkpoints {
                content: database.content(),
                differ: ctx.single::<kinds::Differ>()?,
                state: ctx.options().state.clone(),
            }),
        })
    }
);
