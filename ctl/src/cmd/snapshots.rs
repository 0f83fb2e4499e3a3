//! `windlass snapshots`

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use windlass_api::services::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
};

use super::each;
use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Snapshotter
    #[arg(long, default_value = "overlayfs", global = true)]
    snapshotter: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match: kind==active, labels.x
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Print only names
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show which snapshot lies on which
    Tree,
    /// Show what snapshots take on disk; all without a name
    Usage {
        /// Snapshots
        keys: Vec<String>,
    },
    /// Show all about snapshots, as JSON
    #[command(visible_alias = "inspect")]
    Info {
        /// Snapshots
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show how an active snapshot is mounted
    Mounts {
        /// Snapshot
        key: String,
    },
    /// Remove snapshots
    #[command(visible_alias = "remove")]
    Rm {
        /// Snapshots
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

#[derive(Serialize)]
struct Row {
    name: String,
    parent: String,
    kind: &'static str,
    created: String,
    updated: String,
    age: String,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Usage {
    name: String,
    size: i64,
    bytes: String,
    inodes: i64,
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "view",
        Kind::Active => "active",
        Kind::Committed => "committed",
        Kind::Unknown => "unknown",
    }
}

fn row(info: Info) -> Row {
    Row {
        kind: kind(info.kind()),
        name: info.name,
        parent: info.parent,
        created: output::rfc3339(info.created_at.as_ref()),
        updated: output::rfc3339(info.updated_at.as_ref()),
        age: output::age(info.created_at.as_ref()),
        labels: info.labels.into_iter().collect(),
    }
}

async fn list(client: &Client, snapshotter: &str, filters: Vec<String>) -> Result<Vec<Row>> {
    let request = ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), filters };
    let mut stream = client.snapshots().list(request).await?.into_inner();
    let mut rows = Vec::new();
    while let Some(part) = stream.message().await? {
        rows.extend(part.info.into_iter().map(row));
    }
    Ok(rows)
}

/// Names indented below their parents. Parents that are not listed are roots, and circles end.
fn tree(rows: &[Row]) -> String {
    let mut children: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    let names: HashSet<_> = rows.iter().map(|r| r.name.as_str()).collect();
    for row in rows {
        let parent = if names.contains(row.parent.as_str()) { row.parent.as_str() } else { "" };
        children.entry(parent).or_default().push(row);
    }
    let mut out = String::new();
    let mut stack: Vec<_> = children.get("").into_iter().flatten().rev().map(|r| (*r, 0)).collect();
    let mut seen = HashSet::new();
    while let Some((row, depth)) = stack.pop() {
        if !seen.insert(row.name.as_str()) {
            continue;
        }
        let mark = if row.kind == "committed" { String::new() } else { format!(" ({})", row.kind) };
        out.push_str(&format!("{}{}{mark}\n", "  ".repeat(depth), output::safe(&row.name)));
        stack.extend(children.get(row.name.as_str()).into_iter().flatten().rev().map(|r| (*r, depth + 1)));
    }
    out
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let snapshotter = args.snapshotter;
    match args.command {
        Command::Ls { filters, quiet } => {
            let rows = list(&client, &snapshotter, filters).await?;
            if quiet {
                output::print(&rows.iter().map(|r| output::safe(&r.name) + "\n").collect::<String>())?;
            } else {
                let columns =
                    [("SNAPSHOT", "name"), ("PARENT", "parent"), ("KIND", "kind"), ("CREATED", "age")];
                output::rows(&global.format, &columns, &rows)?;
            }
        }
        Command::Tree => output::print(&tree(&list(&client, &snapshotter, Vec::new()).await?))?,
        Command::Usage { keys } => usage(&client, &global, &snapshotter, keys).await?,
        Command::Info { keys } => {
            let mut rows = Vec::new();
            for key in keys {
                let request = StatSnapshotRequest { snapshotter: snapshotter.clone(), key };
                rows.extend(client.snapshots().stat(request).await?.into_inner().info.map(row));
            }
            output::object(&global.format, &rows)?;
        }
        Command::Mounts { key } => {
            let mounts =
                client.snapshots().mounts(MountsRequest { snapshotter, key }).await?.into_inner().mounts;
            let rows: Vec<_> = mounts
                .into_iter()
                .map(|m| {
                    serde_json::json!({"type": m.r#type, "source": m.source, "target": m.target,
                    "options": m.options, "text": m.options.join(",")})
                })
                .collect();
            output::rows(
                &global.format,
                &[("TYPE", "type"), ("SOURCE", "source"), ("OPTIONS", "text")],
                &rows,
            )?;
        }
        Command::Rm { keys } => {
            return each(&keys, async |key| {
                let request = RemoveSnapshotRequest { snapshotter: snapshotter.clone(), key: key.to_owned() };
                client.snapshots().remove(request).await?;
                Ok(key.to_owned())
            })
            .await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn usage(client: &Client, global: &Global, snapshotter: &str, mut keys: Vec<String>) -> Result<()> {
    if keys.is_empty() {
        keys = list(client, snapshotter, Vec::new()).await?.into_iter().map(|r| r.name).collect();
    }
    let mut rows = Vec::new();
    for key in keys {
        let request = UsageRequest { snapshotter: snapshotter.to_owned(), key: key.clone() };
        let usage = client.snapshots().usage(request).await?.into_inner();
        let bytes = output::bytes(u64::try_from(usage.size).unwrap_or(0));
        rows.push(Usage { name: key, size: usage.size, bytes, inodes: usage.inodes });
    }
    output::rows(&global.format, &[("SNAPSHOT", "name"), ("SIZE", "bytes"), ("INODES", "inodes")], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_drawn_and_circles_end() {
        let row = |name: &str, parent: &str, kind: &'static str| Row {
            name: name.into(),
            parent: parent.into(),
            kind,
            created: String::new(),
            updated: String::new(),
            age: String::new(),
            labels: BTreeMap::new(),
        };
        let rows = [
            row("a", "", "committed"),
            row("b", "a", "committed"),
            row("c", "b", "active"),
            row("d", "gone", "view"),
            row("x", "y", "committed"),
            row("y", "x", "committed"),
        ];
        assert_eq!(tree(&rows), "a\n  b\n    c (active)\nd (view)\n");
    }
}
