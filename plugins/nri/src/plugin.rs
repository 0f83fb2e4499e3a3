//! Registers `io.containerd.nri.v1.nri`.

use std::sync::Arc;

use serde::Deserialize;
use windlass_core::kinds;
use windlass_core::nri::Nri;
use windlass_core::registry::{InitContext, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result};

use crate::config::{Config, Limits};
use crate::host::Host;

struct NriPlugin;

impl Plugin for NriPlugin {
    type Kind = kinds::Nri;
    const ID: &'static str = "nri";

    /// Nothing is started before the owner of pods and containers attaches itself.
    fn init(ctx: &InitContext) -> Result<Arc<dyn Nri>> {
        let config: Config = ctx.config()?;
        let limits = Limits::try_from(&config)?;
        Ok(Arc::new(Host::new(config, limits)))
    }

    fn close(instance: &(dyn Nri + 'static)) {
        tokio::runtime::Handle::current().block_on(instance.shutdown());
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        let parsed = Config::deserialize(toml::Value::Table(config.clone()))
            .map_err(|source| Error::invalid("configuration of NRI").with_source(source))?;
        Limits::try_from(&parsed)?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> toml::Table {
        toml::Table::try_from(Config::default()).expect("the configuration is a table")
    }
}

inventory::submit! { Registration::of::<NriPlugin>() }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_named_and_wrong_values_refused() {
        let config: toml::Table = toml::from_str("disable = true\nsocket = \"/x\"").unwrap();
        assert_eq!(NriPlugin::check(&config).unwrap(), ["socket"]);
        assert!(NriPlugin::check(&toml::from_str("plugin_request_timeout = \"soon\"").unwrap()).is_err());
    }
}
