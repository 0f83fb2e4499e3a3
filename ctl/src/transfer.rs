//! Transfers and their progress, shown as bars on a terminal.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use anyhow::{Context as _, Result};
use prost::{Message, Name};
use windlass_api::services::transfer::{TransferOptions, TransferRequest};
use windlass_api::transfer::Progress;

use crate::client::Client;
use crate::output;
use crate::stream::{Stream, pack, unpack};

/// Runs a transfer; shows its progress on standard error unless `quiet`.
pub async fn run<S, D>(client: &Client, source: &S, destination: &D, quiet: bool) -> Result<()>
where
    S: Message + Name,
    D: Message + Name,
{
    let progress = if quiet { None } else { Some(Stream::open(client, "progress").await?) };
    let options = progress.as_ref().map(|p| TransferOptions { progress_stream: p.id.clone() });
    let request = TransferRequest { source: Some(pack(source)), destination: Some(pack(destination)), options };
    let mut service = client.transfer();
    let transfer = service.transfer(request);
    let Some(mut progress) = progress else {
        transfer.await?;
        return Ok(());
    };
    let mut board = Board::new();
    tokio::pin!(transfer);
    let result = loop {
        tokio::select! {
            result = &mut transfer => break result,
            message = progress.receiver.message() => match message {
                Ok(Some(message)) => if let Some(line) = unpack::<Progress>(&message) { board.show(line) },
                _ => break (&mut transfer).await,
            },
        }
    };
    // The last lines may still be on their way; the daemon closes the stream behind them.
    while let Ok(Ok(Some(message))) =
        tokio::time::timeout(std::time::Duration::from_millis(50), progress.receiver.message()).await
    {
        if let Some(line) = unpack::<Progress>(&message) {
            board.show(line);
        }
    }
    board.finish();
    result.map(|_| ()).context("transfer")
}

/// The lines of a transfer, one per object, drawn again in place.
struct Board {
    lines: BTreeMap<usize, Progress>,
    order: Vec<String>,
    drawn: usize,
    terminal: bool,
    last: Option<std::time::Instant>,
}

/// Most lines that are drawn: an image of a thousand layers must not fill the screen.
const MAX_LINES: usize = 40;

impl Board {
    fn new() -> Self {
        Self { lines: BTreeMap::new(), order: Vec::new(), drawn: 0, terminal: std::io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, line: Progress) {
        if line.name.is_empty() {
            if !self.terminal {
                eprintln!("{}", output::safe(&line.event));
            }
            return;
        }
        let at = self.order.iter().position(|n| *n == line.name).unwrap_or_else(|| {
            self.order.push(line.name.clone());
            self.order.len() - 1
        });
        let changed = self.lines.get(&at).is_none_or(|old| old.event != line.event);
        if changed && !self.terminal && matches!(line.event.as_str(), "complete" | "extracted" | "saved" | "already exists") {
            eprintln!("{} {}", output::safe(&short(&line.name)), output::safe(&line.event));
        }
        self.lines.insert(at, line);
        let due = self.last.is_none_or(|t| t.elapsed() > std::time::Duration::from_millis(80));
        if self.terminal && (changed || due) {
            self.draw();
        }
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let shown = self.lines.values().take(MAX_LINES);
        self.drawn = self.lines.len().min(MAX_LINES);
        for line in shown {
            let name: String = output::safe(&short(&line.name)).chars().take(48).collect();
            let event: String = output::safe(&line.event).chars().take(14).collect();
            text.push_str(&format!("\x1b[2K{name:48} {event:14} {}\n", bar(line.progress, line.total)));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.last = Some(std::time::Instant::now());
    }

    fn finish(&mut self) {
        if self.terminal && !self.lines.is_empty() {
            self.draw();
        }
    }
}

fn bar(progress: i64, total: i64) -> String {
    if total <= 0 {
        return String::new();
    }
    let part = (progress.clamp(0, total) as f64) / total as f64;
    let filled = (part * 20.0) as usize;
    format!("[{}{}] {:>10}", "=".repeat(filled), " ".repeat(20 - filled), output::bytes(total as u64))
}

/// `layer-sha256:0123456789ab…` cut to what tells it apart.
fn short(name: &str) -> String {
    match name.split_once("sha256:") {
        Some((kind, digest)) if digest.len() > 12 => format!("{kind}{}", &digest.get(..12).unwrap_or(digest)),
        _ => name.to_owned(),
    }
}
