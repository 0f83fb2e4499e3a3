//! The daemon's program: configuration, start, stop. What it serves are plugins; which there are, `builtins` says.

mod args;
mod config;
mod daemon;
mod dirs;
#[cfg(feature = "failpoints")]
mod failpoint;
mod log;
mod metrics;
mod process;
mod server;
mod socket;
mod systemd;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use windlass_core::registry::Registration;

use crate::args::{Args, Command, Flags};
use crate::config::Settings;

use windlass_builtins as _;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    process::restrain_malloc();
    #[cfg(feature = "failpoints")]
    failpoint::arm();
    let args = Args::parse();
    let flags = args.flags.without_empty();
    let result = match args.command {
        None => run(&flags),
        Some(Command::Config(command)) => configuration(command, &flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlassd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All plugins of this build, in a stable order.
fn registrations() -> Vec<&'static Registration> {
    let mut all: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
    all.sort_by_key(|r| (r.kind, r.id));
    all
}

fn run(flags: &Flags) -> Result<()> {
    let registrations = registrations();
    let config = config::load(flags.file().as_deref(), &registrations)?;
    let settings = Settings::new(&config, flags)?;
    log::init(&settings.level, settings.format);
    for warning in &config.warnings {
        let place = warning.place.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%place, key = %warning.key, "configuration: {}", warning.why);
    }
    process::set_temp(&settings);
    drop(config);
    daemon::run(settings, registrations)
}

fn configuration(command: args::Config, flags: &Flags) -> Result<()> {
    let registrations = registrations();
    let file = flags.file();
    let table = match command {
        args::Config::Default => config::defaults(&registrations)?,
        args::Config::Migrate => {
            let file = file.context("there is no configuration to migrate: name one with --config")?;
            config::migrated(&file)?
        }
        args::Config::Dump => config::load(file.as_deref(), &registrations)?.dump(flags, &registrations)?,
        args::Config::Check => {
            let config = config::load(file.as_deref(), &registrations)?;
            Settings::new(&config, flags)?;
            for warning in &config.warnings {
                println!("warning: {warning}");
            }
            let ignored = config.warnings.len();
            println!(
                "the configuration can be used{}",
                if ignored > 0 { ", without what is warned of" } else { "" }
            );
            return Ok(());
        }
    };
    print!("{}", toml::to_string_pretty(&table).context("print the configuration")?);
    Ok(())
}
