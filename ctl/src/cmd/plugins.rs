//! `windlass plugins`

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use windlass_api::services::introspection::{Plugin, PluginsRequest};

use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Subcommand)]
enum Command {
    /// List plugins; the same as no command
    #[command(visible_alias = "list")]
    Ls(List),
}

#[derive(clap::Args)]
struct List {
    /// Only those that match: type==io.containerd.snapshotter.v1, id==overlayfs
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Only those that failed
    #[arg(long)]
    failed: bool,
    /// Also what they require and offer, and why they failed
    #[arg(long, short)]
    detailed: bool,
}

#[derive(Serialize)]
pub struct Row {
    r#type: String,
    id: String,
    platforms: String,
    pub status: &'static str,
    error: String,
    requires: Vec<String>,
    capabilities: Vec<String>,
    pub exports: BTreeMap<String, String>,
}

pub fn row(plugin: Plugin) -> Row {
    let platform = |p: &windlass_api::types::Platform| {
        let parts = [&p.os, &p.architecture, &p.variant];
        parts.into_iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join("/")
    };
    let error = plugin.init_err.map(|e| e.message).unwrap_or_default();
    // A plugin that has nothing to do here says so with an error of this end.
    let skipped = error.contains("skip plugin");
    Row {
        status: match (error.is_empty(), skipped) {
            (true, _) => "ok",
            (_, true) => "skip",
            _ => "error",
        },
        platforms: plugin.platforms.iter().map(platform).collect::<Vec<_>>().join(","),
        r#type: plugin.r#type,
        id: plugin.id,
        error,
        requires: plugin.requires,
        capabilities: plugin.capabilities,
        exports: plugin.exports.into_iter().collect(),
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let list = match args.command {
        Some(Command::Ls(list)) => list,
        None => args.list,
    };
    let client = Client::connect(&global).await?;
    let plugins =
        client.introspection().plugins(PluginsRequest { filters: list.filters }).await?.into_inner().plugins;
    let mut rows: Vec<_> = plugins.into_iter().map(row).collect();
    if list.failed {
        rows.retain(|r| r.status == "error");
    }
    let mut columns = vec![("TYPE", "type"), ("ID", "id"), ("PLATFORMS", "platforms"), ("STATUS", "status")];
    if list.detailed {
        columns.extend([("ERROR", "error"), ("REQUIRES", "requires"), ("EXPORTS", "exports")]);
    }
    output::rows(&global.format, &columns, &rows)?;
    Ok(ExitCode::SUCCESS)
}
