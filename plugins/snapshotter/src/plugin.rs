//! Registers `io.containerd.snapshotter.v1.overlayfs` and `.native`.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_core::kinds;
use windlass_core::platform::Platform;
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::snapshot::Snapshotter;
use windlass_core::{Error, Result};

use crate::{Native, Options, Overlay};

/// Configuration of overlayfs, containerd's keys.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct OverlayConfig {
    /// Where the layers are, instead of the plugin's own directory.
    root_path: PathBuf,
    /// Shows where a snapshot's files are in a label of it.
    upperdir_label: bool,
    /// Removal waits until the files are gone.
    sync_remove: bool,
    /// Allows changing the owner of every file where the kernel cannot map ids.
    slow_chown: bool,
    /// Options for overlay mounts.
    mount_options: Vec<String>,
}

/// Configuration of native.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NativeConfig {
    /// Where the copies are, instead of the plugin's own directory.
    root_path: PathBuf,
}

struct Overlayfs;
struct Copies;

/// The configured root, or the plugin's own.
fn root(ctx: &InitContext, configured: PathBuf) -> Result<PathBuf> {
    let root = if configured.as_os_str().is_empty() { ctx.root()? } else { configured };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
    made.map_err(|e| Error::io(format!("make directory {}", root.display()), e))?;
    ctx.platform(Platform::host());
    ctx.export("root", root.to_string_lossy());
    Ok(root)
}

fn checked<T: serde::de::DeserializeOwned>(
    id: &str,
    config: &toml::Table,
    known: &toml::Table,
) -> Result<Vec<String>> {
    T::deserialize(toml::Value::Table(config.clone()))
        .map_err(|e| Error::invalid(format!("configuration of snapshotter {id}")).with_source(e))?;
    Ok(unknown_keys(config, known))
}

fn table(config: impl Serialize) -> toml::Table {
    toml::Table::try_from(config).expect("the configuration is a table")
}

impl Plugin for Overlayfs {
    type Kind = kinds::Snapshot;
    const ID: &'static str = "overlayfs";
    const REQUIRES: &'static [&'static str] = &[kinds::MetaStore::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn Snapshotter>> {
        let config: OverlayConfig = ctx.config()?;
        let store = ctx.get::<kinds::MetaStore>("default")?;
        let root = root(ctx, config.root_path)?;
        let options = Options {
            upperdir_label: config.upperdir_label,
            sync_remove: config.sync_remove,
            slow_chown: config.slow_chown,
            mount_options: config.mount_options,
        };
        let overlay = Overlay::open(&root, Self::ID, store, options)?;
        for capability in overlay.capabilities() {
            ctx.capability(capability);
        }
        Ok(Arc::new(overlay))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        checked::<OverlayConfig>(Self::ID, config, &Self::defaults())
    }

    fn defaults() -> toml::Table {
        table(OverlayConfig::default())
    }
}

impl Plugin for Copies {
    type Kind = kinds::Snapshot;
    const ID: &'static str = "native";
    const REQUIRES: &'static [&'static str] = &[kinds::MetaStore::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn Snapshotter>> {
        let config: NativeConfig = ctx.config()?;
        let store = ctx.get::<kinds::MetaStore>("default")?;
        let root = root(ctx, config.root_path)?;
        Ok(Arc::new(Native::open(&root, Self::ID, store)?))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        checked::<NativeConfig>(Self::ID, config, &Self::defaults())
    }

    fn defaults() -> toml::Table {
        table(NativeConfig::default())
    }
}

inventory::submit! { Registration::of::<Overlayfs>() }
inventory::submit! { Registration::of::<Copies>() }
