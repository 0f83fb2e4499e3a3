//! `windlass ps`

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use windlass_api::services::containers::ListContainersRequest;
use windlass_api::services::tasks::ListTasksRequest;
use windlass_api::types::task::Status;

use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Filters in containerd's syntax: labels.app==web
    #[arg(long)]
    filter: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    image: String,
    status: String,
    pid: u32,
    exit_status: Option<u32>,
    runtime: String,
    created: String,
    labels: std::collections::BTreeMap<String, String>,
}

pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Paused => "paused",
        Status::Pausing => "pausing",
        Status::Unknown => "unknown",
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let containers = client.containers().list(ListContainersRequest { filters: args.filter }).await?.into_inner().containers;
    let tasks = client.tasks().list(ListTasksRequest::default()).await?.into_inner().tasks;
    let tasks: HashMap<_, _> = tasks.into_iter().map(|t| (if t.id.is_empty() { t.container_id.clone() } else { t.id.clone() }, t)).collect();
    let rows: Vec<_> = containers
        .into_iter()
        .filter_map(|container| {
            let task = tasks.get(&container.id);
            let status = task.map(|t| t.status());
            let runs = matches!(status, Some(Status::Running | Status::Paused | Status::Pausing));
            (args.all || runs).then(|| Row {
                image: container.image,
                status: status.map_or("no task", status_word).to_owned(),
                pid: task.map_or(0, |t| t.pid),
                exit_status: task.filter(|t| t.status() == Status::Stopped).map(|t| t.exit_status),
                runtime: container.runtime.map(|r| r.name).unwrap_or_default(),
                created: container.created_at.map(|t| output::ago(t.seconds)).unwrap_or_default(),
                labels: container.labels.into_iter().collect(),
                id: container.id,
            })
        })
        .collect();
    if args.quiet {
        output::print(&rows.iter().map(|r| format!("{}\n", r.id)).collect::<String>())?;
    } else {
        let columns = [("CONTAINER", "id"), ("IMAGE", "image"), ("STATUS", "status"), ("PID", "pid"), ("CREATED", "created")];
        output::rows(&global.format, &columns, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
