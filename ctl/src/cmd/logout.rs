//! `windlass logout`

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::client::Global;
use crate::{auth, output};

#[derive(clap::Args)]
pub struct Args {
    /// Registry
    #[arg(default_value = "docker.io")]
    host: String,
}

pub async fn run(_: Global, args: Args) -> Result<ExitCode> {
    let host = auth::normalized(&args.host);
    let path = auth::config_path().context("no home directory: set DOCKER_CONFIG")?;
    let known = auth::erase(&path, host).await?;
    output::note(&if known {
        format!("credentials for {host} are gone")
    } else {
        format!("nothing was kept for {host}")
    });
    Ok(ExitCode::SUCCESS)
}
