//! `windlass kill`

use std::process::ExitCode;

use anyhow::{Result, bail};
use tonic::Code;

use super::each;
use crate::client::{Client, Global};
use crate::output::Remedy;
use crate::run::task::Process;

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
    /// Signal by name or number
    #[arg(long, short, default_value = "KILL")]
    signal: String,
    /// To all processes of the container, not the first alone
    #[arg(long, short)]
    all: bool,
    /// To a command that `exec` started, by its id
    #[arg(long, value_name = "EXEC")]
    exec: Option<String>,
}

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];
/// First and last real-time signal, as the kernel counts and as programs do: the C library keeps two.
const REAL_TIME: (u32, u32) = (34, 64);

/// The number of a signal: `9`, `KILL`, `SIGKILL`, `rtmin+3`.
pub fn number(text: &str) -> Result<u32> {
    if let Ok(number) = text.parse::<u32>() {
        if (1..=REAL_TIME.1).contains(&number) {
            return Ok(number);
        }
        bail!("signal {number} does not exist: 1 to {}", REAL_TIME.1);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(n, _)| *n == name) {
        return Ok(u32::try_from(*number).unwrap_or_default());
    }
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(REAL_TIME.0),
        (_, Some("")) => Some(REAL_TIME.1),
        (Some(plus), _) => plus
            .strip_prefix('+')
            .and_then(|n| n.parse::<u32>().ok())
            .and_then(|n| REAL_TIME.0.checked_add(n)),
        (_, Some(minus)) => minus
            .strip_prefix('-')
            .and_then(|n| n.parse::<u32>().ok())
            .and_then(|n| REAL_TIME.1.checked_sub(n)),
        _ => None,
    };
    match real_time {
        Some(number) if (REAL_TIME.0..=REAL_TIME.1).contains(&number) => Ok(number),
        _ => bail!("no signal is called {text:?}"),
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let signal = number(&args.signal)?;
    each(&args.ids, async |id| {
        let process = Process { container: id.to_owned(), exec: args.exec.clone().unwrap_or_default() };
        process
            .kill(&client, signal, args.all)
            .await
            .remedy_for(Code::NotFound, "it does not run: windlass ps lists what does")?;
        Ok(id.to_owned())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("rtmin+3", 37), ("RTMAX-1", 63), ("RTMIN", 34)]
        {
            assert_eq!(number(text).unwrap(), want, "{text}");
        }
        for bad in ["0", "65", "NOPE", "", "RTMIN+99", "-9", "RTMAX-99"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }
}
