//! The person's terminal: raw mode while a container has it, its size, and questions that are not echoed.

use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, ensure};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Settings of the terminal at standard input, restored when dropped.
pub struct Restore(Termios);

impl Restore {
    fn change(change: impl FnOnce(&mut Termios)) -> Result<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut new = before.clone();
        change(&mut new);
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &new)
            .context("change the terminal's settings")?;
        Ok(Self(before))
    }

    /// Raw mode: every key goes to the container.
    pub fn raw() -> Result<Self> {
        ensure!(
            std::io::stdin().is_terminal(),
            "standard input is no terminal: leave -t out, or run this at a terminal"
        );
        Self::change(Termios::make_raw)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // Nothing can be done where the terminal has gone.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows of a terminal.
pub fn size_of(terminal: &impl AsFd) -> Option<(u32, u32)> {
    let size = termios::tcgetwinsize(terminal.as_fd()).ok()?;
    (size.ws_col > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Columns and rows of the terminal that a container is shown on.
pub fn size() -> Option<(u32, u32)> {
    size_of(&std::io::stdout()).or_else(|| size_of(&std::io::stdin()))
}

/// Asks without echo.
pub fn ask_secret(question: &str) -> Result<String> {
    let stdin = std::io::stdin();
    ensure!(stdin.is_terminal(), "no password given, and standard input is no terminal to ask at");
    let _ = write!(std::io::stderr(), "{question}");
    let restore = Restore::change(|t| t.local_modes.remove(LocalModes::ECHO))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    drop(restore);
    let _ = writeln!(std::io::stderr());
    read.context("read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
