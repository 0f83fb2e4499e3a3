//! What goes wrong on the way to a registry, and its class.

use std::time::Duration;

use windlass_core::Class;

/// Longest text of a registry's answer that becomes part of a message, in bytes.
const MAX_DETAIL: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to {host}")]
    Connect { host: String, source: std::io::Error },
    #[error("TLS handshake with {host}")]
    Tls { host: String, source: std::io::Error },
    #[error("{what} of {host} took longer than {limit:?}")]
    Timeout { what: &'static str, host: String, limit: Duration },
    #[error("request to {url}")]
    Http { url: String, source: hyper::Error },
    #[error("the body of {url} ended after {got} of {want} bytes")]
    Truncated { url: String, got: u64, want: u64 },
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status { method: http::Method, url: String, status: http::StatusCode, detail: String },
    #[error(
        "{url} answered with a web page ({content_type}) instead of an image: it is no registry, or a login or proxy \
         page stands in the way"
    )]
    WebPage { url: String, content_type: String },
    #[error("{host}: authorization failed: {why}")]
    Unauthorized { host: String, why: String },
    #[error("{url}: {why}")]
    Answer { url: String, why: String },
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0}")]
    Config(String),
    #[error("{}", .0.message())]
    Core(#[source] windlass_core::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Timeout { .. } | Self::Http { .. } | Self::Truncated { .. } => true,
            Self::Tls { source, .. } => source.kind() == std::io::ErrorKind::UnexpectedEof,
            Self::Status { status, .. } => retried(*status),
            _ => false,
        }
    }

    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) => true,
            Self::Status { status, .. } => *status == http::StatusCode::NOT_FOUND,
            Self::Core(e) => e.is_not_found(),
            _ => false,
        }
    }

    fn class(&self) -> Class {
        use http::StatusCode as S;
        match self {
            Self::Connect { .. } | Self::Http { .. } | Self::Truncated { .. } => Class::Unavailable,
            Self::Timeout { .. } => Class::DeadlineExceeded,
            Self::Status { status, .. } => match *status {
                S::NOT_FOUND => Class::NotFound,
                S::UNAUTHORIZED => Class::Unauthenticated,
                S::FORBIDDEN => Class::PermissionDenied,
                s if retried(s) => Class::Unavailable,
                _ => Class::Unknown,
            },
            Self::NotFound(_) => Class::NotFound,
            Self::Unauthorized { .. } => Class::Unauthenticated,
            Self::Tls { .. } | Self::WebPage { .. } | Self::Answer { .. } => Class::Unknown,
            Self::Config(_) => Class::InvalidArgument,
            Self::Core(e) => e.class(),
        }
    }
}

/// Status codes after which the same request may succeed.
pub fn retried(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// What a registry says of a failure: `: CODE: message` of the specification's error document, else its text.
pub fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Document>(body) {
        Ok(document) => {
            let lines: Vec<String> = document
                .errors
                .iter()
                .take(8)
                .map(|e| format!("{}: {}", e.code.to_lowercase(), e.message))
                .collect();
            lines.join("; ")
        }
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

impl From<windlass_core::Error> for Error {
    fn from(error: windlass_core::Error) -> Self {
        Self::Core(error)
    }
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            error => {
                let made = Self::new(error.class(), error.to_string());
                match error {
                    Error::Connect { source, .. } | Error::Tls { source, .. } => made.with_source(source),
                    Error::Http { source, .. } => made.with_source(source),
                    _ => made,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_errors_are_read_and_bounded() {
        let json = br#"{"errors":[{"code":"DENIED","message":"go away"}]}"#;
        assert_eq!(detail(json), ": denied: go away");
        assert_eq!(detail(b"<html>login</html>"), "");
        assert!(detail("é".repeat(10_000).as_bytes()).chars().count() <= MAX_DETAIL + 2);
        assert_eq!(detail(b"a\r\nb"), ": ab");
    }
}
