//! The progress of a transfer: bars that are drawn again in place on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use windlass_api::transfer::Progress;

use crate::output;
use crate::run::terminal;

/// How often the picture is drawn again at most.
const REDRAW: Duration = Duration::from_millis(100);
/// Most objects that are remembered: a hostile index has no end.
const MAX_OBJECTS: usize = 10_000;

/// States after which nothing more happens to an object.
fn is_done(event: &str) -> bool {
    matches!(
        event,
        "complete" | "extracted" | "saved" | "already exists" | "uploaded" | "exists" | "done" | "skipped"
    )
}

/// The lines of a transfer, one per object.
pub struct Board {
    lines: Vec<Progress>,
    index: HashMap<String, usize>,
    status: String,
    drawn: usize,
    mode: Mode,
    begun: Instant,
    last: Option<Instant>,
    changed: bool,
    /// Images that were saved.
    pub saved: Vec<String>,
}

#[derive(PartialEq)]
enum Mode {
    Quiet,
    Lines,
    Terminal,
}

impl Board {
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (_, true) => Mode::Terminal,
            _ => Mode::Lines,
        };
        Self {
            lines: Vec::new(),
            index: HashMap::new(),
            status: String::new(),
            drawn: 0,
            mode,
            begun: Instant::now(),
            last: None,
            changed: false,
            saved: Vec::new(),
        }
    }

    pub fn show(&mut self, line: Progress) {
        if line.name.is_empty() {
            if self.mode == Mode::Lines {
                output::note(&output::safe(&line.event));
            }
            self.status = line.event;
            self.changed = true;
            return;
        }
        if line.event == "saved" && !self.saved.contains(&line.name) {
            self.saved.push(line.name.clone());
        }
        let known = self.index.get(&line.name).copied();
        let old = known.map(|at| self.lines[at].event.as_str());
        if self.mode == Mode::Lines && old != Some(&line.event) && is_done(&line.event) {
            output::note(&format!("{} {}", output::safe(&short(&line.name)), output::safe(&line.event)));
        }
        match known {
            Some(at) => self.lines[at] = line,
            None if self.lines.len() < MAX_OBJECTS => {
                self.index.insert(line.name.clone(), self.lines.len());
                self.lines.push(line);
            }
            None => {}
        }
        self.changed = true;
    }

    /// Waits until the picture should be drawn again; forever where nothing has changed.
    pub async fn due(&self) {
        if self.mode != Mode::Terminal || !self.changed {
            return std::future::pending().await;
        }
        if let Some(last) = self.last {
            tokio::time::sleep_until((last + REDRAW).into()).await;
        }
    }

    pub fn draw(&mut self) {
        let (columns, rows) = terminal::size_of(&std::io::stderr()).unwrap_or((80, 24));
        let picture = self.picture(columns as usize, (rows as usize).saturating_sub(1).max(1));
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the first line, and away with all below it.
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for line in &picture {
            text.push_str(line);
            text.push('\n');
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.drawn = picture.len();
        self.last = Some(Instant::now());
        self.changed = false;
    }

    /// What is shown, in at most `rows` lines of at most `columns` characters.
    fn picture(&self, columns: usize, rows: usize) -> Vec<String> {
        let most = rows.saturating_sub(1);
        // Where not all have room, those that are still at work.
        let mut shown: Vec<_> = self.lines.iter().collect();
        if shown.len() > most {
            shown.retain(|l| !is_done(&l.event));
            shown.truncate(most);
        }
        let mut picture: Vec<_> = shown.into_iter().map(|line| cut(&draw_line(line), columns)).collect();
        let done = self.lines.iter().filter(|l| is_done(&l.event)).count();
        let bytes: i64 = self.lines.iter().map(|l| l.progress.max(0)).fold(0, i64::saturating_add);
        let seconds = self.begun.elapsed().as_secs_f64();
        let total = output::bytes(bytes.unsigned_abs());
        let summary = format!(
            "{done}/{} done, {total}, {seconds:.1} s  {}",
            self.lines.len(),
            output::safe(&self.status)
        );
        picture.push(cut(&summary, columns));
        picture
    }

    pub fn finish(&mut self) {
        if self.mode == Mode::Terminal && !self.lines.is_empty() {
            self.draw();
        }
    }
}

fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns.max(1)).collect::<String>().trim_end().to_owned()
}

fn draw_line(line: &Progress) -> String {
    let name: String = output::safe(&short(&line.name)).chars().take(40).collect();
    let event: String = output::safe(&line.event).chars().take(14).collect();
    format!("{name:40} {event:14} {}", bar(line.progress, line.total))
}

fn bar(progress: i64, total: i64) -> String {
    if total <= 0 {
        return String::new();
    }
    let part = (progress.clamp(0, total) as f64) / total as f64;
    let filled = (part * 20.0) as usize;
    format!("[{}{}] {:>10}", "=".repeat(filled), " ".repeat(20 - filled), output::bytes(total.unsigned_abs()))
}

/// `layer-sha256:0123456789ab…` cut to what tells it apart.
fn short(name: &str) -> String {
    match name.split_once("sha256:") {
        Some((kind, digest)) if digest.len() > 12 => {
            format!("{} {}", kind.trim_end_matches(['-', '@']), digest.get(..12).unwrap_or(digest))
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, event: &str, progress: i64, total: i64) -> Progress {
        Progress { name: name.into(), event: event.into(), progress, total, ..Default::default() }
    }

    #[test]
    fn the_picture_fits_the_terminal() {
        let mut board = Board::new(true);
        for at in 0..50 {
            let event = if at < 25 { "complete" } else { "downloading" };
            board.show(line(&format!("layer-sha256:{at:064}"), event, 5, 10));
        }
        board.show(line("evil\x1b[2J", "downloading", i64::MAX, i64::MAX));
        let picture = board.picture(60, 10);
        assert_eq!(picture.len(), 10);
        assert!(picture.iter().all(|l| l.chars().count() <= 60 && !l.contains('\x1b')));
        assert!(picture[0].contains("downloading"), "{picture:?}");
        assert!(picture[9].starts_with("25/51 done"), "{picture:?}");
        assert_eq!(board.picture(80, 100).len(), 52);
    }

    #[test]
    fn saved_images_are_remembered_once() {
        let mut board = Board::new(true);
        for _ in 0..2 {
            board.show(line("docker.io/library/x:1", "saved", 0, 0));
        }
        assert_eq!(board.saved, ["docker.io/library/x:1"]);
    }

    #[test]
    fn bars_are_bounded() {
        assert_eq!(bar(5, 0), "");
        assert_eq!(bar(i64::MAX, 1024), "[====================]    1.0 KiB");
        assert_eq!(bar(-5, 1024), "[                    ]    1.0 KiB");
        assert_eq!(short("layer-sha256:0123456789abcdef"), "layer 0123456789ab");
        assert_eq!(short("sha256:0123"), "sha256:0123");
    }
}
