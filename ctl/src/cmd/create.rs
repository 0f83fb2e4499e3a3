//! `windlass create`

use std::process::ExitCode;

use anyhow::Result;

use crate::client::{Client, Global};
use crate::output::{self, run_error};
use crate::run::container;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    container: container::Options,
    /// Image; "busybox" means docker.io/library/busybox:latest
    image: String,
    /// Command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let create = async {
        let image = container::image(&client, &args.container, &args.image).await?;
        container::create(&client, &image, &args.container, &args.args).await
    };
    let created = create.await.map_err(run_error)?;
    output::print(&format!("{}\n", created.record.id))?;
    created.finish().await;
    Ok(ExitCode::SUCCESS)
}
