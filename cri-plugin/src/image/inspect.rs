//! What an image is, read from its manifest and config. Both are hostile: their size, depth and number are bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use windlass_core::platform::Platform;
use windlass_core::{Context, Descriptor, Digest, Error, Result, content, snapshot};

/// Largest manifest, index and config, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Largest part of a config that is kept in memory, in bytes.
const MAX_CONFIG: usize = 1 << 20;
/// Indexes within indexes.
const MAX_DEPTH: usize = 8;
const MAX_LAYERS: usize = 1000;
/// Annotation of indexes and manifests: the container that a checkpoint is of (`checkpointctl`).
const CHECKPOINT: &str = "org.criu.checkpoint.container.name";

/// What is known of an image by its content alone.
#[derive(Debug)]
pub struct Facts {
    /// The digest of its config.
    pub id: Digest,
    /// Of the uppermost layer; empty where there is none.
    pub chain_id: String,
    /// Bytes of its documents and of its layers as they were sent.
    pub size: u64,
    /// The platform's manifest.
    pub manifest: Descriptor,
    pub config: Arc<RawValue>,
    pub uid: Option<i64>,
    pub username: String,
    /// It holds a checkpoint of a container: no container is run from it.
    pub checkpoint: bool,
}

/// What an image says of the process that it is for: `config` of the OCI image specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Paths of volumes.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// Docker writes null for what is empty.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let map: BTreeMap<String, IgnoredAny> = nullable(from)?;
    Ok(map.into_keys().collect())
}

/// A manifest or an index; which one is told by what is in it.
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Option<Box<RawValue>>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

async fn read<T: for<'de> Deserialize<'de>>(
    content: &dyn content::Store,
    cx: &Context,
    of: &Descriptor,
) -> Result<T> {
    let data = content::read_all(content, cx, &of.digest, MAX_DOCUMENT).await?;
    serde_json::from_slice(&data).map_err(|e| Error::invalid(format!("parse {}", of.digest)).with_source(e))
}

/// Reads the image that `target` points to, as this machine's platform runs it, and which layers it has. *Not found* where something of it is
/// not in the content store, or nothing in it is for this platform.
pub async fn inspect(
    content: &dyn content::Store,
    cx: &Context,
    target: &Descriptor,
) -> Result<(Facts, Vec<Digest>)> {
    let mut size = 0_u64;
    let mut at = target.clone();
    let mut checkpoint = false;
    for _ in 0..MAX_DEPTH {
        size = size.saturating_add(at.size);
        let document = read::<Document>(content, cx, &at).await?;
        checkpoint |= document.annotations.contains_key(CHECKPOINT);
        match document {
            Document { manifests: Some(entries), config: None, layers: None, .. } => {
                at = choose(content, cx, entries).await?.ok_or_else(|| {
                    Error::not_found(format!("{} has nothing for platform {}", at.digest, Platform::host()))
                })?;
            }
            Document { manifests: None, config: Some(config), layers, .. } => {
                let (mut facts, layers) =
                    manifest(content, cx, at, config, layers.unwrap_or_default(), size).await?;
                facts.checkpoint = checkpoint;
                return Ok((facts, layers));
            }
            _ => return Err(Error::invalid(format!("{} is neither a manifest nor an index", at.digest))),
        }
    }
    Err(Error::invalid(format!("{} nests indexes more than {MAX_DEPTH} deep", target.digest)))
}

/// The manifest that runs here best, of those that are there.
async fn choose(
    content: &dyn content::Store,
    cx: &Context,
    entries: Vec<Descriptor>,
) -> Result<Option<Descriptor>> {
    let host = Platform::host();
    let mut ranked: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| match &entry.platform {
            Some(platform) => Some((host.rank(platform)? as u64, entry)),
            None => Some((u64::MAX, entry)),
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    for (_, entry) in ranked {
        match content.info(cx, &entry.digest).await {
            Ok(_) => return Ok(Some(entry)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn manifest(
    content: &dyn content::Store,
    cx: &Context,
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<Descriptor>,
    mut size: u64,
) -> Result<(Facts, Vec<Digest>)> {
    if layers.len() > MAX_LAYERS {
        return Err(Error::invalid(format!(
            "{} has {} layers, at most {MAX_LAYERS}",
            manifest.digest,
            layers.len()
        )));
    }
    size = layers.iter().fold(size.saturating_add(config.size), |sum, layer| sum.saturating_add(layer.size));
    let image: ImageConfig = read(content, cx, &config).await?;
    let diff_ids = image.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() > MAX_LAYERS {
        return Err(Error::invalid(format!("{} has {} diff ids", config.digest, diff_ids.len())));
    }
    let raw = match image.config {
        Some(raw) if raw.get().len() > MAX_CONFIG => {
            return Err(Error::invalid(format!(
                "config {} is larger than {MAX_CONFIG} bytes",
                config.digest
            )));
        }
        Some(raw) => raw,
        None => RawValue::from_string("{}".into()).expect("an empty object is JSON"),
    };
    let parsed = parse(&raw)
        .map_err(|e| Error::invalid(format!("config {} of an image", config.digest)).with_source(e))?;
    let (uid, username) = user(&parsed.user);
    let facts = Facts {
        id: config.digest,
        chain_id: snapshot::chain_id(&diff_ids).map_or_else(String::new, String::from),
        size,
        manifest,
        config: raw.into(),
        uid,
        username,
        checkpoint: false,
    };
    Ok((facts, layers.into_iter().map(|l| l.digest).collect()))
}

/// Null stands for nothing here, too.
pub fn parse(raw: &RawValue) -> serde_json::Result<Config> {
    Ok(serde_json::from_str::<Option<Config>>(raw.get())?.unwrap_or_default())
}

/// `user[:group]` as CRI tells it: a number or a name.
fn user(user: &str) -> (Option<i64>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(user("1002"), (Some(1002), String::new()));
        assert_eq!(user("1003:1004"), (Some(1003), String::new()));
        assert_eq!(user("www-data:root"), (None, "www-data".into()));
        assert_eq!(user(""), (None, String::new()));
    }

    #[test]
    fn dockers_nulls_are_nothing() {
        let of = |text: &str| parse(&RawValue::from_string(text.into()).unwrap());
        let config =
            of(r#"{"User":"","Env":null,"Cmd":["a"],"Volumes":{"/b":{},"/a":null},"Labels":null,"X":1}"#);
        let config = config.unwrap();
        assert_eq!(
            (config.cmd, config.volumes),
            (vec!["a".to_owned()], vec!["/a".to_owned(), "/b".to_owned()])
        );
        assert_eq!(of("null").unwrap(), Config::default());
        assert_eq!(of("{}").unwrap(), Config::default());
        assert!(of(r#"{"Env":"x"}"#).is_err());
    }
}
