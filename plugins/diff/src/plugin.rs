//! Registers the differ as `io.containerd.differ.v1.walking`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_core::diff::Differ;
use windlass_core::kinds;
use windlass_core::platform::Platform;
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result, mount};

use crate::{Limit, Walking};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// How many times its size a layer may inflate to once it is over `inflation_free_mb`.
    max_inflation_ratio: u64,
    /// Megabytes that a layer may have whatever its ratio.
    inflation_free_mb: u64,
}

impl Default for Config {
    fn default() -> Self {
        let limit = Limit::default();
        Self { max_inflation_ratio: limit.ratio, inflation_free_mb: limit.free >> 20 }
    }
}

struct Differs;

impl Plugin for Differs {
    type Kind = kinds::Differ;
    const ID: &'static str = "walking";
    const REQUIRES: &'static [&'static str] = &[kinds::Metadata::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn Differ>> {
        let config: Config = ctx.config()?;
        // A mount that a killed daemon left behind is found there again.
        mount::set_temp_location(&ctx.state()?.join("mounts"))?;
        let content = ctx.get::<kinds::Metadata>("bolt")?.content();
        ctx.platform(Platform::host());
        let limit = Limit {
            ratio: config.max_inflation_ratio,
            free: config.inflation_free_mb.saturating_mul(1 << 20),
        };
        Ok(Arc::new(Walking::new(content, limit)))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        Config::deserialize(toml::Value::Table(config.clone()))
            .map_err(|e| Error::invalid("configuration of differ walking").with_source(e))?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> toml::Table {
        toml::Table::try_from(Config::default()).expect("the configuration is a table")
    }
}

inventory::submit! { Registration::of::<Differs>() }
