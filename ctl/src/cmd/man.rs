//! `windlass man`: manual pages, for those who pack windlass.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::client::Global;

#[derive(clap::Args)]
pub struct Args {
    /// Directory
    directory: PathBuf,
}

pub async fn run(_: Global, args: Args) -> Result<ExitCode> {
    std::fs::create_dir_all(&args.directory).with_context(|| format!("make {}", args.directory.display()))?;
    clap_mangen::generate_to(crate::tree(), &args.directory)
        .with_context(|| format!("write into {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
