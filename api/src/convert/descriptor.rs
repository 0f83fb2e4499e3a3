//! `containerd.types.Descriptor`. The wire has no URLs, platform or artifact type: they are in the content.

use windlass_core::{Descriptor, Error, Result};

use crate::types;

pub fn to_wire(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone(),
    }
}

pub fn from_wire(descriptor: types::Descriptor) -> Result<Descriptor> {
    let size = u64::try_from(descriptor.size)
        .map_err(|_| Error::invalid(format!("descriptor size {} is negative", descriptor.size)))?;
    let digest = descriptor.digest.parse()?;
    Ok(Descriptor {
        annotations: descriptor.annotations,
        ..Descriptor::new(descriptor.media_type, digest, size)
    })
}

/// A descriptor that must be there; `what` names it in the error.
pub fn required(what: &str, descriptor: Option<types::Descriptor>) -> Result<Descriptor> {
    from_wire(descriptor.ok_or_else(|| Error::invalid(format!("{what} is required")))?)
}

#[cfg(test)]
mod tests {
    use windlass_core::Digest;

    use super::*;

    #[test]
    fn descriptors_come_back() {
        let mut descriptor = Descriptor::new("a/b", Digest::of(b"x"), 7);
        descriptor.annotations.insert("k".into(), "v".into());
        assert_eq!(from_wire(to_wire(&descriptor)).unwrap(), descriptor);
        let wire = to_wire(&descriptor);
        assert!(from_wire(types::Descriptor { size: -1, ..wire.clone() }).is_err());
        assert!(from_wire(types::Descriptor { digest: "sha256:../..".into(), ..wire }).is_err());
        assert!(required("target", None).is_err());
    }
}
