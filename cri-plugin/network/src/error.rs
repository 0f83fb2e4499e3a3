//! What can go wrong with a namespace or a plugin, and its class at the public edge.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use windlass_core::error::Class;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. `Display` leaves the source out; [`windlass_core::Error`] carries it on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("invalid {what} {value:?}: {why}")]
    Invalid { what: &'static str, value: String, why: &'static str },
    #[error("namespace {} already exists", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a namespace", .0.display())]
    NotNamespace(PathBuf),
    #[error("set sysctl {name}")]
    Sysctl { name: String, source: io::Error },
    /// A configuration file that cannot be used.
    #[error("failed to load CNI config {}: {why}", path.display())]
    Config { path: PathBuf, why: String },
    /// There is no network. The last words are what tools look for.
    #[error("no network config found in {}: cni plugin not initialized", .0.display())]
    NoNetwork(PathBuf),
    #[error("failed to find plugin {plugin:?} in path {dirs:?}")]
    NoPlugin { plugin: String, dirs: Vec<PathBuf> },
    /// What the plugin said went wrong, with the code of CNI's section 2.
    #[error("plugin type={plugin:?} failed ({operation}): {msg}{} (code {code})", after("; ", details))]
    Failed { plugin: String, operation: &'static str, code: u64, msg: String, details: String },
    /// It failed and said nothing that can be read.
    #[error(
        "plugin type={plugin:?} failed ({operation}) without an error message: {status}{}",
        after(": ", said)
    )]
    Died { plugin: String, operation: &'static str, status: ExitStatus, said: String },
    #[error("plugin type={plugin:?} ({operation}) printed what is not an answer: {why}: {answer:?}")]
    Garbage { plugin: String, operation: &'static str, why: String, answer: String },
    #[error("plugin type={plugin:?} ({operation}) printed more than {limit} bytes and was killed")]
    Flood { plugin: String, operation: &'static str, limit: u64 },
    #[error("plugin type={plugin:?} ({operation}) did not end within {limit:?} and was killed")]
    TimedOut { plugin: String, operation: &'static str, limit: Duration },
    #[error("plugin type={plugin:?} speaks no CNI {version}")]
    Unsupported { plugin: String, version: String },
    /// A result that is JSON but makes no sense, or that an older version of CNI has no words for.
    #[error("network {network:?}: {why}")]
    Answer { network: String, why: String },
    #[error("{0} was ended before it was done")]
    Cut(&'static str),
    /// What went wrong with a network, by its name. The cause is part of the message: it begins as tools expect it to.
    #[error("{cause}; network {network:?}")]
    On { network: String, cause: Box<Error> },
}

fn after(separator: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{separator}{text}") }
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    pub(crate) fn errno(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { operation, path, source: errno.into() }
    }

    pub(crate) fn invalid(what: &'static str, value: impl Into<String>, why: &'static str) -> Self {
        let mut value: String = value.into();
        value.truncate(value.floor_char_boundary(256));
        Self::Invalid { what, value, why }
    }

    /// The same error, of this network.
    pub(crate) fn on(self, network: &str) -> Self {
        Self::On { network: network.to_owned(), cause: Box::new(self) }
    }

    /// What went wrong, whatever network it was with.
    pub fn cause(&self) -> &Self {
        match self {
            Self::On { cause, .. } => cause.cause(),
            other => other,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::On { cause, .. } => cause.class(),
            Self::Io { source, .. } | Self::Sysctl { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::ResourceExhausted,
                _ => Class::Unknown,
            },
            Self::Invalid { .. } => Class::InvalidArgument,
            Self::Exists(_) => Class::AlreadyExists,
            Self::NotNamespace(_) => Class::FailedPrecondition,
            Self::Config { .. } | Self::NoNetwork(_) => Class::Unavailable,
            // Code 11: "try again later".
            Self::Failed { code: 11, .. } => Class::Unavailable,
            Self::NoPlugin { .. } | Self::Failed { .. } | Self::Died { .. } | Self::Garbage { .. } => {
                Class::Unknown
            }
            Self::Flood { .. } | Self::Answer { .. } => Class::Unknown,
            Self::Unsupported { .. } => Class::Unimplemented,
            Self::TimedOut { .. } => Class::DeadlineExceeded,
            Self::Cut(_) => Class::Internal,
        }
    }

    fn into_source(self) -> Option<io::Error> {
        match self {
            Self::Io { source, .. } | Self::Sysctl { source, .. } => Some(source),
            Self::On { cause, .. } => cause.into_source(),
            _ => None,
        }
    }

    /// The whole chain in one line, for the log and for a status that tools show.
    pub fn chain(&self) -> String {
        with_sources(self.to_string(), self.cause())
    }
}

/// A message, and after it those of all sources of an error.
pub(crate) fn with_sources(mut line: String, error: &dyn std::error::Error) -> String {
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let core = windlass_core::Error::new(error.class(), error.to_string());
        match error.into_source() {
            Some(source) => core.with_source(source),
            None => core,
        }
    }
}
