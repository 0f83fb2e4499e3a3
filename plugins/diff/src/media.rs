//! Media types of layers, and what they say of compression.

use windlass_core::{Error, Result};

/// The uncompressed layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Label of compressed content: digest of the uncompressed tar.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Whether to look for a compression in a layer's first bytes. Which one is told by those bytes alone: registries hold
/// layers whose media type is wrong about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Detect,
}

/// *Unimplemented* for what is no layer, or one that is wrapped (encrypted) in a way that is not known here.
pub fn compression(media_type: &str) -> Result<Compression> {
    let (base, extension) = media_type.split_once('+').unwrap_or((media_type, ""));
    match (base, extension) {
        (
            "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "",
        ) => Ok(Compression::Detect),
        (LAYER | "application/vnd.oci.image.layer.nondistributable.v1.tar", "") => Ok(Compression::None),
        (LAYER | "application/vnd.oci.image.layer.nondistributable.v1.tar", "gzip" | "zstd") => {
            Ok(Compression::Detect)
        }
        _ => Err(Error::unimplemented(format!("unsupported layer media type {media_type:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_known_and_wrapped_ones_refused() {
        assert_eq!(compression(LAYER).unwrap(), Compression::None);
        for packed in [LAYER_GZIP, LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.gzip"] {
            assert_eq!(compression(packed).unwrap(), Compression::Detect);
        }
        for other in ["", "application/json", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"] {
            assert!(compression(other).unwrap_err().is(windlass_core::Class::Unimplemented), "{other}");
        }
    }
}
