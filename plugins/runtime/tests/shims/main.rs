//! Tests of the task manager against shims that are real processes.
//!
//! One binary is both: without arguments (or with a filter) it runs the cases, with a shim's arguments it is the shim,
//! whose behaviour a case asks for in the bundle's `config.json`. Where `RIG` names a directory with containerd's own
//! shim and runc in `bin`, the cases in [`stock`] run too; our own shim is taken from `WINDLASS_SHIM`.

#![allow(clippy::unwrap_used)]

mod broken;
#[cfg(feature = "failpoints")]
mod cut;
mod fake;
mod harness;
mod life;
mod restart;
mod stock;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| matches!(arg.as_str(), "start" | "delete" | "serve" | "-info")) {
        return fake::run(&args);
    }
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    // `RUST_LOG=debug` shows what the manager and its shims say.
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned().unwrap_or_default();
    #[allow(unused_mut)]
    let mut cases = [life::CASES, broken::CASES, restart::CASES, stock::CASES].concat();
    #[cfg(feature = "failpoints")]
    cases.extend_from_slice(cut::CASES);
    let mut failed = Vec::new();
    for (name, case) in cases.iter().filter(|(name, _)| name.contains(&filter)) {
        let begun = std::time::Instant::now();
        let result = std::panic::catch_unwind(case);
        let said = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {said} ({:.2?})", begun.elapsed());
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}
