//! `windlass ps`

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use windlass_api::services::containers::{Container, ListContainersRequest};
use windlass_api::services::tasks::ListTasksRequest;
use windlass_api::types::task::{Process, Status};

use crate::client::{Client, Global};
use crate::run::record::{EXIT_STATUS, spec_of};
use crate::{json, output};

#[derive(clap::Args)]
#[command(after_help = "\
Fields for --format: id image command status state pid exit_status runtime created age labels

Filters are containerd's: id==x, image~=busybox, runtime.name==…, labels.app==web; several are alternatives.")]
pub struct Args {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// Only those that match: labels.app==web
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not shorten commands
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Serialize)]
struct Row {
    id: String,
    image: String,
    command: String,
    status: &'static str,
    /// For people: with the exit code.
    state: String,
    pid: u32,
    exit_status: Option<u32>,
    runtime: String,
    created: String,
    age: String,
    labels: BTreeMap<String, String>,
}

/// Longest command in a table.
const COMMAND: usize = 30;

fn command(container: &Container, whole: bool) -> String {
    let args = spec_of(container).map(|s| s["process"]["args"].clone()).unwrap_or_default();
    let words: Vec<_> = args.as_array().into_iter().flatten().filter_map(|a| a.as_str()).collect();
    let line = words.join(" ");
    if whole || line.chars().count() <= COMMAND {
        return line;
    }
    line.chars().take(COMMAND - 1).chain(['…']).collect()
}

fn row(container: Container, task: Option<&Process>, args: &Args) -> Option<Row> {
    let status = task.map(Process::status);
    let runs = matches!(status, Some(Status::Running | Status::Paused | Status::Pausing));
    if !(args.all || runs) {
        return None;
    }
    let kept = container.labels.get(EXIT_STATUS).and_then(|s| s.parse().ok());
    let exit_status = match task {
        Some(task) => (task.status() == Status::Stopped).then_some(task.exit_status),
        None => kept,
    };
    let word = match (status, exit_status) {
        (Some(status), _) => json::status(status),
        (None, Some(_)) => json::status(Status::Stopped),
        (None, None) => "no task",
    };
    Some(Row {
        command: command(&container, args.no_trunc),
        image: container.image,
        status: word,
        state: exit_status.map_or_else(|| word.to_owned(), |code| format!("exited ({code})")),
        pid: task.map_or(0, |t| t.pid),
        exit_status,
        runtime: container.runtime.map(|r| r.name).unwrap_or_default(),
        created: output::rfc3339(container.created_at.as_ref()),
        age: output::age(container.created_at.as_ref()),
        labels: container.labels.into_iter().collect(),
        id: container.id,
    })
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let filters = args.filter.clone();
    let (mut containers, mut tasks) = (client.containers(), client.tasks());
    let (containers, tasks) = tokio::try_join!(
        containers.list(ListContainersRequest { filters }),
        tasks.list(ListTasksRequest::default())
    )?;
    let id = |t: &Process| if t.id.is_empty() { t.container_id.clone() } else { t.id.clone() };
    let tasks: HashMap<_, _> = tasks.into_inner().tasks.into_iter().map(|t| (id(&t), t)).collect();
    let containers = containers.into_inner().containers;
    let rows: Vec<_> = containers
        .into_iter()
        .filter_map(|c| {
            let task = tasks.get(&c.id);
            row(c, task, &args)
        })
        .collect();
    if args.quiet {
        output::print(&rows.iter().map(|r| format!("{}\n", r.id)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        ("CONTAINER", "id"),
        ("IMAGE", "image"),
        ("COMMAND", "command"),
        ("STATUS", "state"),
        ("PID", "pid"),
        ("CREATED", "age"),
    ];
    output::rows(&global.format, &columns, &rows)?;
    Ok(ExitCode::SUCCESS)
}
