//! `windlass start`

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use windlass_api::types::task::Status;

use super::{each, run};
use crate::client::{Client, Global};
use crate::output::run_error;
use crate::run::io::Keys;
use crate::run::record;
use crate::run::task::{self, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
    /// Show the output and end with the container's exit code; with one container
    #[arg(long, short)]
    attach: bool,
    /// Pass standard input on, with --attach
    #[arg(long, short, requires = "attach")]
    interactive: bool,
    /// Keys that leave a container on a terminal
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: Keys,
}

/// Removes what is left of an earlier task.
pub async fn make_room(client: &Client, id: &str) -> Result<()> {
    match task::get(client, id).await?.map(|t| t.status()) {
        None => Ok(()),
        Some(Status::Stopped) => task::delete(client, id).await.map(|_| ()),
        Some(status) => bail!("container {id} is {} already", crate::json::status(status)),
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    if !args.attach {
        return each(&args.ids, async |id| {
            let record = record::get(&client, id).await?;
            make_room(&client, id).await?;
            run::detached(&client, &record, task::rootfs(&client, &record).await?).await?;
            Ok(id.to_owned())
        })
        .await;
    }
    let attached = async {
        let [id] = args.ids.as_slice() else { bail!("--attach takes one container") };
        ensure!(!id.is_empty(), "name a container");
        let record = record::get(&client, id).await?;
        make_room(&client, id).await?;
        let rootfs = task::rootfs(&client, &record).await?;
        let outcome = run::attached(&client, &record, rootfs, args.interactive, &args.detach_keys).await?;
        if let Outcome::Exited(status) = outcome {
            task::delete(&client, id).await?;
            record::note_exit(&client, id, status).await;
        }
        Ok(record::left(&outcome, id))
    };
    attached.await.map_err(run_error)
}
