//! The part of an image's configuration that a container is made of.

use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};

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
}
