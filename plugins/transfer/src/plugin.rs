//! Registers the transferrer as `io.containerd.transfer.v1.local` and the streaming manager as
//! `io.containerd.streaming.v1.manager`.

use std::sync::Arc;

use serde::Deserialize;
use toml::Table;
use windlass_core::diff::Differ;
use windlass_core::platform::Platform;
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result, kinds, stream, transfer};

use crate::config::{Config, Unpack};
use crate::local::{Local, Parts, Unpacker, recover};
use crate::streaming::Manager;

/// The differ that is used where several are there.
const DEFAULT_DIFFER: &str = "walking";

struct LocalPlugin;

impl Plugin for LocalPlugin {
    type Kind = kinds::Transfer;
    const ID: &'static str = "local";
    const REQUIRES: &'static [&'static str] =
        &[kinds::Lease::NAME, kinds::Metadata::NAME, kinds::Differ::NAME, kinds::Snapshot::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn transfer::Transferrer>> {
        let config: Config = ctx.config()?;
        config.validate()?;
        let database = ctx.single::<kinds::Metadata>()?;
        let mut differs = ctx.all::<kinds::Differ>();
        differs.sort_by_key(|(id, _)| id != DEFAULT_DIFFER);
        let mut unpackers = Vec::new();
        for unpack in config.unpack() {
            let snapshotter = database.snapshotter(&unpack.snapshotter);
            let of_it: Vec<Arc<dyn Differ>> = differs
                .iter()
                .filter(|(id, _)| unpack.differ.is_empty() || *id == unpack.differ)
                .map(|(_, differ)| differ.clone())
                .collect();
            match (snapshotter, of_it.is_empty()) {
                (Some(snapshotter), false) => {
                    unpackers.push(Arc::new(unpacker(&config, unpack, snapshotter, of_it)?));
                }
                // Nothing configured: an image is pulled even where it cannot be unpacked here.
                _ if unpack.optional || config.unpack_config.is_none() => {
                    tracing::debug!(snapshotter = %unpack.snapshotter, "nothing to unpack into");
                }
                (None, _) => {
                    return Err(Error::not_found(format!("snapshotter {:?} not found", unpack.snapshotter)));
                }
                (_, true) => return Err(Error::not_found(format!("differ {:?} not found", unpack.differ))),
            }
        }
        tokio::spawn(recover::clean(database.clone()));
        let parts = Parts {
            content: database.content(),
            images: database.images(),
            leases: database.leases(),
            unpackers,
            differs: differs.into_iter().map(|(_, differ)| differ).collect(),
            snapshotters: Box::new(move |id| database.snapshotter(id)),
        };
        Ok(Arc::new(Local::new(parts, config)))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed = Config::deserialize(toml::Value::Table(config.clone()))
            .map_err(|e| Error::invalid("transfer configuration").with_source(e))?;
        parsed.validate()?;
        let mut known = Config::defaults();
        known.insert("unpack_config".into(), toml::Value::Array(Vec::new()));
        Ok(unknown_keys(config, &known))
    }

    fn defaults() -> Table {
        Config::defaults()
    }
}

fn unpacker(
    config: &Config,
    unpack: Unpack,
    snapshotter: windlass_core::snapshot::Shared,
    differs: Vec<Arc<dyn Differ>>,
) -> Result<Unpacker> {
    Ok(Unpacker {
        platform: Platform::parse(&unpack.platform)?,
        only_os: !config.check_platform_supported,
        config_type: unpack.config_type,
        layer_types: unpack.layer_types,
        id: unpack.snapshotter,
        snapshotter,
        differs,
    })
}

inventory::submit! { Registration::of::<LocalPlugin>() }

struct StreamingPlugin;

impl Plugin for StreamingPlugin {
    type Kind = kinds::Streaming;
    const ID: &'static str = "manager";

    fn init(_: &InitContext) -> Result<Arc<dyn stream::Manager>> {
        Ok(Arc::new(Manager::default()))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        Ok(unknown_keys(config, &Table::new()))
    }
}

inventory::submit! { Registration::of::<StreamingPlugin>() }
