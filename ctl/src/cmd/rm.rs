//! `windlass rm`

use std::process::ExitCode;

use anyhow::{Result, bail};
use tonic::Code;
use windlass_api::services::containers::{Container, DeleteContainerRequest, ListContainersRequest};
use windlass_api::services::namespaces::ListNamespacesRequest;
use windlass_api::services::snapshots::RemoveSnapshotRequest;
use windlass_api::services::tasks::ListTasksRequest;
use windlass_api::types::task::Status;

use super::each;
use crate::client::{Client, Global};
use crate::output::{self, Remedy};
use crate::run::{io, log, record, task};

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// Kill what runs; what is not there is fine
    #[arg(long, short)]
    force: bool,
    /// All containers of the namespace
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// With --all: of every namespace
    #[arg(long, requires = "all")]
    all_namespaces: bool,
    /// Keep the container's file system, as a snapshot of its name
    #[arg(long)]
    keep_snapshot: bool,
}

/// Success where the thing was gone already.
pub fn gone_is_fine<T>(result: Result<T, tonic::Status>) -> Result<(), tonic::Status> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Ends a task and removes it; with `force` also one that runs.
async fn remove_task(client: &Client, id: &str, force: bool) -> Result<()> {
    let Some(found) = task::get(client, id).await? else { return Ok(()) };
    if !matches!(found.status(), Status::Stopped | Status::Created) && !force {
        let error = anyhow::anyhow!("container {id} is {}", crate::json::status(found.status()));
        return Err(error)
            .remedy(format!("stop it first: windlass stop {id}; or remove it all the same with --force"));
    }
    // One that was never started is killed as well: its first process waits.
    task::end(client, id).await?;
    task::delete(client, id).await?;
    io::remove([&found.stdin, &found.stdout, &found.stderr]);
    Ok(())
}

/// Removes a container's task, record, snapshot and log.
pub async fn remove(client: &Client, id: &str, force: bool) -> Result<()> {
    remove_but(client, id, force, false).await
}

async fn remove_but(client: &Client, id: &str, force: bool, keep_snapshot: bool) -> Result<()> {
    let container = record::get(client, id).await?;
    remove_task(client, id, force).await?;
    remove_rest(client, &container, keep_snapshot).await
}

/// Removes a container that somebody was with until now: its task has ended, unless it `runs`.
pub async fn remove_record(client: &Client, container: &Container, runs: bool) -> Result<()> {
    if runs {
        remove_task(client, &container.id, true).await?;
    } else {
        task::delete(client, &container.id).await?;
    }
    remove_rest(client, container, false).await
}

async fn remove_rest(client: &Client, container: &Container, keep_snapshot: bool) -> Result<()> {
    let id = &container.id;
    gone_is_fine(client.containers().delete(DeleteContainerRequest { id: id.to_owned() }).await)?;
    if let Some(uri) = container.labels.get(log::LABEL) {
        log::remove(uri);
    }
    if !container.snapshot_key.is_empty() && !keep_snapshot {
        let (snapshotter, key) = (container.snapshotter.clone(), container.snapshot_key.clone());
        let request = RemoveSnapshotRequest { snapshotter, key };
        gone_is_fine(client.snapshots().remove(request).await)?;
    }
    Ok(())
}

async fn remove_all(client: &Client, force: bool) -> Result<usize> {
    let mut failed = 0;
    let mut tell = |id: &str, error: &anyhow::Error| {
        output::warn(&format!("{}: {}", output::safe(id), output::error(error)));
        failed += 1;
    };
    let containers =
        client.containers().list(ListContainersRequest::default()).await?.into_inner().containers;
    for container in containers {
        match remove(client, &container.id, force).await {
            Ok(()) => output::print(&format!("{}\n", container.id))?,
            Err(error) => tell(&container.id, &error),
        }
    }
    // Tasks whose container record is gone.
    for task in client.tasks().list(ListTasksRequest::default()).await?.into_inner().tasks {
        let id = if task.id.is_empty() { task.container_id } else { task.id };
        if force && let Err(error) = remove_task(client, &id, force).await {
            tell(&id, &error);
        }
    }
    Ok(failed)
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    if !args.all {
        return each(&args.ids, async |id| {
            if id.is_empty() {
                bail!("name the containers, or use --all");
            }
            match remove_but(&client, id, args.force, args.keep_snapshot).await {
                Err(error)
                    if args.force && output::status(&error).is_some_and(|s| s.code() == Code::NotFound) => {}
                other => other?,
            }
            Ok(id.to_owned())
        })
        .await;
    }
    let mut failed = 0;
    if args.all_namespaces {
        for namespace in
            client.namespaces().list(ListNamespacesRequest::default()).await?.into_inner().namespaces
        {
            failed += remove_all(&client.in_namespace(&namespace.name)?, args.force).await?;
        }
    } else {
        failed += remove_all(&client, args.force).await?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
