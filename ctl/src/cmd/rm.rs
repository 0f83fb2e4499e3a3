//! `windlass rm`

use std::process::ExitCode;

use anyhow::{Result, bail};
use tonic::Code;
use windlass_api::services::containers::{DeleteContainerRequest, GetContainerRequest, ListContainersRequest};
use windlass_api::services::namespaces::ListNamespacesRequest;
use windlass_api::services::snapshots::RemoveSnapshotRequest;
use windlass_api::services::tasks::{DeleteTaskRequest, KillRequest, ListTasksRequest, WaitRequest};

use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    ids: Vec<String>,
    /// Kill what runs
    #[arg(long, short)]
    force: bool,
    /// All containers of the namespace
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// With --all: of every namespace
    #[arg(long, requires = "all")]
    all_namespaces: bool,
}

/// Success where the thing was gone already.
pub fn gone_is_fine<T>(result: Result<T, tonic::Status>) -> Result<(), tonic::Status> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Ends a task and removes it; with `force` also one that runs.
pub async fn remove_task(client: &Client, id: &str, force: bool) -> Result<()> {
    let mut tasks = client.tasks();
    if force {
        let wait = WaitRequest { container_id: id.to_owned(), ..Default::default() };
        let mut waiter = client.tasks();
        let waiting = tokio::spawn(async move { waiter.wait(wait).await });
        let kill = KillRequest { container_id: id.to_owned(), signal: 9, all: true, ..Default::default() };
        match tasks.kill(kill).await {
            Ok(_) => gone_is_fine(waiting.await?)?,
            // Never started or ended already: deletion says which.
            Err(_) => waiting.abort(),
        }
    }
    Ok(gone_is_fine(tasks.delete(DeleteTaskRequest { container_id: id.to_owned() }).await)?)
}

/// Removes a container's task, record and snapshot.
pub async fn remove(client: &Client, id: &str, force: bool) -> Result<()> {
    let container = client.containers().get(GetContainerRequest { id: id.to_owned() }).await?.into_inner().container;
    let container = container.unwrap_or_default();
    remove_task(client, id, force).await?;
    client.containers().delete(DeleteContainerRequest { id: id.to_owned() }).await?;
    if !container.snapshot_key.is_empty() {
        let request = RemoveSnapshotRequest { snapshotter: container.snapshotter, key: container.snapshot_key };
        gone_is_fine(client.snapshots().remove(request).await)?;
    }
    Ok(())
}

async fn remove_all(client: &Client, force: bool) -> Result<usize> {
    let mut failed = 0;
    let containers = client.containers().list(ListContainersRequest::default()).await?.into_inner().containers;
    for container in containers {
        if let Err(error) = remove(client, &container.id, force).await {
            eprintln!("windlass: {}: {}", output::safe(&container.id), output::error(&error));
            failed += 1;
        }
    }
    // Tasks whose container record is gone.
    for task in client.tasks().list(ListTasksRequest::default()).await?.into_inner().tasks {
        let id = if task.id.is_empty() { task.container_id } else { task.id };
        remove_task(client, &id, force).await?;
    }
    Ok(failed)
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let mut failed = 0;
    if args.all_namespaces {
        for namespace in client.namespaces().list(ListNamespacesRequest::default()).await?.into_inner().namespaces {
            failed += remove_all(&client.in_namespace(&namespace.name)?, args.force).await?;
        }
    } else if args.all {
        failed += remove_all(&client, args.force).await?;
    } else if args.ids.is_empty() {
        bail!("name the containers, or use --all");
    }
    for id in &args.ids {
        match remove(&client, id, args.force).await {
            Ok(()) => output::print(&format!("{id}\n"))?,
            Err(error) => {
                eprintln!("windlass: {}: {}", output::safe(id), output::error(&error));
                failed += 1;
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
