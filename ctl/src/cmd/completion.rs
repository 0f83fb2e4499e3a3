//! `windlass completion`

use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

use crate::client::Global;
use crate::output;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass completion bash > /etc/bash_completion.d/windlass
  windlass completion zsh > ~/.zfunc/_windlass
  windlass completion fish > ~/.config/fish/completions/windlass.fish")]
pub struct Args {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

pub async fn run(_: Global, args: Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::tree(), "windlass", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
