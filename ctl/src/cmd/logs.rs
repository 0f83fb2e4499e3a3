//! `windlass logs`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use windlass_api::types::task::Status;

use crate::client::{Client, Global};
use crate::output;
use crate::run::log::{self, Reader, Watch};
use crate::run::record;
use crate::run::task::{self, Process};

#[derive(clap::Args)]
pub struct Args {
    /// Container
    id: String,
    /// Go on as the container writes, until it ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Put the time at which it came in front of each line; what was there before is not timed
    #[arg(long, short, requires = "follow")]
    timestamps: bool,
}

/// A log on its way to standard output.
pub struct Follower {
    reader: Reader,
    watch: Watch,
    stamps: Option<Stamps>,
}

impl Follower {
    /// From the beginning, or the last lines.
    pub fn new(path: &Path, tail: Option<usize>) -> Result<Self> {
        let mut reader = Reader::open(path)?;
        if let Some(lines) = tail {
            reader.tail(lines)?;
        }
        // Watched before it is read: nothing is missed in between.
        let watch = reader.watch()?;
        Ok(Self { reader, watch, stamps: None })
    }

    /// Prints what is there.
    pub fn rest(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(part) = self.reader.read(&mut buffer)? {
            match &mut self.stamps {
                Some(stamps) => output::write(&stamps.stamp(part, &now()))?,
                None => output::write(part)?,
            }
        }
        Ok(())
    }

    /// Prints what comes, for ever.
    pub async fn follow(&mut self) -> Result<()> {
        loop {
            self.rest()?;
            self.watch.changed().await?;
        }
    }
}

fn now() -> String {
    time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// Puts times in front of lines, also of those that come in pieces.
#[derive(Default)]
struct Stamps {
    within: bool,
}

impl Stamps {
    fn stamp(&mut self, data: &[u8], now: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + 64);
        for line in data.split_inclusive(|b| *b == b'\n') {
            if !self.within {
                out.extend_from_slice(now.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line);
            self.within = !line.ends_with(b"\n");
        }
        out
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let record = record::get(&client, &args.id).await?;
    let task = task::get(&client, &args.id).await?;
    // The task knows best; the record knows when the task has gone.
    let uri = task.as_ref().map(|t| t.stdout.clone()).filter(|u| log::file(u).is_some());
    let Some(uri) = uri.or_else(|| record.labels.get(log::LABEL).cloned()) else {
        bail!("container {} keeps no log: it was not made by windlass", args.id);
    };
    let Some(path) = log::file(&uri) else {
        bail!("the output of {} goes to {uri}, which keeps it", args.id)
    };
    let mut follower = Follower::new(&path, args.tail)?;
    follower.rest()?;
    if !args.follow || task.is_none_or(|t| t.status() == Status::Stopped) {
        return Ok(ExitCode::SUCCESS);
    }
    follower.stamps = args.timestamps.then(Stamps::default);
    let process = Process::main(&args.id);
    tokio::select! {
        followed = follower.follow() => followed?,
        // Its end, or that of the record.
        _ = process.wait(&client) => {}
    }
    follower.rest()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_one_time() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.stamp(b"a\nb", "T"), b"T a\nT b");
        assert_eq!(stamps.stamp(b"c\n\n", "U"), b"c\nU \n");
    }
}
