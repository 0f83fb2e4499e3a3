//! `windlass leases`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use windlass_api::services::leases::{CreateRequest, DeleteRequest, ListRequest, ListResourcesRequest};
use windlass_core::lease::LABEL_EXPIRE;

use super::each;
use crate::client::{Client, Global};
use crate::{names, output, stream};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List leases
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match: id==x, labels.x
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Print only ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// Create a lease
    Create {
        /// Id; made up without it
        id: Option<String>,
        /// When it ends by itself: 1h, 2d
        #[arg(long, short = 'x', value_parser = output::duration, value_name = "TIME")]
        expires: Option<Duration>,
        /// Label: key=value
        #[arg(long, short, value_name = "KEY=VALUE")]
        label: Vec<String>,
    },
    /// List what a lease protects
    Resources {
        /// Lease
        id: String,
    },
    /// Remove leases
    #[command(visible_alias = "remove")]
    Rm {
        /// Leases
        #[arg(required = true)]
        ids: Vec<String>,
        /// Wait until what they protected is collected
        #[arg(long)]
        sync: bool,
    },
}

#[derive(Serialize)]
struct Row {
    id: String,
    created: String,
    age: String,
    expires: String,
    labels: BTreeMap<String, String>,
    text: String,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    match args.command {
        Command::Ls { filters, quiet } => list(&client, &global, filters, quiet).await?,
        Command::Create { id, expires, label } => {
            let mut labels: BTreeMap<String, String> = names::pairs("label", &label)?;
            if let Some(expires) = expires {
                let at = time::OffsetDateTime::from(SystemTime::now() + expires);
                labels
                    .insert(LABEL_EXPIRE.into(), at.format(&time::format_description::well_known::Rfc3339)?);
            }
            let request = CreateRequest { id: id.unwrap_or_else(|| stream::unique("lease")), labels };
            let lease = client.leases().create(request).await?.into_inner().lease.unwrap_or_default();
            output::print(&format!("{}\n", lease.id))?;
        }
        Command::Resources { id } => {
            let resources =
                client.leases().list_resources(ListResourcesRequest { id }).await?.into_inner().resources;
            let rows: Vec<_> =
                resources.into_iter().map(|r| serde_json::json!({"type": r.r#type, "id": r.id})).collect();
            output::rows(&global.format, &[("TYPE", "type"), ("ID", "id")], &rows)?;
        }
        Command::Rm { ids, sync } => {
            return each(&ids, async |id| {
                client.leases().delete(DeleteRequest { id: id.to_owned(), sync }).await?;
                Ok(id.to_owned())
            })
            .await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, global: &Global, filters: Vec<String>, quiet: bool) -> Result<()> {
    let leases = client.leases().list(ListRequest { filters }).await?.into_inner().leases;
    let rows: Vec<_> = leases
        .into_iter()
        .map(|lease| {
            let labels: BTreeMap<_, _> = lease.labels.into_iter().collect();
            let others = labels.iter().filter(|(k, _)| *k != LABEL_EXPIRE).map(|(k, v)| format!("{k}={v}"));
            Row {
                id: lease.id,
                created: output::rfc3339(lease.created_at.as_ref()),
                age: output::age(lease.created_at.as_ref()),
                expires: labels.get(LABEL_EXPIRE).cloned().unwrap_or_default(),
                text: others.collect::<Vec<_>>().join(","),
                labels,
            }
        })
        .collect();
    if quiet {
        return output::print(&rows.iter().map(|r| format!("{}\n", r.id)).collect::<String>());
    }
    let columns = [("LEASE", "id"), ("CREATED", "age"), ("EXPIRES", "expires"), ("LABELS", "text")];
    output::rows(&global.format, &columns, &rows)
}
