//! `windlass stats`

use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use prost::{Message, Name};
use serde::Serialize;
use windlass_api::convert::any::name;
use windlass_api::services::tasks::MetricsRequest;
use windlass_api::types::Metric;
use windlass_api::{cgroups_v1 as v1, cgroups_v2 as v2};

use crate::client::{Client, Global};
use crate::output::{self, Format};
use crate::run::task;

#[derive(clap::Args)]
#[command(
    after_help = "Fields for --format: id cpu cpu_seconds memory memory_limit memory_percent pids read write"
)]
pub struct Args {
    /// Containers; all that run without any
    ids: Vec<String>,
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Time between two pictures
    #[arg(long, value_parser = output::duration, default_value = "1s", value_name = "TIME")]
    interval: Duration,
}

/// One measurement, of either version of cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    /// Nanoseconds of processor.
    cpu: u64,
    memory: u64,
    limit: u64,
    pids: u64,
    read: u64,
    write: u64,
}

#[derive(Serialize)]
struct Row {
    id: String,
    cpu: String,
    cpu_seconds: f64,
    memory: u64,
    memory_limit: u64,
    memory_percent: String,
    used: String,
    pids: u64,
    read: u64,
    write: u64,
    io: String,
}

fn sample_v1(metrics: v1::Metrics) -> Sample {
    let memory = metrics.memory.unwrap_or_default();
    let usage = memory.usage.unwrap_or_default();
    let (mut read, mut write) = (0u64, 0u64);
    for entry in metrics.blkio.unwrap_or_default().io_service_bytes_recursive {
        match entry.op.to_ascii_lowercase().as_str() {
            "read" => read = read.saturating_add(entry.value),
            "write" => write = write.saturating_add(entry.value),
            _ => {}
        }
    }
    Sample {
        cpu: metrics.cpu.and_then(|c| c.usage).unwrap_or_default().total,
        // Files that can be dropped at once are not in use.
        memory: usage.usage.saturating_sub(memory.total_inactive_file),
        limit: usage.limit,
        pids: metrics.pids.unwrap_or_default().current,
        read,
        write,
    }
}

fn sample_v2(metrics: v2::Metrics) -> Sample {
    let memory = metrics.memory.unwrap_or_default();
    let io = metrics.io.unwrap_or_default().usage;
    Sample {
        cpu: metrics.cpu.unwrap_or_default().usage_usec.saturating_mul(1000),
        memory: memory.usage.saturating_sub(memory.inactive_file),
        limit: memory.usage_limit,
        pids: metrics.pids.unwrap_or_default().current,
        read: io.iter().fold(0, |sum, e| sum.saturating_add(e.rbytes)),
        write: io.iter().fold(0, |sum, e| sum.saturating_add(e.wbytes)),
    }
}

fn sample(metric: &Metric) -> Option<Sample> {
    let data = metric.data.as_ref()?;
    match name(&data.type_url) {
        n if n == v1::Metrics::full_name() => v1::Metrics::decode(data.value.as_slice()).ok().map(sample_v1),
        n if n == v2::Metrics::full_name() => v2::Metrics::decode(data.value.as_slice()).ok().map(sample_v2),
        _ => None,
    }
}

