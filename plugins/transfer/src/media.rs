//! Media types of the OCI image specification 1.1 and of Docker's schema 2, and what follows from them.

use windlass_core::Descriptor;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";
const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
const CHECKPOINT_CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Annotation: full name of an image in an index of an archive.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation: tag of an image in an index (OCI).
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";
pub const LABEL_SOURCE: &str = "containerd.io/distribution.source";
pub const LABEL_REF_CONTENT: &str = "containerd.io/gc.ref.content";
pub const LABEL_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot";

pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MANIFEST | DOCKER_MANIFEST)
}

pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_INDEX)
}

/// A config that a container runs from.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, CONFIG | DOCKER_CONFIG)
}

fn is_known_config(media_type: &str) -> bool {
    is_config(media_type) || matches!(media_type, CHECKPOINT | CHECKPOINT_CONFIG)
}

pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    media_type.starts_with("application/vnd.oci.image.layer.")
        || matches!(
            base,
            DOCKER_LAYER
                | DOCKER_LAYER_GZIP
                | DOCKER_LAYER_ZSTD
                | DOCKER_FOREIGN
                | DOCKER_FOREIGN_GZIP
                | EROFS_LAYER
        )
}

pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The name of a descriptor's ingest, the same for every client; also its name in progress lines.
pub fn ref_key(descriptor: &Descriptor) -> String {
    let media_type = descriptor.media_type.as_str();
    let prefix = if is_manifest(media_type) {
        "manifest"
    } else if is_index(media_type) {
        "index"
    } else if is_layer(media_type) {
        "layer"
    } else if is_known_config(media_type) {
        "config"
    } else if media_type == IN_TOTO {
        "attestation"
    } else {
        "unknown"
    };
    match descriptor.annotations.get(ANNOTATION_REF_NAME) {
        Some(name) => format!("{prefix}-{name}@{}", descriptor.digest),
        None => format!("{prefix}-{}", descriptor.digest),
    }
}

/// Labels by which a parent keeps its children from collection: `containerd.io/gc.ref.content.l.0` and so on.
pub fn child_labels(children: &[Descriptor]) -> windlass_core::Labels {
    let mut count = std::collections::HashMap::<&str, usize>::new();
    let mut labels = windlass_core::Labels::new();
    for child in children {
        let media_type = child.media_type.as_str();
        let kind = if is_known_config(media_type) {
            "config"
        } else if is_manifest(media_type) {
            "m."
        } else if is_layer(media_type) {
            "l."
        } else {
            ""
        };
        let n = count.entry(kind).or_default();
        let number = if *n > 0 || kind != "config" { n.to_string() } else { String::new() };
        labels.insert(format!("{LABEL_REF_CONTENT}.{kind}{number}"), child.digest.to_string());
        *n += 1;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::Digest;

    #[test]
    fn children_are_labelled_as_containerds_are() {
        let d = |media_type: &str, n: u8| Descriptor::new(media_type, Digest::of(&[n]), 1);
        let labels = child_labels(&[
            d(CONFIG, 0),
            d("application/vnd.oci.image.layer.v1.tar+gzip", 1),
            d(DOCKER_LAYER_GZIP, 2),
            d(MANIFEST, 3),
            d(INDEX, 4),
            d("x/y", 5),
        ]);
        let keys: Vec<_> =
            labels.keys().map(|k| k.trim_start_matches("containerd.io/gc.ref.content.")).collect();
        assert_eq!(keys, ["0", "1", "config", "l.0", "l.1", "m.0"]);
    }

    #[test]
    fn ref_keys_name_the_kind() {
        let digest = Digest::of(b"");
        let mut d = Descriptor::new(DOCKER_INDEX, digest.clone(), 0);
        assert_eq!(ref_key(&d), format!("index-{digest}"));
        d.annotations.insert(ANNOTATION_REF_NAME.into(), "latest".into());
        assert_eq!(ref_key(&d), format!("index-latest@{digest}"));
        assert!(is_layer("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted"));
    }
}
