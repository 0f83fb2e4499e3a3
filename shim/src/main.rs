//! `containerd-shim-runc-v2`: the process that stands between a daemon and the containers of one pod, or one lone
//! container. It owns their streams, reaps their processes and keeps their exit status until somebody takes it. It is a
//! drop-in: it runs under windlassd and under a stock containerd alike.
//!
//! It must never have a second thread: starting a process is a plain `fork`, in the `start` subcommand, in the embedded
//! runtime and for external programs.

mod args;
mod bootstrap;
mod cgroup;
mod console_socket;
mod container;
mod delete;
mod error;
mod events;
mod failpoint;
mod info;
mod io;
#[cfg(feature = "failpoints")]
mod kill_at;
mod log;
mod mount;
mod options;
mod pause;
mod pb;
mod process;
mod readiness;
mod reaper;
mod rest;
mod runtime;
mod sandbox;
mod serve;
mod signal;
mod socket;
mod spawn;
mod spec;
mod start;
mod task;
mod time;
mod ttrpc;

use std::process::ExitCode;

use crate::args::Args;
use crate::error::{Error, Result};

/// What the shim calls itself to daemons.
const NAME: &str = "io.containerd.runc.v2";

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    #[cfg(feature = "failpoints")]
    kill_at::arm();
    let args = match Args::parse(std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned())) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if args.action == pause::ACTION {
        return pause::run();
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.version {
        info::print_version();
        return Ok(());
    }
    if args.info {
        return info::print();
    }
    if args.namespace.is_empty() {
        return Err(Error::invalid("shim namespace cannot be empty"));
    }
    log::set_debug(args.debug);
    match args.action.as_str() {
        "start" => start::run(args),
        "delete" => delete::run(args),
        "" => Err(Error::invalid("no action given: want start or delete")),
        other => Err(Error::invalid(format!("unknown action {other:?}: want start or delete"))),
    }
}
