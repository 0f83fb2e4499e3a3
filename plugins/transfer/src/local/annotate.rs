//! What a snapshotter is told of the image that a layer belongs to, in containerd's labels: a remote snapshotter finds the
//! layer's content by it.

use windlass_core::Descriptor;
use windlass_core::validate::MAX_LABEL;

use super::pull::Found;
use crate::media;

const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";

/// The layers of `manifest` with these annotations added; what a label cannot hold of the list is left out.
pub fn layers(image: &str, manifest: &Found) -> Vec<Descriptor> {
    let mut layers = manifest.layers.clone();
    for (n, layer) in layers.iter_mut().enumerate() {
        if !media::is_layer(&layer.media_type) {
            continue;
        }
        let mut list = String::new();
        for above in manifest.layers[n..].iter().filter(|l| media::is_layer(&l.media_type)) {
            if LAYERS.len() + list.len() + 1 + above.digest.as_str().len() > MAX_LABEL {
                break;
            }
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(above.digest.as_str());
        }
        let own = layer.digest.to_string();
        layer.annotations.extend([
            (IMAGE.to_owned(), image.to_owned()),
            (MANIFEST.to_owned(), manifest.descriptor.digest.to_string()),
            (LAYER.to_owned(), own),
            (LAYERS.to_owned(), list),
        ]);
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::Digest;

    #[test]
    fn layers_name_those_above_them_as_far_as_a_label_holds() {
        let descriptor = |n: usize, kind: &str| Descriptor::new(kind, Digest::of(&n.to_be_bytes()), 1);
        let found = Found {
            descriptor: descriptor(1000, "m"),
            config: descriptor(1001, "c"),
            layers: (0..100).map(|n| descriptor(n, media::DOCKER_LAYER_GZIP)).collect(),
            whole: true,
        };
        let layers = layers("reg/a:1", &found);
        let last = &layers[99].annotations;
        assert_eq!(last[IMAGE], "reg/a:1");
        assert_eq!(last[MANIFEST], found.descriptor.digest.as_str());
        assert_eq!((&last[LAYER], &last[LAYERS]), (&last[LAYERS], &found.layers[99].digest.to_string()));
        let first = &layers[0].annotations[LAYERS];
        assert!(first.len() + LAYERS.len() <= MAX_LABEL && first.contains(','), "{}", first.len());
    }
}
