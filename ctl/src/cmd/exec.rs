//! `windlass exec`

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tonic::Code;
use windlass_api::Any;
use windlass_api::convert::mount;
use windlass_api::services::containers::Container;
use windlass_api::services::tasks::{DeleteProcessRequest, ExecProcessRequest};

use crate::client::{Client, Global};
use crate::output::{self, Remedy, run_error};
use crate::run::io::{Fifos, Keys};
use crate::run::record::{self, PROCESS_URL};
use crate::run::task::{self, KILL_TIMEOUT, Outcome, Process};
use crate::run::{spec, user};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass exec -it web sh
  windlass exec -u nobody -w /tmp web id

The exit code is the command's; 125 where windlass failed, 126 where it cannot be run, 127 where it does not exist.")]
pub struct Args {
    #[command(flatten)]
    process: spec::ProcessOptions,
    /// Pass standard input on
    #[arg(long, short)]
    interactive: bool,
    /// Allocate a terminal
    #[arg(long, short)]
    tty: bool,
    /// Run in the background
    #[arg(long, short, conflicts_with = "interactive")]
    detach: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Where a detached command's output goes: file:///path or binary:///program
    #[arg(long, value_name = "URI", requires = "detach")]
    log_uri: Option<String>,
    /// Keys that leave a command on a terminal
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: Keys,
    /// Container
    id: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    args: Vec<String>,
}

/// The process's specification: the container's own, with what was asked for.
async fn process(client: &Client, record: &Container, args: &Args) -> Result<Value> {
    let spec = record::spec_of(record)?;
    let mut process = spec.get("process").cloned().context("the container's specification has no process")?;
    let env = process["env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let mut env: Vec<_> = env.collect();
    if args.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process["env"] = json!(args.process.environment(env)?);
    process["cwd"] = json!(args.process.directory(process["cwd"].as_str().unwrap_or_default())?);
    process["args"] = json!(args.args);
    process["terminal"] = json!(args.tty);
    if let Some(wanted) = &args.process.user {
        let mounts = task::rootfs(client, record).await?;
        let mounts: Vec<_> = mounts.into_iter().map(mount::from_wire).collect();
        let wanted = wanted.clone();
        let user = tokio::task::spawn_blocking(move || user::resolve(&wanted, &mounts)).await??;
        process["user"] = spec::user(&user);
    }
    if args.privileged {
        let all = spec::all_capabilities();
        process["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        process["noNewPrivileges"] = json!(false);
    }
    if let Some(map) = process.as_object_mut() {
        // That of the container's first process is not for others.
        map.remove("consoleSize");
    }
    Ok(process)
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    exec(global, args).await.map_err(run_error)
}

async fn exec(global: Global, args: Args) -> Result<ExitCode> {
    ensure!(
        !(args.tty && args.interactive) || std::io::stdin().is_terminal(),
        "standard input is no terminal: leave -t out, or run this at a terminal"
    );
    let client = Client::connect(&global).await?;
    let record = record::get(&client, &args.id).await?;
    let spec = process(&client, &record, &args).await?;
    let digest = windlass_core::Digest::of(crate::stream::unique("e").as_bytes());
    let process =
        Process { container: args.id.clone(), exec: digest.encoded().get(..16).unwrap_or("e").to_owned() };
    let mut fifos = if args.detach {
        Fifos::new(false, false, false)?
    } else {
        Fifos::new(args.interactive, true, !args.tty)?
    };
    fifos.copy_output();
    let log = args.log_uri.clone().unwrap_or_default();
    let (stdout, stderr) =
        if args.detach { (log.clone(), log) } else { (fifos.stdout.clone(), fifos.stderr.clone()) };
    let request = ExecProcessRequest {
        container_id: args.id.clone(),
        exec_id: process.exec.clone(),
        stdin: fifos.stdin.clone(),
        stderr: if args.tty { String::new() } else { stderr },
        stdout,
        terminal: args.tty,
        spec: Some(Any { type_url: PROCESS_URL.into(), value: spec.to_string().into_bytes() }),
    };
    client
        .tasks()
        .exec(request)
        .await
        .remedy_for(Code::NotFound, format!("does it run? start it with: windlass start {}", args.id))?;
    if args.detach {
        let started = process.start(&client).await;
        if started.is_err() {
            delete(&client, &process).await;
        }
        started?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = process.run(&client, &mut fifos, args.tty, &args.detach_keys).await;
    match outcome {
        Ok(Outcome::Exited(status)) => {
            delete(&client, &process).await;
            Ok(task::exit_code(status))
        }
        Ok(Outcome::Detached) => {
            output::note("detached; the command runs on");
            fifos.keep();
            Ok(ExitCode::SUCCESS)
        }
        Ok(left @ (Outcome::Abandoned | Outcome::Unread)) => {
            end(&client, &process).await;
            Ok(ExitCode::from(if matches!(left, Outcome::Unread) { output::UNREAD } else { 130 }))
        }
        Err(error) => {
            end(&client, &process).await;
            Err(error)
        }
    }
}

/// Removes an ended process. Its end was shown already: what goes wrong here is the daemon's to clear up.
async fn delete(client: &Client, process: &Process) {
    let request =
        DeleteProcessRequest { container_id: process.container.clone(), exec_id: process.exec.clone() };
    let _ = client.tasks().delete_process(request).await;
}

/// Kills a process that nobody is with any more, and removes it.
async fn end(client: &Client, process: &Process) {
    if process.kill(client, 9, false).await.is_ok() {
        let _ = process.wait_for(client, KILL_TIMEOUT).await;
    }
    delete(client, process).await;
}
