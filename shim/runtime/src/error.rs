//! The one error type of this crate. `Display` never prints the source; [`Error::report`] gives the whole chain.

use crate::cgroup::BusError;
use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an error, for a caller that maps it to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Unimplemented,
    DeadlineExceeded,
    PermissionDenied,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on something that has a name.
    #[error("{op} {}", path.display())]
    Path {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A system call on something that has none.
    #[error("{op}")]
    Sys {
        op: &'static str,
        #[source]
        source: io::Error,
    },
    /// A mount that the kernel explains.
    #[error("mount {} ({message})", path.display())]
    Mount {
        path: PathBuf,
        message: String,
        #[source]
        source: io::Error,
    },
    /// The kernel refused a value for a control file.
    #[error("write {value:?} to {}", path.display())]
    Control {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    /// systemd could not be asked, or did not do it.
    #[error("systemd cgroup driver: {op} {unit}")]
    Systemd {
        op: &'static str,
        unit: String,
        #[source]
        source: Box<BusError>,
    },
    /// The configuration is wrong.
    #[error("invalid configuration: {0}")]
    Spec(String),
    /// The configuration asks for what this kernel, machine or runtime cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The program cannot be run.
    #[error("{message}")]
    Program { message: String, errno: i32 },
    /// The process could not be brought up to its program; said by the child.
    #[error("unable to start container process: {message}")]
    Init { message: String, errno: Option<i32> },
    /// The operation does not fit the state of the container.
    #[error("{0}")]
    State(String),
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("container with given ID already exists: {0}")]
    AlreadyExists(String),
    /// The process has ended.
    #[error("process already finished")]
    Finished,
    #[error("{0} did not happen in time")]
    Timeout(String),
    #[error("hook {path}: {message}")]
    Hook { path: String, message: String },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Spec(_) => ErrorKind::InvalidArgument,
            Error::Unsupported(_) => ErrorKind::Unimplemented,
            Error::State(_) => ErrorKind::FailedPrecondition,
            Error::NotFound(_) | Error::Finished => ErrorKind::NotFound,
            Error::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Error::Timeout(_) => ErrorKind::DeadlineExceeded,
            Error::Systemd { source, .. } if matches!(**source, BusError::Timeout(_)) => {
                ErrorKind::DeadlineExceeded
            }
            Error::Path { source, .. } | Error::Sys { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                ErrorKind::PermissionDenied
            }
            _ => ErrorKind::Internal,
        }
    }

    /// The kernel's number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Path { source, .. }
            | Error::Sys { source, .. }
            | Error::Control { source, .. }
            | Error::Mount { source, .. } => source.raw_os_error(),
            Error::Program { errno, .. } => Some(*errno),
            Error::Init { errno, .. } => *errno,
            _ => None,
        }
    }

    /// The message with its causes, joined by `: `.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&describe(error));
            cause = error.source();
        }
        text
    }
}

/// The kernel's errors in the words that people search for, without Rust's ` (os error N)`.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// Names the operation and the path of an `io::Error`.
pub(crate) trait Context<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T>;
    fn op(self, op: &'static str) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Path { op, path: path.into(), source })
    }

    fn op(self, op: &'static str) -> Result<T> {
        self.map_err(|source| Error::Sys { op, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_joins_causes() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT)).at("open", "/x").unwrap_err();
        assert_eq!(error.to_string(), "open /x");
        assert_eq!(error.report(), "open /x: no such file or directory");
    }
}
