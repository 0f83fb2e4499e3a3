//! What `start` is told on standard input, and every form of answer that shims have given.

use std::path::Path;

use protobuf::{EnumOrUnknown, Message, MessageField};
use serde::{Deserialize, Serialize};
use windlass_api::convert::any;
use windlass_api::shim::bootstrap::{BootstrapParams, BootstrapResult, Extension, LogLevel};
use windlass_core::Any;

use crate::config::Settings;
use crate::error::{Error, Result};

/// The newest task API that we speak.
const NEWEST: i32 = 3;
/// containerd's version that this daemon is compatible with; shims choose by it.
const CONTAINERD_VERSION: &str = "2.3.4";

/// Where a shim listens and what it speaks. Kept in the bundle as `bootstrap.json`, in containerd's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub version: i32,
    pub address: String,
    pub protocol: String,
}

impl Endpoint {
    /// Reads an answer to `start`, or `bootstrap.json`: protobuf, then JSON, then a bare address.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        if let Ok(result) = BootstrapResult::parse_from_bytes(answer)
            && !result.address.is_empty()
        {
            return Self { version: result.version, address: result.address, protocol: result.protocol }
                .checked();
        }
        let text = String::from_utf8_lossy(answer);
        let text = text.trim();
        match serde_json::from_str::<Self>(text) {
            Ok(endpoint) if endpoint.version >= 2 => endpoint.checked(),
            _ => Self { version: 2, address: text.to_owned(), protocol: "ttrpc".into() }.checked(),
        }
    }

    /// An address as sandbox controllers give it: `ttrpc+unix:///run/x`.
    pub fn of_sandbox(address: &str) -> Result<Self> {
        let (protocol, address) =
            address.split_once('+').ok_or_else(|| Error::Address(address.to_owned()))?;
        Self { version: NEWEST, address: address.to_owned(), protocol: protocol.to_owned() }.checked()
    }

    fn checked(self) -> Result<Self> {
        let sane = !self.address.is_empty()
            && self.address.len() <= 512
            && self
                .address
                .chars()
                .all(|c| !c.is_control() && !c.is_whitespace() && c != char::REPLACEMENT_CHARACTER);
        if !sane {
            let answer: String = self.address.chars().take(256).collect();
            return Err(Error::Answer { action: "start", answer });
        }
        if self.version > NEWEST {
            return Err(Error::Version(self.version));
        }
        if !self.protocol.eq_ignore_ascii_case("ttrpc") {
            return Err(Error::Protocol(self.protocol));
        }
        Ok(self)
    }

    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("three plain fields")
    }
}

/// What `start` reads on standard input.
pub fn params(settings: &Settings, namespace: &str, id: &str, options: Option<&Any>) -> Vec<u8> {
    let mut params = BootstrapParams::new();
    params.instance_id = id.to_owned();
    params.namespace = namespace.to_owned();
    params.log_level = EnumOrUnknown::new(log_level());
    params.containerd_version = CONTAINERD_VERSION.to_owned();
    params.containerd_grpc_address = settings.grpc_address.clone();
    params.containerd_ttrpc_address = settings.ttrpc_address.clone();
    params.containerd_binary = settings.executable.to_string_lossy().into_owned();
    if settings.socket_dir != Path::new("") {
        params.socket_dir = Some(settings.socket_dir.to_string_lossy().into_owned());
    }
    if let Some(options) = options {
        let mut extension = Extension::new();
        extension.value = MessageField::some(any::to_shim(options.clone()));
        params.extensions.push(extension);
    }
    params.write_to_bytes().expect("a message in memory can be written")
}

fn log_level() -> LogLevel {
    use tracing::level_filters::LevelFilter;
    match LevelFilter::current() {
        LevelFilter::TRACE => LogLevel::LOG_LEVEL_TRACE,
        LevelFilter::DEBUG => LogLevel::LOG_LEVEL_DEBUG,
        LevelFilter::WARN => LogLevel::LOG_LEVEL_WARN,
        LevelFilter::ERROR | LevelFilter::OFF => LogLevel::LOG_LEVEL_ERROR,
        _ => LogLevel::LOG_LEVEL_INFO,
    }
}

/// Whether shims are to log for debugging.
pub fn debug() -> bool {
    tracing::level_filters::LevelFilter::current() >= tracing::level_filters::LevelFilter::DEBUG
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttrpc(version: i32, address: &str) -> Endpoint {
        Endpoint { version, address: address.into(), protocol: "ttrpc".into() }
    }

    #[test]
    fn every_form_of_answer() {
        let mut result = BootstrapResult::new();
        (result.version, result.address, result.protocol) = (3, "unix:///s/a".into(), "ttrpc".into());
        assert_eq!(Endpoint::parse(&result.write_to_bytes().unwrap()).unwrap(), ttrpc(3, "unix:///s/a"));
        let json = br#"{"version":3,"address":"unix:///s/a","protocol":"ttrpc"}"#;
        assert_eq!(Endpoint::parse(json).unwrap(), ttrpc(3, "unix:///s/a"));
        assert_eq!(Endpoint::parse(b"unix:///s/a\n").unwrap(), ttrpc(2, "unix:///s/a"));
        assert_eq!(Endpoint::parse(b"/containerd-shim/x.sock").unwrap(), ttrpc(2, "/containerd-shim/x.sock"));
        let again = Endpoint::parse(&ttrpc(3, "unix:///s/a").json()).unwrap();
        assert_eq!(again, ttrpc(3, "unix:///s/a"));
    }

    #[test]
    fn answers_that_lie_are_refused() {
        for bad in [&b""[..], b"\n", b"two words", b"\xff\xfe\x00", &[b'a'; 4096]] {
            assert!(Endpoint::parse(bad).is_err(), "{bad:?}");
        }
        let newer = br#"{"version":4,"address":"unix:///s","protocol":"ttrpc"}"#;
        assert!(matches!(Endpoint::parse(newer), Err(Error::Version(4))));
        let other = br#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#;
        assert!(matches!(Endpoint::parse(other), Err(Error::Protocol(_))));
    }

    #[test]
    fn sandboxes_say_their_protocol() {
        assert_eq!(Endpoint::of_sandbox("ttrpc+unix:///s/a").unwrap(), ttrpc(3, "unix:///s/a"));
        assert!(Endpoint::of_sandbox("unix:///s/a").is_err());
    }

    #[test]
    fn params_hold_what_a_shim_needs() {
        let settings =
            Settings { ttrpc_address: "/d.ttrpc".into(), socket_dir: "/s".into(), ..Settings::default() };
        let options = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![1, 2].into() };
        let params =
            BootstrapParams::parse_from_bytes(&params(&settings, "ns", "a", Some(&options))).unwrap();
        assert_eq!((params.instance_id.as_str(), params.namespace.as_str()), ("a", "ns"));
        assert_eq!(
            (params.containerd_ttrpc_address.as_str(), params.socket_dir.as_deref()),
            ("/d.ttrpc", Some("/s"))
        );
        assert_eq!(params.extensions[0].value.type_url, "containerd.runc.v1.Options");
    }
}
