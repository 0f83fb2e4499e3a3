//! `io.windlass.metastore.v1.default`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_core::kinds::MetaStore as MetaStoreKind;
use windlass_core::registry::{InitContext, Plugin, Registration};
use windlass_core::{Error, Result};

use crate::{Choice, MetaStore, Options};

/// The plugin's configuration.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `sled` or `redb`. Records are carried over when it changes.
    pub engine: Choice,
    /// Megabytes that the engine may keep of what it has read.
    pub cache_size_mb: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { engine: Choice::default(), cache_size_mb: 8 }
    }
}

struct Engines;

impl Plugin for Engines {
    type Kind = MetaStoreKind;
    const ID: &'static str = "default";
    const VITAL: bool = true;

    fn init(ctx: &InitContext) -> Result<Arc<dyn MetaStore>> {
        let config: Config = ctx.config()?;
        let root = ctx.root()?;
        ctx.export("engine", format!("{:?}", config.engine).to_lowercase());
        ctx.export("path", root.display().to_string());
        crate::open(
            &root,
            Options { engine: config.engine, cache: (config.cache_size_mb.max(1) as usize) << 20 },
        )
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        Config::deserialize(toml::Value::Table(config.clone()))
            .map_err(|source| Error::invalid("configuration of the metadata engine").with_source(source))?;
        Ok(windlass_core::registry::unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> toml::Table {
        toml::Table::try_from(Config::default()).expect("the configuration is a table")
    }
}

inventory::submit! { Registration::of::<Engines>() }
