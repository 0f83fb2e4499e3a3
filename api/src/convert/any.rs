//! `google.protobuf.Any` with containerd's type URLs: the full name of the message, no host before it.

use windlass_core::Any;
#[cfg(feature = "grpc")]
use windlass_core::{Error, Result};

/// The name behind a type URL. Go's own URLs have a host before a slash (`type.googleapis.com/…`), containerd's not;
/// the slashes in the names of types that are not protobuf stay.
pub fn name(type_url: &str) -> &str {
    match type_url.split_once('/') {
        Some((host, name)) if host.ends_with(".googleapis.com") => name,
        _ => type_url,
    }
}

#[cfg(feature = "grpc")]
pub fn to_wire(any: Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url, value: any.value.into() }
}

#[cfg(feature = "grpc")]
pub fn from_wire(any: prost_types::Any) -> Any {
    Any { type_url: any.type_url, value: any.value.into() }
}

#[cfg(feature = "ttrpc")]
pub fn to_shim(any: Any) -> protobuf::well_known_types::any::Any {
    protobuf::well_known_types::any::Any {
        type_url: any.type_url,
        value: any.value.into(),
        ..Default::default()
    }
}

#[cfg(feature = "ttrpc")]
pub fn from_shim(any: protobuf::well_known_types::any::Any) -> Any {
    Any { type_url: any.type_url, value: any.value.into() }
}

/// Wraps a message under its full name.
#[cfg(feature = "grpc")]
pub fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec().into() }
}

/// Whether `any` holds an `M`.
#[cfg(feature = "grpc")]
pub fn is<M: prost::Name>(any: &Any) -> bool {
    name(&any.type_url) == M::full_name()
}

/// Unwraps a message; *invalid argument* where `any` holds something else or does not parse.
#[cfg(feature = "grpc")]
pub fn unpack<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M> {
    if !is::<M>(any) {
        return Err(Error::invalid(format!("type {:?} where {} is expected", any.type_url, M::full_name())));
    }
    M::decode(any.value.clone())
        .map_err(|source| Error::invalid(format!("decode {}", M::full_name())).with_source(source))
}

#[cfg(all(test, feature = "grpc"))]
mod tests {
    use super::*;
    use crate::events::{TaskExit, TaskOom};

    #[test]
    fn type_urls_are_containerds() {
        let any = pack(&TaskOom { container_id: "a".into() });
        assert_eq!(any.type_url, "containerd.events.TaskOOM");
        assert_eq!(unpack::<TaskOom>(&any).unwrap().container_id, "a");
        assert!(unpack::<TaskExit>(&any).is_err());
        let googles = Any { type_url: "type.googleapis.com/containerd.events.TaskOOM".into(), ..any };
        assert!(is::<TaskOom>(&googles));
        let spec = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
        assert_eq!(name(spec), spec);
        let broken = Any { value: bytes::Bytes::from_static(&[0xff]), ..googles };
        assert!(unpack::<TaskOom>(&broken).is_err());
    }
}
