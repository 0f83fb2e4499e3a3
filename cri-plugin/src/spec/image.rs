//! The part of an image's configuration that a container is made of.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use windlass_api::cri;

use super::error::{Error, Result};
use super::mounts::clean;

/// An image, as a container is made of it.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// The name to be told to the runtime.
    pub name: &'a str,
    /// The image's configuration: the whole document, with its `config` section.
    pub config: &'a Value,
}

/// The `config` section. Go writes an absent list as `null`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    #[serde(deserialize_with = "null")]
    pub user: String,
    #[serde(deserialize_with = "null")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null")]
    pub working_dir: String,
    #[serde(deserialize_with = "null")]
    pub stop_signal: String,
    #[serde(deserialize_with = "null")]
    pub volumes: BTreeMap<String, Value>,
}

fn null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Image<'_> {
    pub fn config(&self) -> Result<Config> {
        match self.config.get("config") {
            None | Some(Value::Null) => Ok(Config::default()),
            Some(section) => Config::deserialize(section)
                .map_err(|e| Error::Invalid(format!("configuration of image {}: {e}", self.name))),
        }
    }

    /// The container paths of the volumes that the image defines and the request does not mount itself: absolute,
    /// without `..`, each once.
    pub fn volumes(&self, config: &cri::ContainerConfig) -> Result<Vec<String>> {
        let mounted: Vec<_> = config.mounts.iter().map(|m| clean(&m.container_path)).collect();
        let mut paths: Vec<_> = self.config()?.volumes.keys().map(|path| clean(path)).collect();
        paths.retain(|path| path != "/" && !path.contains('\0') && !mounted.contains(path));
        paths.sort();
        paths.dedup();
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_are_absent_and_wrong_types_are_errors() {
        let read = |config: Value| Image { name: "x", config: &config }.config();
        let config =
            read(json!({"config": {"Env": null, "User": null, "Cmd": ["a"], "Labels": {}}})).unwrap();
        assert!(config.env.is_empty() && config.user.is_empty() && config.cmd == ["a"]);
        assert!(read(json!({})).unwrap().cmd.is_empty());
        assert!(read(json!({"config": {"Env": "A=b"}})).is_err());
        assert!(read(json!({"config": {"User": 4294967296_u64}})).is_err());
    }

    #[test]
    fn volumes_stay_inside_and_give_way_to_mounts() {
        let config = json!({"config": {"Volumes": {
            "/data/": {}, "../../etc": {}, "rel": {}, "/a/../../b": {}, "/": {}, "/mine": {}, "/data": {}}}});
        let request = cri::ContainerConfig {
            mounts: vec![cri::Mount { container_path: "/mine/".into(), ..Default::default() }],
            ..Default::default()
        };
        let volumes = Image { name: "x", config: &config }.volumes(&request).unwrap();
        assert_eq!(volumes, ["/b", "/data", "/etc", "/rel"]);
    }
}
