//! `windlass`: containers and images from a terminal. Talks only through containerd's API: what it can do, any client can.
//!
//! One file per subcommand in [`cmd`]; [`client`] connects, [`output`] prints, [`run`] holds what running a container
//! takes (spec, standard streams, terminal).

mod client;
mod cmd;
mod output;
mod run;
mod stream;
mod transfer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Containers and images on a windlass (or containerd) daemon.
#[derive(Parser)]
#[command(name = "windlass", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: client::Global,
    #[command(subcommand)]
    command: Command,
}

/// The table of commands: parser, help and dispatch come from here.
macro_rules! commands {
    ($($(#[$attr:meta])* $name:ident($module:ident)),* $(,)?) => {
        #[derive(Subcommand)]
        enum Command { $($(#[$attr])* $name(cmd::$module::Args)),* }

        impl Command {
            async fn run(self, global: client::Global) -> anyhow::Result<ExitCode> {
                match self { $(Self::$name(args) => cmd::$module::run(global, args).await),* }
            }
        }
    };
}

commands! {
    /// Fetch an image from a registry and unpack it
    Pull(pull),
    /// List images
    #[command(visible_alias = "ls")]
    Images(images),
    /// Load images from an archive
    #[command(visible_alias = "load")]
    Import(import),
    /// Create a container and run it
    Run(run),
    /// List containers
    Ps(ps),
    /// Remove containers
    Rm(rm),
    /// Show the versions of client and daemon
    Version(version),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("windlass: start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(cli.command.run(cli.global)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("windlass: {}", output::error(&error));
            ExitCode::FAILURE
        }
    };
    // Reads of standard input cannot be cancelled: leave without waiting for them.
    runtime.shutdown_background();
    code
}
