//! `windlass content`

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use tonic::Code;
use windlass_api::services::content::{
    AbortRequest, DeleteContentRequest, ListContentRequest, ListStatusesRequest, ReadContentRequest,
};

use super::each;
use crate::client::{Client, Global};
use crate::output::{self, Remedy};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List blobs
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match: size>1000, labels.x
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Print only digests
        #[arg(long, short)]
        quiet: bool,
    },
    /// List what is being written
    Active,
    /// Write a blob to standard output
    Get {
        /// Digest
        digest: String,
    },
    /// Remove blobs
    #[command(visible_alias = "remove")]
    Rm {
        /// Digests
        #[arg(required = true)]
        digests: Vec<String>,
    },
    /// Drop what was begun to be written
    Abort {
        /// References of ingests, as `active` lists them
        #[arg(required = true)]
        refs: Vec<String>,
    },
}

#[derive(Serialize)]
struct Row {
    digest: String,
    size: i64,
    bytes: String,
    created: String,
    age: String,
    labels: BTreeMap<String, String>,
    text: String,
}

#[derive(Serialize)]
struct Ingest {
    r#ref: String,
    offset: i64,
    total: i64,
    bytes: String,
    started: String,
    age: String,
    expected: String,
}

/// Longest list of labels in a table.
const LABELS: usize = 60;

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    match args.command {
        Command::Ls { filters, quiet } => list(&client, &global, filters, quiet).await,
        Command::Active => active(&client, &global).await,
        Command::Get { digest } => {
            let request = ReadContentRequest { digest, ..Default::default() };
            let mut stream = client
                .content()
                .read(request)
                .await
                .remedy_for(Code::NotFound, "windlass content ls lists what is there")?
                .into_inner();
            while let Some(part) = stream.message().await? {
                output::write(&part.data)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Rm { digests } => {
            each(&digests, async |digest| {
                client.content().delete(DeleteContentRequest { digest: digest.to_owned() }).await?;
                Ok(digest.to_owned())
            })
            .await
        }
        Command::Abort { refs } => {
            each(&refs, async |name| {
                client.content().abort(AbortRequest { r#ref: name.to_owned() }).await?;
                Ok(name.to_owned())
            })
            .await
        }
    }
}

async fn list(client: &Client, global: &Global, filters: Vec<String>, quiet: bool) -> Result<ExitCode> {
    let mut stream = client.content().list(ListContentRequest { filters }).await?.into_inner();
    let mut rows = Vec::new();
    while let Some(part) = stream.message().await? {
        for info in part.info {
            let labels: BTreeMap<_, _> = info.labels.into_iter().collect();
            let mut text = labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
            if text.chars().count() > LABELS {
                text = text.chars().take(LABELS - 1).chain(['…']).collect();
            }
            rows.push(Row {
                digest: info.digest,
                size: info.size,
                bytes: output::bytes(u64::try_from(info.size).unwrap_or(0)),
                created: output::rfc3339(info.created_at.as_ref()),
                age: output::age(info.created_at.as_ref()),
                labels,
                text,
            });
        }
    }
    if quiet {
        output::print(&rows.iter().map(|r| format!("{}\n", r.digest)).collect::<String>())?;
    } else {
        let columns = [("DIGEST", "digest"), ("SIZE", "bytes"), ("AGE", "age"), ("LABELS", "text")];
        output::rows(&global.format, &columns, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn active(client: &Client, global: &Global) -> Result<ExitCode> {
    let statuses =
        client.content().list_statuses(ListStatusesRequest::default()).await?.into_inner().statuses;
    let size = |n: i64| output::bytes(u64::try_from(n).unwrap_or(0));
    let rows: Vec<_> = statuses
        .into_iter()
        .map(|s| Ingest {
            bytes: if s.total > 0 {
                format!("{} / {}", size(s.offset), size(s.total))
            } else {
                size(s.offset)
            },
            r#ref: s.r#ref,
            offset: s.offset,
            total: s.total,
            started: output::rfc3339(s.started_at.as_ref()),
            age: output::age(s.started_at.as_ref()),
            expected: s.expected,
        })
        .collect();
    output::rows(&global.format, &[("REF", "ref"), ("SIZE", "bytes"), ("STARTED", "age")], &rows)?;
    Ok(ExitCode::SUCCESS)
}
