//! The shim's one error type, and its mapping to the classes that cross the wire.
//!
//! containerd's clients branch on the class, and its Go side cuts the class's words off the message's end, so
//! [`Error::wire`] appends them exactly as containerd's own shim does.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// gRPC status codes that the shim answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on something that has a path.
    #[error("{op} {}: {}", path.display(), describe(source))]
    Path { op: &'static str, path: PathBuf, source: io::Error },
    /// A system call on something that has none.
    #[error("{op}: {}", describe(source))]
    Sys { op: &'static str, source: io::Error },
    /// An error whose class a client may branch on.
    #[error("{message}")]
    Class { code: Code, message: String },
    /// What a runtime said.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    pub fn class(code: Code, message: impl Into<String>) -> Self {
        Error::Class { code, message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::class(Code::NotFound, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::class(Code::InvalidArgument, message)
    }

    pub fn precondition(message: impl Into<String>) -> Self {
        Self::class(Code::FailedPrecondition, message)
    }

    pub fn exists(message: impl Into<String>) -> Self {
        Self::class(Code::AlreadyExists, message)
    }

    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::class(Code::Unimplemented, message)
    }

    /// An error without a class, as Go's `errors.New` is.
    pub fn unknown(message: impl Into<String>) -> Self {
        Error::Runtime(message.into())
    }

    /// The status code and message that a client receives.
    pub fn wire(&self) -> (Code, String) {
        let message = self.to_string();
        let Error::Class { code, .. } = self else { return (Code::Unknown, message) };
        let class = match code {
            Code::InvalidArgument => "invalid argument",
            Code::DeadlineExceeded => "context deadline exceeded",
            Code::NotFound => "not found",
            Code::AlreadyExists => "already exists",
            Code::FailedPrecondition => "failed precondition",
            Code::Unimplemented => "not implemented",
            Code::ResourceExhausted => "resource exhausted",
            Code::Unknown => return (*code, message),
        };
        (*code, format!("{message}: {class}"))
    }
}

/// The kernel's words, without Rust's ` (os error N)`, in lower case as Go and runtimes write them.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// Names the operation, and the path where there is one, of an error of the system.
pub trait Context<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T>;
    fn op(self, op: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Path { op, path: path.into(), source: source.into() })
    }

    fn op(self, op: &'static str) -> Result<T> {
        self.map_err(|source| Error::Sys { op, source: source.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_ends_with_the_class() {
        assert_eq!(
            Error::not_found("container not created").wire(),
            (Code::NotFound, "container not created: not found".into())
        );
        assert_eq!(Error::unknown("cannot start").wire(), (Code::Unknown, "cannot start".into()));
    }

    #[test]
    fn system_errors_name_operation_and_path() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT)).at("open", "/x").unwrap_err();
        assert_eq!(error.to_string(), "open /x: no such file or directory");
    }
}
