//! The one mapping between core's error classes and what goes over the wire.
//!
//! A class is a gRPC code, one to one; ttrpc uses the same numbers. The text that is sent is the whole chain of causes
//! in one line: clients print it as it is.

use windlass_core::{Class, Error};

/// Longest message that is sent, in bytes. A gRPC message is a header, and clients bound those.
pub const MAX_TEXT: usize = 8 << 10;

/// The code of a class, as gRPC and ttrpc number it.
pub fn code(class: Class) -> i32 {
    match class {
        Class::Canceled => 1,
        Class::Unknown => 2,
        Class::InvalidArgument => 3,
        Class::DeadlineExceeded => 4,
        Class::NotFound => 5,
        Class::AlreadyExists => 6,
        Class::PermissionDenied => 7,
        Class::ResourceExhausted => 8,
        Class::FailedPrecondition => 9,
        Class::Aborted => 10,
        Class::OutOfRange => 11,
        Class::Unimplemented => 12,
        Class::Internal => 13,
        Class::Unavailable => 14,
        Class::DataLoss => 15,
        Class::Unauthenticated => 16,
    }
}

/// The class of a code. OK is no error: where it stands in an error's place, and for numbers that nobody has
/// defined, the class is unknown.
pub fn class(code: i32) -> Class {
    match code {
        1 => Class::Canceled,
        3 => Class::InvalidArgument,
        4 => Class::DeadlineExceeded,
        5 => Class::NotFound,
        6 => Class::AlreadyExists,
        7 => Class::PermissionDenied,
        8 => Class::ResourceExhausted,
        9 => Class::FailedPrecondition,
        10 => Class::Aborted,
        11 => Class::OutOfRange,
        12 => Class::Unimplemented,
        13 => Class::Internal,
        14 => Class::Unavailable,
        15 => Class::DataLoss,
        16 => Class::Unauthenticated,
        _ => Class::Unknown,
    }
}

