//! Drives windlassd and a second containerd-speaking daemon in turn, in one run, and prints medians and ratios.
//!
//! Absolute times swing with the machine; only the ratio of two medians that were measured alternately is a result.

mod cri;
mod peer;
mod spec;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

use peer::Peer;
use table::{Row, Table};

/// Quiet before memory is measured.
const REST: Duration = Duration::from_secs(4);

#[derive(Parser)]
#[command(about = "Times windlassd against a second daemon, in pairs")]
struct Options {
    /// Socket of windlassd.
    #[arg(long)]
    windlass: PathBuf,
    /// Socket of the daemon to compare with.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Small image with /bin/true and /bin/sleep, in a registry both can reach.
    #[arg(long, default_value = "127.0.0.1:5000/library/busybox:latest")]
    image: String,
    /// Image with much data.
    #[arg(long, default_value = "127.0.0.1:5000/bench/large:1")]
    large: String,
    /// Image with many files.
    #[arg(long, default_value = "127.0.0.1:5000/bench/smallfiles:1")]
    files: String,
    /// Counted rounds of task cycles and execs.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Counted rounds of pulls.
    #[arg(long, default_value_t = 5)]
    pulls: usize,
    /// Pods that are started at once.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Rows to measure, by a part of their name; all without it.
    #[arg(long)]
    only: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut peers = vec![Peer::connect("windlass", &options.windlass).await?];
    if let Some(other) = &options.other {
        peers.push(Peer::connect("other", other).await?);
    }
    let wanted = |name: &str| options.only.as_deref().is_none_or(|part| name.contains(part));
    let mut table = Table::new(peers.iter().map(|p| p.title.clone()).collect());

    if wanted("memory") {
        table.push(Row::of("daemon memory, idle", "MB", peers.iter().map(|p| vec![p.resident()]).collect()));
    }
    for peer in &mut peers {
        peer.prepare(&options.image).await?;
    }
    if wanted("task") {
        table.push(paired("task cycle of true", &mut peers, options.rounds, Peer::task_cycle).await?);
    }
    if wanted("new") {
        table.push(
            paired("container with snapshot, cycle", &mut peers, options.rounds, Peer::container_cycle)
                .await?,
        );
    }
    if wanted("exec") || wanted("shim") {
        for peer in &mut peers {
            peer.start_sleeper().await?;
        }
        table.push(paired("exec of true", &mut peers, options.rounds, Peer::exec_cycle).await?);
        // At rest, as shims are nearly always: ours gives memory back after two quiet seconds.
        tokio::time::sleep(REST).await;
        let shims = peers.iter().map(|p| vec![p.shim_memory()]).collect();
        table.push(Row::of("shim memory (PSS) at rest", "MB", shims));
        for peer in &mut peers {
            peer.stop_sleeper().await?;
        }
    }
    if wanted("pull") {
        for (name, image) in
            [("pull and unpack, much data", &options.large), ("pull and unpack, many files", &options.files)]
        {
            let mut times = vec![Vec::new(); peers.len()];
            for round in 0..=options.pulls {
                for (peer, times) in peers.iter_mut().zip(&mut times) {
                    let begun = Instant::now();
                    peer.pull(image).await?;
                    let took = begun.elapsed();
                    peer.remove_image(image).await?;
                    if round > 0 {
                        times.push(milliseconds(took));
                    }
                }
            }
            table.push(Row::of(name, "ms", times));
        }
    }
    if wanted("list") {
        for peer in &mut peers {
            peer.make_records(1000).await?;
        }
        table.push(paired("list of 1,000 containers", &mut peers, options.rounds, Peer::list).await?);
        for peer in &mut peers {
            peer.remove_records(1000).await?;
        }
    }
    if wanted("memory") {
        table.push(Row::of(
            "daemon memory, after the run",
            "MB",
            peers.iter().map(|p| vec![p.resident()]).collect(),
        ));
    }
    for peer in &mut peers {
        peer.clean().await?;
    }
    if wanted("cri") {
        let addresses = [Some(&options.windlass), options.other.as_ref()];
        let mut nodes = Vec::new();
        for (peer, address) in peers.iter().zip(addresses.into_iter().flatten()) {
            nodes.push(cri::Node::connect(&peer.title, peer.pid, address, &options.image).await?);
        }
        cri::measure(&nodes, &options, &mut table).await?;
    }
    println!("{table}");
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Runs `action` on each peer in turn; the first five rounds are not counted.
async fn paired<F>(name: &str, peers: &mut [Peer], rounds: usize, action: F) -> Result<Row>
where
    F: AsyncFn(&mut Peer) -> Result<()>,
{
    let mut times = vec![Vec::with_capacity(rounds); peers.len()];
    for round in 0..rounds + 5 {
        for (peer, times) in peers.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            action(peer).await?;
            if round >= 5 {
                times.push(milliseconds(begun.elapsed()));
            }
        }
    }
    Ok(Row::of(name, "ms", times))
}