/// Memory of this machine: a limit above it is none.
fn machine_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.split_whitespace().next()).and_then(|t| t.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn row(id: &str, now: Sample, before: Option<(Sample, Duration)>, machine: u64) -> Row {
    let cpu = match before {
        Some((before, time)) if !time.is_zero() => {
            format!("{:.1}%", now.cpu.saturating_sub(before.cpu) as f64 / time.as_nanos() as f64 * 100.0)
        }
        _ => "-".to_owned(),
    };
    let limit = if now.limit == 0 || now.limit > machine { machine } else { now.limit };
    let percent = if limit > 0 { now.memory as f64 / limit as f64 * 100.0 } else { 0.0 };
    Row {
        id: id.to_owned(),
        cpu,
        cpu_seconds: now.cpu as f64 / 1e9,
        memory: now.memory,
        memory_limit: limit,
        memory_percent: format!("{percent:.1}%"),
        used: format!("{} / {}", output::bytes(now.memory), output::bytes(limit)),
        pids: now.pids,
        read: now.read,
        write: now.write,
        io: format!("{} / {}", output::bytes(now.read), output::bytes(now.write)),
    }
}

async fn measure(client: &Client, ids: &[String]) -> Result<Vec<(String, Sample)>> {
    let filters = ids.iter().map(|id| format!("id=={id}")).collect();
    let metrics = client.tasks().metrics(MetricsRequest { filters }).await?.into_inner().metrics;
    let mut all: Vec<_> = metrics.iter().filter_map(|m| Some((m.id.clone(), sample(m)?))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

const COLUMNS: [(&str, &str); 6] = [
    ("CONTAINER", "id"),
    ("CPU", "cpu"),
    ("MEMORY / LIMIT", "used"),
    ("MEM", "memory_percent"),
    ("READ / WRITE", "io"),
    ("PIDS", "pids"),
];

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    for id in &args.ids {
        // A name that is wrong is an error, not an empty table.
        task::running(&client, id).await?;
    }
    let machine = machine_memory();
    let live = global.format == Format::Table && std::io::stdout().is_terminal() && !args.no_stream;
    let mut before: HashMap<String, (Sample, Instant)> = HashMap::new();
    if args.no_stream {
        // A share of the processor needs two measurements.
        before
            .extend(measure(&client, &args.ids).await?.into_iter().map(|(id, s)| (id, (s, Instant::now()))));
        tokio::time::sleep(args.interval.min(Duration::from_millis(500))).await;
    }
    loop {
        let now = measure(&client, &args.ids).await?;
        let rows: Vec<_> = now
            .iter()
            .map(|(id, s)| row(id, *s, before.get(id).map(|(s, t)| (*s, t.elapsed())), machine))
            .collect();
        if live {
            output::print("\x1b[H\x1b[2J")?;
        }
        output::rows(&global.format, &COLUMNS, &rows)?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        before = now.into_iter().map(|(id, s)| (id, (s, Instant::now()))).collect();
        tokio::time::sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::pack;

    #[test]
    fn both_versions_are_read() {
        let one = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage { total: 7, ..Default::default() }),
                ..Default::default()
            }),
            memory: Some(v1::MemoryStat {
                usage: Some(v1::MemoryEntry { usage: 100, limit: 1000, ..Default::default() }),
                total_inactive_file: 40,
                ..Default::default()
            }),
            pids: Some(v1::PidsStat { current: 3, ..Default::default() }),
            ..Default::default()
        };
        let metric = Metric { data: Some(pack(&one)), ..Default::default() };
        let want = Sample { cpu: 7, memory: 60, limit: 1000, pids: 3, ..Default::default() };
        assert_eq!(sample(&metric), Some(want));
        let two = v2::Metrics {
            cpu: Some(v2::CpuStat { usage_usec: 5, ..Default::default() }),
            memory: Some(v2::MemoryStat { usage: 10, usage_limit: 20, ..Default::default() }),
            ..Default::default()
        };
        let metric = Metric { data: Some(pack(&two)), ..Default::default() };
        assert_eq!(sample(&metric), Some(Sample { cpu: 5000, memory: 10, limit: 20, ..Default::default() }));
        assert_eq!(sample(&Metric::default()), None);
    }

    #[test]
    fn shares_come_from_two_measurements() {
        let before = Sample { cpu: 0, ..Default::default() };
        let now = Sample { cpu: 500_000_000, memory: 50, limit: u64::MAX, ..Default::default() };
        let row = row("x", now, Some((before, Duration::from_secs(1))), 100);
        assert_eq!(
            (row.cpu.as_str(), row.memory_percent.as_str(), row.memory_limit),
            ("50.0%", "50.0%", 100)
        );
    }
}
