//! The one error of every public edge: a closed class that clients branch on, and a message for the person.

use std::fmt;

/// Result with core's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The sixteen classes. Each maps one to one to a gRPC status code; clients branch on the class, so it is contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Canceled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// An error with its class. `Display` prints the message alone; the cause is reached through `source()` and printed
/// once, where the error is logged, or joined to the message by [`Error::chain`] where it goes to a client.
#[derive(Debug)]
pub struct Error {
    class: Class,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! classes {
    ($($name:ident => $class:ident),* $(,)?) => { $(
        #[doc = concat!("An error of class [`Class::", stringify!($class), "`].")]
        pub fn $name(message: impl Into<String>) -> Self { Self::new(Class::$class, message) }
    )* };
}

impl Error {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    classes! {
        canceled => Canceled, unknown => Unknown, invalid => InvalidArgument, deadline => DeadlineExceeded,
        not_found => NotFound, exists => AlreadyExists, denied => PermissionDenied,
        exhausted => ResourceExhausted, precondition => FailedPrecondition, aborted => Aborted,
        out_of_range => OutOfRange, unimplemented => Unimplemented, internal => Internal,
        unavailable => Unavailable, data_loss => DataLoss, unauthenticated => Unauthenticated,
    }

    /// The same error with its cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class of an operating system error, with what was done to what: `open /x`.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let class = match source.kind() {
            K::NotFound => Class::NotFound,
            K::AlreadyExists => Class::AlreadyExists,
            K::PermissionDenied => Class::PermissionDenied,
            K::StorageFull | K::QuotaExceeded | K::OutOfMemory => Class::ResourceExhausted,
            K::TimedOut => Class::DeadlineExceeded,
            K::InvalidInput => Class::InvalidArgument,
            _ => Class::Unknown,
        };
        Self::new(class, what).with_source(source)
    }

    pub fn class(&self) -> Class {
        self.class
    }

    pub fn is(&self, class: Class) -> bool {
        self.class == class
    }

    pub fn is_not_found(&self) -> bool {
        self.is(Class::NotFound)
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same class and cause under a message that says more.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Message and causes in one line, as it is logged or sent.
    pub fn chain(&self) -> String {
        let mut line = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_joins_message_and_causes() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::io("open /x", cause).context("read blob");
        assert_eq!(error.class(), Class::NotFound);
        assert_eq!(error.to_string(), "read blob: open /x");
        assert!(error.chain().starts_with("read blob: open /x: "));
    }
}
