//! `windlass run`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::services::containers::GetContainerRequest;
use windlass_api::services::images::GetImageRequest;

use crate::client::{Client, Global};
use crate::cmd::{pull, rm};
use crate::output;
use crate::run::io::Fifos;
use crate::run::task::{Process, exit_code};
use crate::run::{container, image};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    container: container::Options,
    /// Run in the background
    #[arg(long, short, conflicts_with_all = ["interactive", "rm"])]
    detach: bool,
    /// Pass standard input on
    #[arg(long, short)]
    interactive: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// Image
    image: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// The image by the name that was typed, or filled in; fetched where it is missing.
pub async fn image(client: &Client, typed: &str) -> Result<image::Image> {
    for name in [typed.to_owned(), pull::full_name(typed)] {
        if client.images().get(GetImageRequest { name: name.clone() }).await.is_ok() {
            return image::find(client, &name).await;
        }
    }
    let name = pull::full_name(typed);
    pull::fetch(client, &name).await?;
    image::find(client, &name).await
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let image = image(&client, &args.image).await?;
    let terminal = args.container.tty;
    let id = container::create(&client, &image, &args.container, &args.args, args.detach).await?;
    let result = start(&client, &id, &args, terminal).await;
    if args.rm || result.is_err() {
        // The first error is the one to show.
        let removed = rm::remove(&client, &id, true).await;
        if result.is_ok() {
            removed?;
        }
    }
    result
}

async fn start(client: &Client, id: &str, args: &Args, terminal: bool) -> Result<ExitCode> {
    let record = client.containers().get(GetContainerRequest { id: id.to_owned() }).await?.into_inner();
    let record = record.container.unwrap_or_default();
    let process = Process { container: id.to_owned(), exec: String::new() };
    if args.detach {
        container::create_task(client, &record, None, terminal).await?;
        process.start(client).await?;
        output::print(&format!("{id}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fifos = Fifos::new(terminal, args.interactive)?;
    // The shim opens the fifos while it creates the task, and waits for the other end.
    fifos.copy(process.close_stdin(client));
    container::create_task(client, &record, Some(&fifos), terminal).await?;
    let status = process.run_attached(client, &mut fifos, terminal).await?;
    if !args.rm {
        rm::remove_task(client, id, false).await?;
    }
    Ok(exit_code(status))
}
