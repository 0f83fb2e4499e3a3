//! `windlass wait`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::types::task::Status;

use super::each;
use crate::client::{Client, Global};
use crate::run::record::{self, EXIT_STATUS};
use crate::run::task::{self, Process};

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    each(&args.ids, async |id| {
        let record = record::get(&client, id).await?;
        let status = match task::get(&client, id).await? {
            Some(task) if task.status() == Status::Stopped => task.exit_status,
            Some(_) => Process::main(id).wait(&client).await?,
            // It has ended and its task is gone; without a note it never ran.
            None => match record.labels.get(EXIT_STATUS) {
                Some(status) => return Ok(status.clone()),
                None => return task::running(&client, id).await.map(|_| String::new()),
            },
        };
        Ok(status.to_string())
    })
    .await
}
