//! `windlass run`

use std::process::ExitCode;

use anyhow::{Result, bail};
use windlass_api::services::containers::Container;
use windlass_api::types::Mount;

use super::rm;
use crate::client::{Client, Global};
use crate::interrupt::unless_interrupted;
use crate::output::{self, run_error};
use crate::run::io::{Fifos, Keys};
use crate::run::task::{self, Outcome, Process};
use crate::run::{container, log, record};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass run --rm -it busybox sh
  windlass run -d --name web -m 256m --cpus 0.5 -v /srv/www:/www:ro nginx
  windlass run --rm --network host -u nobody -e TZ=UTC alpine date

Without a terminal (-t) a container's output and errors stay apart. Ctrl-p ctrl-q leaves an interactive container and
lets it run. The exit code is the container's; 125 where windlass failed, 126 where the command cannot be run, 127
where it does not exist.")]
pub struct Args {
    #[command(flatten)]
    container: container::Options,
    /// Run in the background; the output goes to a log, see `windlass logs`
    #[arg(long, short, conflicts_with = "rm", help_heading = "Container")]
    detach: bool,
    /// Remove the container when it has ended
    #[arg(long, help_heading = "Container")]
    rm: bool,
    /// Keys that leave a container on a terminal
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS", help_heading = "Container")]
    detach_keys: Keys,
    /// Image; "busybox" means docker.io/library/busybox:latest
    image: String,
    /// Command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    run_it(global, args).await.map_err(run_error)
}

async fn run_it(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let image = container::image(&client, &args.container, &args.image).await?;
    let created = container::create(&client, &image, &args.container, &args.args).await?;
    let record = created.record.clone();
    let result = start(&client, &record, created.rootfs.clone(), &args).await;
    if result.is_err() {
        // The first error is the one to show.
        let _ = unless_interrupted(rm::remove(&client, &record.id, true)).await;
    } else if args.rm && matches!(result, Ok(Outcome::Exited(_) | Outcome::Unread)) {
        rm::remove_record(&client, &record, result.as_ref().is_ok_and(|o| !matches!(o, Outcome::Exited(_))))
            .await?;
    }
    created.finish().await;
    let outcome = result?;
    if args.detach {
        output::print(&format!("{}\n", record.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(record::left(&outcome, &record.id))
}

async fn start(client: &Client, record: &Container, rootfs: Vec<Mount>, args: &Args) -> Result<Outcome> {
    if args.detach {
        detached(client, record, rootfs).await?;
        return Ok(Outcome::Detached);
    }
    let outcome = attached(client, record, rootfs, args.container.interactive, &args.detach_keys).await?;
    if let (Outcome::Exited(status), false) = (&outcome, args.rm) {
        task::delete(client, &record.id).await?;
        record::note_exit(client, &record.id, *status).await;
    }
    Ok(outcome)
}

/// Starts a task whose output goes where the record's label says.
pub async fn detached(client: &Client, record: &Container, rootfs: Vec<Mount>) -> Result<()> {
    let terminal = record::has_terminal(record);
    let interactive = record.labels.contains_key(record::INTERACTIVE);
    // Somebody may attach later: the shim holds standard input open until then.
    let fifos = if interactive { Some(Fifos::new(true, false, false)?) } else { None };
    let stdin = fifos.as_ref().map(|f| f.stdin.clone()).unwrap_or_default();
    let stdout = match record.labels.get(log::LABEL) {
        Some(uri) => uri.clone(),
        None => format!("file://{}", log::new_file(&client.namespace, &record.id).display()),
    };
    log::make_room(&stdout)?;
    let stderr = if terminal { "" } else { &stdout };
    task::create(client, record, rootfs, [&stdin, &stdout, stderr], terminal).await?;
    if let Err(error) = Process::main(&record.id).start(client).await {
        // The first error is the one to show.
        let _ = task::delete(client, &record.id).await;
        return Err(error);
    }
    if let Some(fifos) = fifos {
        fifos.keep();
    }
    Ok(())
}

/// Starts a task at this terminal and stays with it.
pub async fn attached(
    client: &Client,
    record: &Container,
    rootfs: Vec<Mount>,
    interactive: bool,
    keys: &Keys,
) -> Result<Outcome> {
    use std::io::IsTerminal;
    let terminal = record::has_terminal(record);
    if terminal && interactive && !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal: leave -t out, or run this at a terminal");
    }
    let mut fifos = Fifos::new(interactive, true, !terminal)?;
    // The shim opens the fifos while it creates the task, and waits for the other end.
    fifos.copy_output();
    let process = Process::main(&record.id);
    let streams = [fifos.stdin.clone(), fifos.stdout.clone(), fifos.stderr.clone()];
    let create = task::create(client, record, rootfs, streams.each_ref().map(String::as_str), terminal);
    let outcome = match unless_interrupted(create).await {
        Ok(()) => process.run(client, &mut fifos, terminal, keys).await,
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(Outcome::Detached | Outcome::Abandoned | Outcome::Unread) => fifos.keep(),
        Ok(Outcome::Exited(_)) => {}
        // Not started, or nobody knows: leave nothing that runs without its streams.
        Err(_) => {
            let clear = async {
                task::end(client, &record.id).await?;
                task::delete(client, &record.id).await
            };
            let _ = unless_interrupted(clear).await;
        }
    }
    outcome
}
