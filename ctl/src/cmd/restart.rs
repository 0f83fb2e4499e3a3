//! `windlass restart`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::{each, run, start, stop};
use crate::client::{Client, Global};
use crate::output::duration;
use crate::run::{record, task};

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
    /// How long to wait before killing: 10s, 2m
    #[arg(long, visible_alias = "timeout", short = 't', value_parser = duration, default_value = "10s")]
    time: Duration,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    each(&args.ids, async |id| {
        let record = record::get(&client, id).await?;
        stop::stop(&client, id, None, args.time).await?;
        start::make_room(&client, id).await?;
        run::detached(&client, &record, task::rootfs(&client, &record).await?).await?;
        Ok(id.to_owned())
    })
    .await
}
