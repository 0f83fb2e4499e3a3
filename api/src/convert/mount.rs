//! `containerd.types.Mount`.

use windlass_core::mount::Mount;

#[cfg(feature = "grpc")]
pub fn to_wire(mount: Mount) -> crate::types::Mount {
    crate::types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

#[cfg(feature = "grpc")]
pub fn from_wire(mount: crate::types::Mount) -> Mount {
    Mount { kind: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}

#[cfg(feature = "ttrpc")]
pub fn to_shim(mount: Mount) -> crate::shim::types::mount::Mount {
    crate::shim::types::mount::Mount {
        type_: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..Default::default()
    }
}

#[cfg(feature = "ttrpc")]
pub fn from_shim(mount: crate::shim::types::mount::Mount) -> Mount {
    Mount { kind: mount.type_, source: mount.source, target: mount.target, options: mount.options }
}
