//! Images made on the spot.

use std::io::Write;

use bytes::Bytes;
use serde_json::{Value, json};
use windlass_core::Digest;
use windlass_core::platform::Platform;
use windlass_transfer::archive::writer;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub type Blob = (Digest, Bytes);

pub fn blob(data: impl Into<Bytes>) -> Blob {
    let data = data.into();
    (Digest::of(&data), data)
}

/// A layer's tar; names that end with a slash are directories.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files {
        let directory = name.ends_with('/');
        let (mode, kind) = if directory { (0o755, b'5') } else { (0o644, b'0') };
        out.extend(writer::header(name, mode, data.len() as u64, kind));
        out.extend_from_slice(data);
        out.extend_from_slice(writer::padding(data.len() as u64));
    }
    out.extend(writer::end());
    out
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |x: &mut u64| {
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        (*x >> 32) as u8
    };
    (0..n).map(|_| next(&mut x)).collect()
}

pub fn descriptor(media_type: &str, (digest, data): &Blob) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": data.len()})
}

/// One platform's image.
#[derive(Clone)]
pub struct Made {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
    pub diff_ids: Vec<Digest>,
}

impl Made {
    pub fn chain(&self, layers: usize) -> String {
        windlass_core::snapshot::chain_id(&self.diff_ids[..layers]).unwrap().to_string()
    }

    pub fn top(&self) -> String {
        self.chain(self.diff_ids.len())
    }

    pub fn blobs(&self) -> Vec<Blob> {
        std::iter::once(&self.config).chain(&self.layers).cloned().collect()
    }
}

pub fn image(tars: &[Vec<u8>]) -> Made {
    image_for(&Platform::host(), tars)
}

pub fn image_for(platform: &Platform, tars: &[Vec<u8>]) -> Made {
    let diff_ids: Vec<Digest> = tars.iter().map(|t| Digest::of(t)).collect();
    image_with(platform, &diff_ids, tars)
}

/// An image whose config says what `diff_ids` says.
pub fn image_with(platform: &Platform, diff_ids: &[Digest], tars: &[Vec<u8>]) -> Made {
    let layers: Vec<Blob> = tars.iter().map(|t| blob(gzip(t))).collect();
    let config = json!({
        "architecture": platform.architecture, "os": platform.os, "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob(config.to_string());
    let list: Vec<Value> = layers.iter().map(|l| descriptor(GZIP, l)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": list,
    });
    Made { manifest: blob(manifest.to_string()), config, layers, diff_ids: diff_ids.to_vec() }
}

/// Three layers: a base, one that deletes and replaces, one of noise.
pub fn three() -> Made {
    image(&[
        tar(&[
            ("etc/", b""),
            ("etc/a", b"one"),
            ("etc/gone", b"x"),
            ("bin/", b""),
            ("bin/sh", &noise(50_000, 1)),
        ]),
        tar(&[("etc/", b""), ("etc/.wh.gone", b""), ("etc/a", b"two")]),
        tar(&[("data", &noise(300_000, 2))]),
    ])
}

pub fn index(entries: &[(&Made, &str)]) -> Blob {
    let list: Vec<Value> = entries
        .iter()
        .map(|(made, platform)| {
            let platform = Platform::parse(platform).unwrap();
            let mut entry = descriptor(MANIFEST, &made.manifest);
            entry["platform"] = json!({"architecture": platform.architecture, "os": platform.os});
            entry
        })
        .collect();
    blob(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list}).to_string())
}
