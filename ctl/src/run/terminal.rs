//! The person's terminal: raw mode while a container has it, and its size.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, ensure};
use rustix::termios::{self, OptionalActions, Termios};

/// Raw mode, undone when dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        ensure!(stdin.is_terminal(), "standard input is no terminal: leave -t out, or run this at a terminal");
        let before = termios::tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).context("set the terminal to raw mode")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done where the terminal has gone.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows.
pub fn size() -> Option<(u32, u32)> {
    let size = termios::tcgetwinsize(std::io::stdout().as_fd()).ok()?;
    Some((size.ws_col.into(), size.ws_row.into()))
}
