//! What goes wrong: starting the server and asking for a URL ([`Error`], mapped to core's classes), and the ends of a
//! connection ([`Broken`], which only the log sees).

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("listen on {address} for streams: choose another stream server address or port")]
    Listen { address: String, source: io::Error },
    #[error("resolve the stream server address {address}")]
    Resolve { address: String, source: io::Error },
    #[error("the stream server address {0} names no address of this node")]
    NoAddress(String),
    #[error("read the streaming certificate {}", path.display())]
    Certificate { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("read the streaming key {}", path.display())]
    Key { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("use the streaming certificate {} with the key {}", cert.display(), key.display())]
    Tls { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("make a streaming certificate")]
    SelfMade(#[from] rcgen::Error),
    #[error("use the streaming certificate that was made")]
    SelfMadeTls { source: rustls::Error },
    #[error("{0}")]
    Invalid(&'static str),
    #[error("maximum number of in-flight requests exceeded")]
    TooMany,
    #[error("draw a random token: {0}")]
    Random(getrandom::Error),
    #[error("run a blocking task to read the streaming certificate")]
    Join(#[from] tokio::task::JoinError),
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        use windlass_core::Class;
        let class = match &error {
            Error::Listen { source, .. } | Error::Resolve { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Class::AlreadyExists,
                io::ErrorKind::PermissionDenied => Class::PermissionDenied,
                _ => Class::Unavailable,
            },
            Error::NoAddress(_) | Error::Certificate { .. } | Error::Key { .. } | Error::Tls { .. } => {
                Class::FailedPrecondition
            }
            Error::Invalid(_) => Class::InvalidArgument,
            Error::TooMany => Class::ResourceExhausted,
            Error::SelfMade(_) | Error::SelfMadeTls { .. } | Error::Random(_) | Error::Join(_) => {
                Class::Internal
            }
        };
        let message = error.to_string();
        match std::error::Error::source(&error) {
            Some(_) => Self::new(class, message).with_source(Cause(error)),
            None => Self::new(class, message),
        }
    }
}

/// The cause of an [`Error`], without the message that core's error already carries.
#[derive(Debug)]
struct Cause(Error);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&self.0) {
            Some(cause) => std::fmt::Display::fmt(cause, f),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cause {}

/// Why a connection ended before its work did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the client ended in the middle of a frame")]
    Truncated,
    #[error("the client took leave")]
    Closed,
    #[error("the client hung up with data under way")]
    HungUp,
    #[error("nothing moved for the idle time")]
    Idle,
    #[error("the server closes")]
    Stopped,
}
