//! What can go wrong between the daemon and a plugin, and the class that a caller sees.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use windlass_core::Class;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// The connection has ended, by either side.
    #[error("connection closed")]
    Closed,
    #[error("no answer within {0:?}")]
    Elapsed(Duration),
    #[error("message of {0} bytes is longer than {max} bytes", max = crate::frame::MAX_MESSAGE)]
    Oversized(usize),
    /// What came is not what the protocol says.
    #[error("protocol: {0}")]
    Protocol(String),
    /// What the plugin answered.
    #[error("{0}")]
    Answer(windlass_core::Error),
    #[error("plugin {plugin} failed {method}")]
    Plugin { plugin: String, method: &'static str, source: Box<Error> },
    #[error("plugin registered as {name:?} with index {index:?}: {reason}")]
    Name { name: String, index: String, reason: &'static str },
    #[error("plugins {plugin:?} and {other:?} both tried to set {what}")]
    Conflict { plugin: String, other: String, what: String },
    #[error("plugin {plugin:?} asked update of {container:?} during creation")]
    OwnUpdate { plugin: String, container: String },
    #[error("validator {validator:?} rejected container adjustment, reason: {reason}")]
    Rejected { validator: String, reason: String },
    #[error("adjust the spec: {0}")]
    Spec(String),
    #[error("there can be {0} plugins at most")]
    Full(usize),
    #[error("plugins are already attached to a domain")]
    Attached,
}

impl Error {
    /// Whether the connection cannot be used any more, so that the plugin is dropped.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Closed | Self::Elapsed(_) | Self::Protocol(_) => true,
            Self::Plugin { source, .. } => source.is_fatal(),
            _ => false,
        }
    }
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let class = match error {
            Error::Io { operation, path, source } => {
                return Self::io(format!("{operation} {}", path.display()), source);
            }
            Error::Answer(answer) => return answer,
            Error::Plugin { plugin, method, source } => {
                return Self::from(*source).context(format!("plugin {plugin} failed {method}"));
            }
            Error::Closed | Error::Protocol(_) => Class::Unavailable,
            Error::Elapsed(_) => Class::DeadlineExceeded,
            Error::Oversized(_) | Error::Full(_) => Class::ResourceExhausted,
            Error::Name { .. } | Error::Spec(_) => Class::InvalidArgument,
            Error::Conflict { .. } | Error::OwnUpdate { .. } | Error::Rejected { .. } | Error::Attached => {
                Class::FailedPrecondition
            }
        };
        Self::new(class, error.to_string())
    }
}
