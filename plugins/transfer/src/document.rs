//! Manifests, indexes and image configs, parsed out of bytes that nobody vouches for.
//!
//! A document that is a manifest and an index at once, or another than its descriptor says, is refused: two readers
//! would see two images.

use serde::{Deserialize, Deserializer};
use windlass_core::platform::Platform;
use windlass_core::{Descriptor, Digest, Error, Labels, Result};

use crate::media;

/// Largest manifest, index or config that is read into memory, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most entries of one index, and layers of one manifest.
const MAX_CHILDREN: usize = 10_000;

/// What is below a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Descriptor>),
    Manifest(Box<Manifest>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Everything below, in the order in which it is labelled.
    pub fn children(&self) -> Vec<Descriptor> {
        match self {
            Self::Index(manifests) => manifests.clone(),
            Self::Manifest(m) => std::iter::once(&m.config).chain(&m.layers).cloned().collect(),
        }
    }

    /// Parses what `descriptor` points to, which must be of a manifest's or an index's type.
    pub fn parse(descriptor: &Descriptor, data: &[u8]) -> Result<Self> {
        let digest = &descriptor.digest;
        let bad = |why: String| Error::invalid(format!("invalid document {digest}: {why}"));
        let wire: Wire = serde_json::from_slice(data).map_err(|e| bad(e.to_string()))?;
        let said = wire.media_type.as_deref().unwrap_or_default();
        if wire.fs_layers.is_some() || said == media::DOCKER_SCHEMA1 {
            return Err(bad(
                "Docker schema 1 is not supported: push the image again with a newer tool".into()
            ));
        }
        let index = media::is_index(&descriptor.media_type);
        if index && (wire.config.is_some() || wire.layers.is_some() || media::is_manifest(said)) {
            return Err(bad(format!(
                "media-type: expected index but found manifest ({})",
                descriptor.media_type
            )));
        }
        if !index && (wire.manifests.is_some() || media::is_index(said)) {
            return Err(bad(format!(
                "media-type: expected manifest but found index ({})",
                descriptor.media_type
            )));
        }
        let list = |of: Option<Vec<WireDescriptor>>| -> Result<Vec<Descriptor>> {
            let of = of.unwrap_or_default();
            if of.len() > MAX_CHILDREN {
                return Err(bad(format!("{} entries, at most {MAX_CHILDREN} are read", of.len())));
            }
            Ok(of.into_iter().map(Descriptor::from).collect())
        };
        if index {
            return Ok(Self::Index(list(wire.manifests)?));
        }
        let config = wire.config.ok_or_else(|| bad("a manifest without a config".into()))?.into();
        Ok(Self::Manifest(Box::new(Manifest { config, layers: list(wire.layers)? })))
    }
}

/// What of an image config matters for unpacking.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    pub platform: Platform,
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Config {
    pub fn parse(digest: &Digest, data: &[u8]) -> Result<Self> {
        serde_json::from_slice(data)
            .map_err(|source| Error::invalid(format!("unmarshal image config {digest}")).with_source(source))
    }
}

/// Go writes `null` for empty lists and maps.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// There at all: a field may be any JSON and is only noticed.
#[derive(Deserialize)]
struct There(#[allow(dead_code)] serde::de::IgnoredAny);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: Option<String>,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
    fs_layers: Option<There>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, deserialize_with = "or_default")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: Labels,
    platform: Option<Platform>,
    artifact_type: Option<String>,
}

impl From<WireDescriptor> for Descriptor {
    fn from(w: WireDescriptor) -> Self {
        Self {
            media_type: w.media_type,
            digest: w.digest,
            size: w.size,
            urls: w.urls,
            annotations: w.annotations,
            platform: w.platform,
            artifact_type: w.artifact_type,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(media_type: &str, json: &str) -> Result<Document> {
        Document::parse(&Descriptor::new(media_type, Digest::of(b""), 1), json.as_bytes())
    }

    #[test]
    fn a_document_is_one_thing() {
        let d = format!(
            r#"{{"mediaType":"{}","digest":"{}","size":2,"urls":null,"annotations":null}}"#,
            media::CONFIG,
            Digest::of(b"{}")
        );
        let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":null}}"#);
        let Document::Manifest(m) = parse(media::MANIFEST, &manifest).unwrap() else { panic!() };
        assert_eq!((m.config.size, m.layers.len()), (2, 0));
        let index = format!(r#"{{"manifests":[{d}]}}"#);
        assert_eq!(parse(media::INDEX, &index).unwrap().children().len(), 1);
        for (media_type, json) in [
            (media::MANIFEST, index.clone()),
            (media::INDEX, manifest),
            (media::INDEX, format!(r#"{{"manifests":[{d}],"layers":[]}}"#)),
            (media::MANIFEST, format!(r#"{{"config":{d},"manifests":[]}}"#)),
            (media::MANIFEST, format!(r#"{{"config":{d},"fsLayers":[]}}"#)),
            (media::MANIFEST, format!(r#"{{"config":{d},"config":{d}}}"#)),
            (media::MANIFEST, format!(r#"{{"config":{d},"mediaType":"{}"}}"#, media::INDEX)),
            (media::MANIFEST, "{}".into()),
            (media::MANIFEST, "<html>".into()),
            (media::MANIFEST, r#"{"config":{"digest":"sha256:../../x","size":1}}"#.into()),
            (media::MANIFEST, d.replace(":2,", ":-2,")),
        ] {
            assert!(parse(media_type, &json).is_err(), "{json}");
        }
    }

    #[test]
    fn configs_may_leave_things_out() {
        let digest = Digest::of(b"");
        let c = Config::parse(&digest, br#"{"architecture":"arm64","os":"linux","variant":"v8","rootfs":{"type":"layers","diff_ids":null}}"#).unwrap();
        assert_eq!(c.platform.to_string(), "linux/arm64/v8");
        assert!(Config::parse(&digest, b"{}").unwrap().rootfs.diff_ids.is_empty());
        assert!(Config::parse(&digest, b"[]").is_err());
    }
}
