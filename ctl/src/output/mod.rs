//! What is printed: tables, JSON and templates on standard output; errors, and what to do about them, on standard error.
//!
//! Text that came from outside goes through [`safe`]: a terminal obeys control characters.

mod format;
mod units;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

pub use format::{Format, object, rows};
pub use units::{age, bytes, duration, now, rfc3339, size};

/// Exit code where windlass itself failed and a process's own code was asked for.
pub const FAILED: u8 = 125;
/// Exit code where nobody reads a process's output any more: that of a program that SIGPIPE ended.
pub const UNREAD: u8 = 141;
/// Exit code where the command in a container cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// Exit code where the command in a container does not exist.
pub const NO_COMMAND: u8 = 127;

/// Whoever read our output has gone: nothing more to say, and no error of ours.
#[derive(Debug)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output has gone")
    }
}

impl std::error::Error for Gone {}

/// The person stopped us: no message, the code that shells give for a signal.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// An error with what the person can do about it.
#[derive(Debug)]
struct WithRemedy {
    error: anyhow::Error,
    remedy: String,
}

impl fmt::Display for WithRemedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for WithRemedy {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// An error that ends the process with a code of its own.
#[derive(Debug)]
struct WithCode {
    error: anyhow::Error,
    code: u8,
}

impl fmt::Display for WithCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for WithCode {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Says what to do about an error.
pub trait Remedy<T> {
    fn remedy(self, text: impl Into<String>) -> anyhow::Result<T>;
    /// The same, for one class of answer.
    fn remedy_for(self, code: tonic::Code, text: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Remedy<T> for Result<T, E> {
    fn remedy(self, text: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| WithRemedy { error: error.into(), remedy: text.into() }.into())
    }

    fn remedy_for(self, code: tonic::Code, text: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            match status(&error) {
                Some(status) if status.code() == code => WithRemedy { error, remedy: text.into() }.into(),
                _ => error,
            }
        })
    }
}

/// The daemon's answer in an error, if it holds one.
pub fn status(error: &anyhow::Error) -> Option<&tonic::Status> {
    if let Some(WithRemedy { error, .. }) = error.downcast_ref() {
        return status(error);
    }
    if let Some(WithCode { error, .. }) = error.downcast_ref() {
        return status(error);
    }
    error.downcast_ref().or_else(|| error.chain().find_map(|e| e.downcast_ref()))
}

/// Gives an error of running a process its exit code.
pub fn run_error(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Gone>() || error.is::<Interrupted>() || error.is::<WithCode>() {
        return error;
    }
    let text = message(&error);
    let has = |parts: &[&str]| parts.iter().any(|p| text.contains(p));
    let code = if has(&["executable file not found", "exec: no such file", "exec failed: No such file"])
        || (text.contains("exec") && has(&["no such file or directory", "No such file or directory"]))
    {
        NO_COMMAND
    } else if text.contains("exec")
        && has(&["permission denied", "Permission denied", "is a directory", "Is a directory"])
    {
        CANNOT_RUN
    } else {
        FAILED
    };
    WithCode { error, code }.into()
}

/// Prints an error; answers the exit code.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<Gone>() {
        return ExitCode::SUCCESS;
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(130);
    }
    if let Some(WithCode { error, code }) = error.downcast_ref() {
        return match fail(error) {
            code if code == ExitCode::from(130) => code,
            _ => ExitCode::from(*code),
        };
    }
    warn(&self::error(error));
    ExitCode::FAILURE
}

/// Writes a line to standard error, if somebody reads it.
pub fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "windlass: {text}");
}

/// Writes a line without our name in front to standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes to standard output. [`Gone`] where nobody reads it any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes())
}

/// Writes bytes to standard output, as they are, at once.
pub fn write(data: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(data).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Gone.into()),
        result => Ok(result?),
    }
}

/// Whether a terminal would obey the character, or show something other than what is written.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from outside without control characters: a terminal obeys those.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect()
}

/// JSON without characters that a terminal obeys. serde_json escapes those below U+0020; what is left can only stand in
/// strings.
fn safe_json(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => "\n".to_owned(),
        c if is_unsafe(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    if text.chars().any(|c| c != '\n' && is_unsafe(c)) {
        text.chars().map(escape).collect()
    } else {
        text.to_owned()
    }
}

/// JSON for people: indented, safe to show, with a line's end.
pub fn pretty(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(safe_json(&serde_json::to_string_pretty(value)?) + "\n")
}

/// JSON on one line.
pub fn compact(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(safe_json(&serde_json::to_string(value)?) + "\n")
}

fn message(error: &anyhow::Error) -> String {
    if let Some(status) = error.chain().find_map(|e| e.downcast_ref::<tonic::Status>()) {
        let mut parts: Vec<_> =
            error.chain().take_while(|e| !e.is::<tonic::Status>()).map(ToString::to_string).collect();
        parts.push(if status.message().is_empty() {
            status.code().to_string()
        } else {
            status.message().to_owned()
        });
        return parts.join(": ");
    }
    if let Some(core) = error.chain().find_map(|e| e.downcast_ref::<windlass_core::Error>()) {
        return core.chain();
    }
    format!("{error:#}")
}

/// An error with its causes and, where one is known, a remedy on a line of its own.
pub fn error(error: &anyhow::Error) -> String {
    if let Some(WithRemedy { error, remedy }) = error.downcast_ref() {
        return format!("{}\n  {}", self::error(error), safe(remedy));
    }
    if let Some(WithCode { error, .. }) = error.downcast_ref() {
        return self::error(error);
    }
    let mut text = message(error).split('\n').map(safe).collect::<Vec<_>>().join("\n");
    if let Some(status) = status(error) {
        match status.code() {
            tonic::Code::Unimplemented => text.push_str("\n  this daemon does not offer it"),
            tonic::Code::Unauthenticated => text.push_str("\n  give credentials with: windlass login HOST"),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        assert_eq!(safe("a\x1b[2J\u{9b}b\u{202e}"), "a\u{fffd}[2J\u{fffd}b\u{fffd}");
        let json = pretty(&serde_json::json!({"a": "\u{9b}2J\x1b\u{7f}"})).unwrap();
        assert!(!json.chars().any(|c| c != '\n' && is_unsafe(c)), "{json:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["a"], "\u{9b}2J\x1b\u{7f}");
    }

    #[test]
    fn errors_are_shown_with_context_and_remedy() {
        let missing = || tonic::Status::not_found("container \"x\": not found");
        let result: anyhow::Result<()> = Err(missing()).remedy_for(tonic::Code::NotFound, "look with ps");
        assert_eq!(error(&result.unwrap_err()), "container \"x\": not found\n  look with ps");
        let result: anyhow::Result<()> = Err(missing()).remedy_for(tonic::Code::Aborted, "never shown");
        let told = result.unwrap_err().context("start x");
        assert_eq!(error(&told), "start x: container \"x\": not found");
        let core = windlass_core::Error::io("open /x", std::io::Error::from_raw_os_error(2)).into();
        assert!(error(&core).starts_with("open /x: No such file"), "{}", error(&core));
    }

    #[test]
    fn errors_of_running_have_the_codes_that_shells_use() {
        let code =
            |text: &str| match run_error(tonic::Status::unknown(text).into()).downcast_ref::<WithCode>() {
                Some(error) => error.code,
                None => 0,
            };
        assert_eq!(code("runc create failed: exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(code("exec /nope: no such file or directory"), 127);
        assert_eq!(code("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(code("no space left on device"), 125);
        assert!(run_error(Interrupted.into()).is::<Interrupted>());
    }
}
