//! Configuration of `io.containerd.cri.v1.images`: containerd's keys, with its defaults. What an older file calls otherwise has
//! been renamed before it comes here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::platform::Platform;
use windlass_core::registry::unknown_keys;
use windlass_core::{Error, Result, duration};

/// Where registries are configured where no place is named, for Docker's sake too.
const CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";
const SANDBOX: &str = "sandbox";
const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10.2";
/// The only key model there is: keys lie on the node.
const KEY_MODEL: &str = "node";
/// Blobs fetched at once where no number limits them.
const UNLIMITED: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagesConfig {
    pub snapshotter: String,
    /// Does not tell snapshotters which image a layer belongs to; remote ones need to know.
    pub disable_snapshot_annotations: bool,
    /// Lets the collector have layers that have been unpacked.
    pub discard_unpacked_layers: bool,
    /// Images that are never collected, by what they are for: `sandbox`.
    pub pinned_images: BTreeMap<String, String>,
    /// Snapshotters by runtime handler.
    pub runtime_platforms: BTreeMap<String, RuntimePlatform>,
    pub registry: RegistryConfig,
    pub image_decryption: Decryption,
    /// Blobs fetched at once for one image; 0 for no limit.
    pub max_concurrent_downloads: i64,
    /// Bytes per range request where one layer is fetched by several.
    pub concurrent_layer_fetch_buffer: i64,
    /// A pull that gets nothing for so long is given up, in Go's notation; `0s` for never.
    pub image_pull_progress_timeout: String,
    /// Of no effect: an image is always synced before its records are visible.
    pub image_pull_with_sync_fs: bool,
    /// Seconds that figures of snapshots are good for.
    pub stats_collect_period: i64,
    /// Of no effect: there is one way to pull, and it can do what both of containerd's can.
    pub use_local_image_pull: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimePlatform {
    pub platform: String,
    pub snapshotter: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryConfig {
    /// Directories of `hosts.toml` trees, joined by colons.
    pub config_path: String,
    /// Deprecated: `hosts.toml` is the place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrors: BTreeMap<String, Mirror>,
    /// Deprecated: image pull secrets are the place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, HostConfig>,
    /// Deprecated, like `configs`; keys may be URLs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auths: BTreeMap<String, HostAuth>,
    /// Sent to all registries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mirror {
    pub endpoint: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    pub auth: Option<HostAuth>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostAuth {
    pub username: String,
    pub password: String,
    pub auth: String,
    pub identitytoken: String,
}

impl std::fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Decryption {
    pub key_model: String,
}

impl Default for Decryption {
    fn default() -> Self {
        Self { key_model: KEY_MODEL.into() }
    }
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            snapshotter: "overlayfs".into(),
            disable_snapshot_annotations: true,
            discard_unpacked_layers: false,
            pinned_images: BTreeMap::from([(SANDBOX.to_owned(), SANDBOX_IMAGE.to_owned())]),
            runtime_platforms: BTreeMap::new(),
            registry: RegistryConfig::default(),
            image_decryption: Decryption::default(),
            max_concurrent_downloads: 3,
            concurrent_layer_fetch_buffer: 0,
            image_pull_progress_timeout: "5m0s".into(),
            image_pull_with_sync_fs: false,
            stats_collect_period: 10,
            use_local_image_pull: false,
        }
    }
}

// === impl ImagesConfig ===

impl ImagesConfig {
    /// All keys with their defaults, for a plugin's `defaults`.
    pub fn defaults() -> toml::Table {
        toml::Table::try_from(Self::default()).expect("the configuration is a table")
    }

    /// For a plugin's `check`: the unknown keys of a table; values that make no sense are *invalid argument*.
    pub fn check(table: &toml::Table) -> Result<Vec<String>> {
        let config = Self::deserialize(toml::Value::Table(table.clone()))
            .map_err(|e| Error::invalid("configuration of images").with_source(e))?;
        config.validate()?;
        let mut unknown = unknown_keys(table, &Self::defaults());
        let inner = |key: &str, known: &[&str]| -> Vec<String> {
            let inside = table.get(key).and_then(toml::Value::as_table);
            let keys = inside.into_iter().flat_map(toml::Table::keys);
            keys.filter(|k| !known.contains(&k.as_str())).map(|k| format!("{key}.{k}")).collect()
        };
        unknown.extend(inner("registry", &["config_path", "mirrors", "configs", "auths", "headers"]));
        unknown.extend(inner("image_decryption", &["key_model"]));
        Ok(unknown)
    }

    /// *Invalid argument* names the key. What is accepted without effect or is deprecated is logged.
    pub fn validate(&self) -> Result<()> {
        if self.snapshotter.is_empty() {
            return Err(Error::invalid("snapshotter must be named"));
        }
        self.progress_timeout()?;
        for (key, value) in [
            ("max_concurrent_downloads", self.max_concurrent_downloads),
            ("concurrent_layer_fetch_buffer", self.concurrent_layer_fetch_buffer),
            ("stats_collect_period", self.stats_collect_period),
        ] {
            if value < 0 {
                return Err(Error::invalid(format!("{key} = {value}: must not be negative")));
            }
        }
        if !self.registry.mirrors.is_empty() && !self.registry.config_path.is_empty() {
            return Err(Error::invalid("registry.mirrors cannot be set when registry.config_path is given"));
        }
        if !matches!(self.image_decryption.key_model.as_str(), KEY_MODEL | "") {
            return Err(Error::invalid(format!(
                "image_decryption.key_model = {:?} is not supported: use \"{KEY_MODEL}\"",
                self.image_decryption.key_model
            )));
        }
        for (handler, platform) in &self.runtime_platforms {
            if !platform.platform.is_empty() {
                Platform::parse(&platform.platform)
                    .map_err(|e| e.context(format!("runtime_platforms.{handler}")))?;
            }
        }
        Ok(())
    }

    /// Logs what is deprecated or has no effect.
    pub fn warn(&self) {
        let registry = &self.registry;
        for (key, used, instead) in [
            ("mirrors", !registry.mirrors.is_empty(), "hosts.toml files below registry.config_path"),
            ("configs", !registry.configs.is_empty(), "hosts.toml files and image pull secrets"),
            ("auths", !registry.auths.is_empty(), "image pull secrets"),
        ] {
            if used {
                tracing::warn!("registry.{key} is deprecated: use {instead}");
            }
        }
        let host = Platform::host();
        for (handler, platform) in &self.runtime_platforms {
            if Platform::parse(&platform.platform).is_ok_and(|p| !host.matches(&p)) {
                tracing::warn!(%handler, platform = %platform.platform, "runtime_platforms: images of another platform are not run, only the snapshotter counts");
            }
        }
    }

    pub fn sandbox_image(&self) -> &str {
        let configured = self.pinned_images.get(SANDBOX).filter(|name| !name.is_empty());
        configured.map_or(SANDBOX_IMAGE, String::as_str)
    }

    /// Whether an image of this full name is pinned.
    pub fn is_pinned(&self, name: &str) -> bool {
        name == self.sandbox_image() || self.pinned_images.values().any(|pinned| pinned == name)
    }

    /// The snapshotter for a runtime handler; empty for the default one.
    pub fn snapshotter_of(&self, handler: &str) -> &str {
        let own = self.runtime_platforms.get(handler).map(|p| p.snapshotter.as_str());
        own.filter(|s| !s.is_empty()).unwrap_or(&self.snapshotter)
    }

    /// `None`: pulls may take as long as they like.
    pub fn progress_timeout(&self) -> Result<Option<Duration>> {
        let text = self.image_pull_progress_timeout.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let timeout = duration::parse(text).ok_or_else(|| {
            Error::invalid(format!("image_pull_progress_timeout = {text:?} is no duration like \"5m0s\""))
        })?;
        Ok(Some(timeout).filter(|t| !t.is_zero()))
    }

    pub fn stats_period(&self) -> Duration {
        Duration::from_secs(self.stats_collect_period.unsigned_abs())
    }

    pub fn downloads(&self) -> usize {
        match usize::try_from(self.max_concurrent_downloads) {
            Ok(0) | Err(_) => UNLIMITED,
            Ok(n) => n.min(UNLIMITED),
        }
    }

    /// Where `hosts.toml` trees are; empty where mirrors take their place.
    pub fn host_dirs(&self) -> &str {
        match (self.registry.config_path.as_str(), self.registry.mirrors.is_empty()) {
            ("", true) => CONFIG_PATH,
            (path, _) => path,
        }
    }

    /// Headers for every registry.
    pub fn headers(&self) -> Vec<(String, String)> {
        let all = self.registry.headers.iter();
        all.flat_map(|(name, values)| values.iter().map(|v| (name.clone(), v.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn containerds_table_is_read() {
        let text = r#"
            snapshotter = "native"
            image_pull_progress_timeout = "1m30s"
            [pinned_images]
            base = "docker.io/library/ubuntu:latest"
            [registry.configs."reg:5000".auth]
            username = "u"
            [registry.headers]
            X-Meta = ["a", "b"]
            [runtime_platforms.kata]
            snapshotter = "devmapper"
        "#;
        assert_eq!(ImagesConfig::check(&table(text)).unwrap(), Vec::<String>::new());
        let config: ImagesConfig = toml::from_str(text).unwrap();
        assert_eq!(config.progress_timeout().unwrap(), Some(Duration::from_secs(90)));
        assert_eq!((config.snapshotter_of("kata"), config.snapshotter_of("")), ("devmapper", "native"));
        // Naming one image does not unpin the sandbox's.
        assert!(config.is_pinned("docker.io/library/ubuntu:latest") && config.is_pinned(SANDBOX_IMAGE));
        assert_eq!(config.headers().len(), 2);
        assert_eq!(config.host_dirs(), CONFIG_PATH);
    }

    #[test]
    fn the_defaults_are_known_and_valid() {
        assert_eq!(ImagesConfig::check(&ImagesConfig::defaults()).unwrap(), Vec::<String>::new());
        let unknown = ImagesConfig::check(&table("snapshoter = 'x'\n[registry]\nmirror = {}")).unwrap();
        assert_eq!(unknown, ["snapshoter", "registry.mirror"]);
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            "image_pull_progress_timeout = '5 minutes'",
            "image_pull_progress_timeout = '-1s'",
            "max_concurrent_downloads = -1",
            "snapshotter = ''",
            "image_decryption = { key_model = 'cloud' }",
            "registry = { config_path = '/x', mirrors = { a = { endpoint = ['b'] } } }",
            "runtime_platforms = { a = { platform = '/' } }",
            "stats_collect_period = 'x'",
        ] {
            assert!(ImagesConfig::check(&table(bad)).is_err(), "{bad}");
        }
    }
}