/// What a client reads: the message and its causes, a cause that the line already ends with left out, cut at
/// [`MAX_TEXT`].
pub fn text(error: &Error) -> String {
    let mut line = error.message().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !said.is_empty() && !line.ends_with(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        cause = error.source();
    }
    if line.len() > MAX_TEXT {
        let mut end = MAX_TEXT - '…'.len_utf8();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The gRPC status of an error.
#[cfg(feature = "grpc")]
pub fn grpc(error: impl Into<Error>) -> tonic::Status {
    let error = error.into();
    tonic::Status::new(tonic::Code::from_i32(code(error.class())), text(&error))
}

/// The error behind a gRPC status. A status that the transport made (no connection, deadline) has the class that its
/// code says.
#[cfg(feature = "grpc")]
pub fn from_grpc(status: tonic::Status) -> Error {
    Error::new(class(status.code().into()), status.message())
}

/// The ttrpc error of an error; what a ttrpc method returns.
#[cfg(feature = "ttrpc")]
pub fn ttrpc(error: impl Into<Error>) -> ::ttrpc::Error {
    use protobuf::Enum;
    let error = error.into();
    let code = ::ttrpc::Code::from_i32(code(error.class())).unwrap_or(::ttrpc::Code::UNKNOWN);
    ::ttrpc::Error::RpcStatus(::ttrpc::get_status(code, text(&error)))
}

/// The error behind a failed ttrpc call. A peer that has gone is unavailable: whether its task has gone too is for the
/// caller to find out.
#[cfg(feature = "ttrpc")]
pub fn from_ttrpc(error: ::ttrpc::Error) -> Error {
    use ::ttrpc::Error as E;
    match error {
        E::RpcStatus(status) if unknown_to_rust(&status) => Error::unimplemented(status.message),
        E::RpcStatus(status) => Error::new(class(status.code.value()), status.message),
        E::Socket(_) | E::LocalClosed | E::RemoteClosed | E::Eof => {
            Error::unavailable(format!("ttrpc: closed: {error}"))
        }
        E::Nix(errno) => Error::io("ttrpc", std::io::Error::from_raw_os_error(errno as i32)),
        // The crate has no variant for an elapsed deadline.
        E::Others(ref said) if said.contains("deadline elapsed") => Error::deadline(said.clone()),
        E::Others(said) => Error::unknown(said),
    }
}

/// Whether a server written with the Rust crate says that it does not have the service or method: it has codes of its own
/// for what Go's servers answer with UNIMPLEMENTED.
#[cfg(feature = "ttrpc")]
fn unknown_to_rust(status: &::ttrpc::Status) -> bool {
    let said = &status.message;
    match class(status.code.value()) {
        Class::InvalidArgument => said.ends_with(" service does not exist"),
        Class::NotFound => said.starts_with('/') && said.ends_with(" is not supported"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Class; 16] = [
        Class::Canceled,
        Class::Unknown,
        Class::InvalidArgument,
        Class::DeadlineExceeded,
        Class::NotFound,
        Class::AlreadyExists,
        Class::PermissionDenied,
        Class::ResourceExhausted,
        Class::FailedPrecondition,
        Class::Aborted,
        Class::OutOfRange,
        Class::Unimplemented,
        Class::Internal,
        Class::Unavailable,
        Class::DataLoss,
        Class::Unauthenticated,
    ];

    #[test]
    fn every_class_has_its_code_and_comes_back() {
        let codes: std::collections::BTreeSet<_> = ALL.iter().map(|c| code(*c)).collect();
        assert_eq!(codes, (1..=16).collect());
        for want in ALL {
            assert_eq!(class(code(want)), want);
        }
        for odd in [0, -1, 17, i32::MAX] {
            assert_eq!(class(odd), Class::Unknown);
        }
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn errors_survive_grpc() {
        let named = [
            (Class::NotFound, tonic::Code::NotFound),
            (Class::AlreadyExists, tonic::Code::AlreadyExists),
            (Class::Canceled, tonic::Code::Cancelled),
            (Class::Unimplemented, tonic::Code::Unimplemented),
            (Class::Unauthenticated, tonic::Code::Unauthenticated),
        ];
        for (class, code) in named {
            assert_eq!(grpc(Error::new(class, "x")).code(), code);
        }
        for class in ALL {
            let status = grpc(Error::new(class, "container \"a\": gone"));
            assert_eq!(status.message(), "container \"a\": gone");
            let back = from_grpc(status);
            assert_eq!((back.class(), back.message()), (class, "container \"a\": gone"));
            // Passing an error on does not make it longer.
            assert_eq!(grpc(back).message(), "container \"a\": gone");
        }
    }

    #[cfg(feature = "ttrpc")]
    #[test]
    fn errors_survive_ttrpc() {
        for class in ALL {
            let sent = ttrpc(Error::new(class, "task a"));
            let ::ttrpc::Error::RpcStatus(status) = &sent else { panic!("{sent:?}") };
            assert_eq!((status.code.value(), status.message.as_str()), (code(class), "task a"));
            let back = from_ttrpc(sent);
            assert_eq!((back.class(), back.message()), (class, "task a"));
        }
        assert_eq!(from_ttrpc(::ttrpc::Error::RemoteClosed).class(), Class::Unavailable);
        assert_eq!(
            from_ttrpc(::ttrpc::Error::Others("Request deadline elapsed".into())).class(),
            Class::DeadlineExceeded
        );
    }

    #[test]
    fn text_has_every_cause_once_and_an_end() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::internal("write blob: disk on fire").with_source(cause);
        assert_eq!(text(&error), "write blob: disk on fire");
        let error = Error::internal("write blob").with_source(std::io::Error::other("disk on fire"));
        assert_eq!(text(&error), "write blob: disk on fire");
        let long = text(&Error::internal("ä".repeat(MAX_TEXT)));
        assert!(long.len() <= MAX_TEXT && long.ends_with('…'));
    }
}
