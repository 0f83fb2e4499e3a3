//! What can go wrong between daemon and shim, and the class that a client sees.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use windlass_core::Class;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("task {0}: already exists")]
    Exists(String),
    #[error("task {0} not found")]
    NotFound(String),
    #[error(
        "invalid runtime name {0}, correct runtime name should be either format like `io.containerd.runc.v2` or a full \
         path to the binary"
    )]
    RuntimeName(String),
    #[error(
        "runtime {runtime:?} binary not installed {binary:?}: put it beside the daemon or into PATH, or name it by its path"
    )]
    NotInstalled { runtime: String, binary: String },
    #[error("invalid custom binary path {}", path.display())]
    BinaryPath { path: PathBuf, source: io::Error },
    #[error("shim {action}{}: {status}", said(output))]
    Exited { action: &'static str, status: ExitStatus, output: String },
    #[error("shim {action}: no answer within {limit:?}{}", said(output))]
    TimedOut { action: &'static str, limit: Duration, output: String },
    #[error("shim {action}: answer cannot be read: {answer:?}")]
    Answer { action: &'static str, answer: String },
    #[error("unsupported shim version ({0})")]
    Version(i32),
    #[error("unsupported shim address {0:?}")]
    Address(String),
    #[error("shim speaks {0:?}, which is not supported")]
    Protocol(String),
    #[error("connect to shim at {address}")]
    Connect { address: String, source: io::Error },
    /// The connection ended: the shim has gone, or is about to be found gone.
    #[error("ttrpc: closed")]
    Closed,
    /// What the shim said.
    #[error("{0}")]
    Shim(windlass_core::Error),
    #[error("{what}")]
    Context { what: String, source: Box<Error> },
    #[error("{0} was ended before it was done")]
    Cut(&'static str),
    #[cfg(feature = "failpoints")]
    #[error("failed at {0}, as asked")]
    Injected(&'static str),
}

fn said(output: &str) -> String {
    let output = output.trim();
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

impl Error {
    pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    pub fn context(self, what: impl Into<String>) -> Self {
        Self::Context { what: what.into(), source: Box::new(self) }
    }

    pub fn class(&self) -> Class {
        match self {
            // A missing file of ours is not the client's missing container.
            Self::Io { source, .. } | Self::BinaryPath { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::ResourceExhausted,
                _ => Class::Unknown,
            },
            Self::Exists(_) => Class::AlreadyExists,
            Self::NotFound(_) => Class::NotFound,
            Self::RuntimeName(_) | Self::Address(_) => Class::InvalidArgument,
            Self::NotInstalled { .. } | Self::Exited { .. } | Self::Answer { .. } => Class::Unknown,
            Self::TimedOut { .. } => Class::DeadlineExceeded,
            Self::Version(_) | Self::Protocol(_) => Class::Unimplemented,
            Self::Connect { .. } | Self::Closed => Class::Unavailable,
            Self::Shim(error) => error.class(),
            Self::Context { source, .. } => source.class(),
            Self::Cut(_) => Class::Internal,
            #[cfg(feature = "failpoints")]
            Self::Injected(_) => Class::Internal,
        }
    }

    pub fn is(&self, class: Class) -> bool {
        self.class() == class
    }

    /// Whether the connection was gone.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Context { source, .. } => source.is_closed(),
            _ => false,
        }
    }

    /// The whole chain in one line, for the log.
    pub fn chain(self) -> String {
        windlass_core::Error::from(self).chain()
    }
}

impl From<windlass_core::Error> for Error {
    fn from(error: windlass_core::Error) -> Self {
        Self::Shim(error)
    }
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let class = error.class();
        match error {
            Error::Shim(error) => error,
            Error::Context { what, source } => windlass_core::Error::from(*source).context(what),
            Error::Io { operation, path, source } => {
                windlass_core::Error::new(class, format!("{operation} {}", path.display()))
                    .with_source(source)
            }
            Error::Connect { address, source } => {
                windlass_core::Error::new(class, format!("connect to shim at {address}")).with_source(source)
            }
            Error::BinaryPath { path, source } => {
                windlass_core::Error::new(class, format!("invalid custom binary path {}", path.display()))
                    .with_source(source)
            }
            other => windlass_core::Error::new(class, other.to_string()),
        }
    }
}
