//! `io.containerd.metadata.v1.bolt`, by the id that clients know, and `io.containerd.lease.v1.manager`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::kinds::{self, Metadata as MetadataKind};
use windlass_core::lease;
use windlass_core::metadata::Database as Contract;
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result};

use crate::{Database, Options, Policy};

/// The plugin's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `shared`: whoever knows a digest has the content; `isolated`: only who has sent it.
    pub content_sharing_policy: Policy,
    /// containerd's; records here are always synced.
    pub no_sync: bool,
    /// Seconds that a collection waits for one snapshotter or the content store.
    pub sweep_timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { content_sharing_policy: Policy::Shared, no_sync: false, sweep_timeout: 600 }
    }
}

struct Bolt;

impl Plugin for Bolt {
    type Kind = MetadataKind;
    const ID: &'static str = "bolt";
    const VITAL: bool = true;
    const REQUIRES: &'static [&'static str] =
        &[kinds::Content::NAME, kinds::Event::NAME, kinds::Snapshot::NAME, kinds::MetaStore::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn Contract>> {
        let config: Config = ctx.config()?;
        if config.no_sync {
            tracing::warn!("no_sync of the metadata plugin has no effect: commits are always synced");
        }
        ctx.export("policy", format!("{:?}", config.content_sharing_policy).to_lowercase());
        let database = Database::open(Options {
            store: ctx.single::<kinds::MetaStore>()?,
            content: ctx.single::<kinds::Content>()?,
            snapshotters: ctx.all::<kinds::Snapshot>().into_iter().collect(),
            events: Some(ctx.single::<kinds::Event>()?),
            policy: config.content_sharing_policy,
            sweep_limit: Duration::from_secs(config.sweep_timeout.max(1)),
        })?;
        Ok(Arc::new(database))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        Config::deserialize(toml::Value::Table(config.clone()))
            .map_err(|source| Error::invalid("configuration of the metadata database").with_source(source))?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> toml::Table {
        toml::Table::try_from(Config::default()).expect("the configuration is a table")
    }
}

struct Leases;

impl Plugin for Leases {
    type Kind = kinds::Lease;
    const ID: &'static str = "manager";
    const REQUIRES: &'static [&'static str] = &[MetadataKind::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn lease::Manager>> {
        Ok(ctx.single::<MetadataKind>()?.leases())
    }
}

inventory::submit! { Registration::of::<Bolt>() }
inventory::submit! { Registration::of::<Leases>() }
