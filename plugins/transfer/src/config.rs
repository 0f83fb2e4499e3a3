//! Configuration of `io.containerd.transfer.v1.local`: containerd's keys.

use serde::Deserialize;
use windlass_core::platform::Platform;
use windlass_core::{Error, Result};

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Blobs fetched at once by one pull.
    pub max_concurrent_downloads: usize,
    /// Bytes per range request where one layer is fetched by several; off below 512.
    pub concurrent_layer_fetch_buffer: u64,
    /// Blobs sent at once by one push.
    pub max_concurrent_uploaded_layers: usize,
    /// Layers unpacked at once by one pull; 1 unpacks one after the other, 0 as many as are fetched at once.
    pub max_concurrent_unpacks: usize,
    /// Unpack only what runs on the configured platforms, not all of their operating system.
    pub check_platform_supported: bool,
    /// What can be unpacked where. Not given: the host's platform with overlayfs.
    pub unpack_config: Option<Vec<Unpack>>,
    /// Directory of `hosts.toml` trees for transfers that name none; several joined by colons.
    pub config_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Unpack {
    pub platform: String,
    pub snapshotter: String,
    /// Id of the differ; all of them in order where it is empty.
    pub differ: String,
    /// Media type of configs that this one is for; any image config where empty.
    pub config_type: String,
    /// Media types that are layers beside the known ones.
    pub layer_types: Vec<String>,
    /// No failure where snapshotter or differ is not there.
    pub optional: bool,
}

pub const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

impl Default for Config {
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            concurrent_layer_fetch_buffer: 0,
            max_concurrent_uploaded_layers: 3,
            max_concurrent_unpacks: 0,
            check_platform_supported: false,
            unpack_config: None,
            config_path: String::new(),
        }
    }
}

/// Upper bound of every number of things done at once.
pub const MAX_CONCURRENT: usize = 64;

impl Config {
    /// *Invalid argument* for values that make no sense.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("max_concurrent_downloads", self.max_concurrent_downloads),
            ("max_concurrent_uploaded_layers", self.max_concurrent_uploaded_layers),
            ("max_concurrent_unpacks", self.max_concurrent_unpacks),
        ] {
            if value > MAX_CONCURRENT {
                return Err(Error::invalid(format!("{key} = {value}: at most {MAX_CONCURRENT}")));
            }
        }
        for unpack in self.unpack_config.iter().flatten() {
            if unpack.snapshotter.is_empty() {
                return Err(Error::invalid("unpack_config: snapshotter must be named"));
            }
            Platform::parse(&unpack.platform).map_err(|e| e.context("unpack_config"))?;
        }
        Ok(())
    }

    pub fn downloads(&self) -> usize {
        self.max_concurrent_downloads.clamp(1, MAX_CONCURRENT)
    }

    pub fn uploads(&self) -> usize {
        self.max_concurrent_uploaded_layers.clamp(1, MAX_CONCURRENT)
    }

    pub fn unpacks(&self) -> usize {
        match self.max_concurrent_unpacks {
            0 => self.downloads(),
            n => n.min(MAX_CONCURRENT),
        }
    }

    pub fn unpack(&self) -> Vec<Unpack> {
        self.unpack_config.clone().unwrap_or_else(|| {
            vec![Unpack {
                platform: Platform::host().to_string(),
                snapshotter: DEFAULT_SNAPSHOTTER.into(),
                ..Unpack::default()
            }]
        })
    }

    /// The keys, for the check of a configuration and for `config default`.
    pub fn defaults() -> toml::Table {
        let mut table = toml::Table::new();
        let config = Self::default();
        let number = |n: usize| toml::Value::Integer(i64::try_from(n).expect("a small constant"));
        table.insert("max_concurrent_downloads".into(), number(config.max_concurrent_downloads));
        table.insert("max_concurrent_uploaded_layers".into(), number(config.max_concurrent_uploaded_layers));
        table.insert("max_concurrent_unpacks".into(), number(config.max_concurrent_unpacks));
        table.insert("concurrent_layer_fetch_buffer".into(), number(0));
        table
            .insert("check_platform_supported".into(), toml::Value::Boolean(config.check_platform_supported));
        table.insert("config_path".into(), toml::Value::String(config.config_path));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_table_is_read() {
        let text = r#"
            max_concurrent_downloads = 8
            check_platform_supported = true
            [[unpack_config]]
            platform = "linux/amd64"
            snapshotter = "native"
            differ = "walking"
        "#;
        let config: Config = toml::from_str(text).unwrap();
        config.validate().unwrap();
        assert_eq!(
            (config.downloads(), config.unpacks(), config.unpack()[0].snapshotter.as_str()),
            (8, 8, "native")
        );
        assert!(toml::from_str::<Config>("max_concurrent_downloads = 1000").unwrap().validate().is_err());
        assert_eq!(Config::default().unpack()[0].snapshotter, "overlayfs");
    }
}
