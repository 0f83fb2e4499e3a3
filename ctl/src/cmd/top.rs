//! `windlass top`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tonic::Code;
use windlass_api::services::tasks::ListPidsRequest;

use crate::client::{Client, Global};
use crate::output::{self, Remedy};

#[derive(clap::Args)]
pub struct Args {
    /// Container
    id: String,
}

#[derive(Serialize, Default)]
struct Row {
    pid: u32,
    ppid: u32,
    user: u32,
    state: String,
    threads: u64,
    /// Resident memory in bytes.
    memory: u64,
    resident: String,
    /// Seconds of processor.
    cpu: f64,
    time: String,
    command: String,
}

/// What /proc says about a process; `None` where it has ended.
fn process(pid: u32) -> Option<Row> {
    let dir = std::path::PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| {
        field(name).and_then(|v| v.split_whitespace().next()).and_then(|v| v.parse::<u64>().ok())
    };
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    // The name may contain anything, also parentheses: fields are counted from the last one.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let cpu = (ticks(11) + ticks(12)) as f64 / rustix::param::clock_ticks_per_second() as f64;
    let line = std::fs::read(dir.join("cmdline")).unwrap_or_default();
    let words: Vec<_> =
        line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let command =
        if words.is_empty() { format!("[{}]", field("Name").unwrap_or("?")) } else { words.join(" ") };
    let memory = number("VmRSS").unwrap_or(0).saturating_mul(1024);
    Some(Row {
        pid,
        ppid: number("PPid").and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        user: number("Uid").and_then(|u| u32::try_from(u).ok()).unwrap_or(0),
        state: fields.first().map(|s| (*s).to_owned()).unwrap_or_default(),
        threads: number("Threads").unwrap_or(0),
        memory,
        resident: output::bytes(memory),
        cpu,
        time: format!("{:02}:{:02}:{:02}", cpu as u64 / 3600, cpu as u64 / 60 % 60, cpu as u64 % 60),
        command,
    })
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let request = ListPidsRequest { container_id: args.id.clone() };
    let processes = client
        .tasks()
        .list_pids(request)
        .await
        .remedy_for(Code::NotFound, "it does not run: windlass ps lists what does")?
        .into_inner()
        .processes;
    let rows: Vec<_> = processes.iter().filter_map(|p| process(p.pid)).collect();
    let columns = [
        ("PID", "pid"),
        ("PPID", "ppid"),
        ("UID", "user"),
        ("STATE", "state"),
        ("THREADS", "threads"),
        ("MEMORY", "resident"),
        ("TIME", "time"),
        ("COMMAND", "command"),
    ];
    output::rows(&global.format, &columns, &rows)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn we_are_a_process() {
        let row = super::process(std::process::id()).unwrap();
        assert!(row.memory > 0 && row.threads > 0 && !row.command.is_empty());
        assert!(super::process(u32::MAX).is_none());
    }
}
