//! `windlass stop`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::Code;
use windlass_api::types::task::Status;

use super::{each, kill};
use crate::client::{Client, Global};
use crate::output::duration;
use crate::run::record::{self, STOP_SIGNAL};
use crate::run::task::{self, Process};

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
    /// How long to wait before killing: 10s, 2m
    #[arg(long, visible_alias = "timeout", short = 't', value_parser = duration, default_value = "10s")]
    time: Duration,
    /// Signal to ask with, instead of the container's own
    #[arg(long, short)]
    signal: Option<String>,
}

/// Asks a container to end, and makes it after a time. One that has ended is fine.
pub async fn stop(client: &Client, id: &str, signal: Option<&str>, time: Duration) -> Result<()> {
    let record = record::get(client, id).await?;
    let Some(found) = task::get(client, id).await? else { return Ok(()) };
    if found.status() == Status::Stopped {
        return Ok(());
    }
    let word = signal.or(record.labels.get(STOP_SIGNAL).map(String::as_str)).unwrap_or("TERM");
    let number = kill::number(word)?;
    if matches!(found.status(), Status::Running) && !time.is_zero() {
        let process = Process::main(id);
        match process.kill(client, number, false).await {
            Ok(()) => {
                if process.wait_for(client, time).await?.is_some() {
                    return Ok(());
                }
            }
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => {}
            Err(status) => return Err(status).with_context(|| format!("stop {id}")),
        }
    }
    task::end(client, id).await
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    each(&args.ids, async |id| {
        stop(&client, id, args.signal.as_deref(), args.time).await?;
        Ok(id.to_owned())
    })
    .await
}
