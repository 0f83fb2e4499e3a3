//! `windlass attach`

use std::process::ExitCode;

use anyhow::{Result, bail};
use windlass_api::types::task::Status;

use super::logs;
use crate::client::{Client, Global};
use crate::output::run_error;
use crate::run::io::{Fifos, Keys};
use crate::run::task::{self, Process};
use crate::run::{log, record};

#[derive(clap::Args)]
#[command(after_help = "\
Standard input reaches containers that were made with -i. A detached container's output is that of its log; several may
attach to it. Output that goes through fifos is shared between those who attach.")]
pub struct Args {
    /// Container
    id: String,
    /// Only show the output
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave the container
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: Keys,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    attach(global, args).await.map_err(run_error)
}

async fn attach(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let task = task::running(&client, &args.id).await?;
    if !matches!(task.status(), Status::Running | Status::Paused | Status::Created) {
        bail!(
            "container {} has ended with {}: see its output with: windlass logs {}",
            args.id,
            task.exit_status,
            args.id
        );
    }
    let stdin = if args.no_stdin { "" } else { task.stdin.as_str() };
    let mut fifos = Fifos::of(stdin, &task.stdout, &task.stderr);
    let file = log::file(&task.stdout);
    if fifos.stdout.is_empty() && fifos.stdin.is_empty() && file.is_none() {
        bail!("container {} has no streams to attach to: its output goes to {:?}", args.id, task.stdout);
    }
    fifos.copy_output();
    let process = Process::main(&args.id);
    // A log is followed from its present end.
    let follower = match file {
        Some(path) => Some(logs::Follower::new(&path, Some(0))?),
        None => None,
    };
    let outcome = {
        let attached = process.attach(&client, &mut fifos, task.terminal, &args.detach_keys);
        tokio::pin!(attached);
        match follower {
            None => attached.await?,
            Some(mut follower) => {
                let outcome = tokio::select! {
                    outcome = &mut attached => outcome?,
                    followed = follower.follow() => { followed?; attached.await? }
                };
                if matches!(outcome, task::Outcome::Exited(_)) {
                    follower.rest()?;
                }
                outcome
            }
        }
    };
    Ok(record::left(&outcome, &args.id))
}
