//! What a plugin is given when it starts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;

use super::graph::Shared;
use super::{Kind, Report};
use crate::error::{Class, Error, Result};
use crate::platform::Platform;
use crate::types::Labels;

/// What a plugin tells introspection of itself.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    pub platforms: Vec<Platform>,
    pub exports: Labels,
    pub capabilities: Vec<String>,
}

/// A plugin's view of the daemon while it starts. It may keep a clone of what it asks for, never the context.
pub struct InitContext {
    pub(super) shared: Arc<Shared>,
    pub(super) kind: &'static str,
    pub(super) id: &'static str,
    pub(super) config: toml::Table,
    pub(super) meta: Mutex<Meta>,
}

/// Marks "skip this plugin"; see [`InitContext::skip`].
#[derive(Debug)]
pub(super) struct Skip;

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("skip plugin")
    }
}

impl std::error::Error for Skip {}

impl InitContext {
    /// The plugin `id` of a kind. *Not found* where there is none or where it failed.
    pub fn get<K: Kind>(&self, id: &str) -> Result<Arc<K::Instance>> {
        self.shared.get::<K>(id)
    }

    /// The only plugin of a kind, or the first by id.
    pub fn single<K: Kind>(&self) -> Result<Arc<K::Instance>> {
        self.all::<K>()
            .into_iter()
            .next()
            .map(|(_, instance)| instance)
            .ok_or_else(|| Error::not_found(format!("no plugin of type {} has been started", K::NAME)))
    }

    /// All started plugins of a kind by id.
    pub fn all<K: Kind>(&self) -> Vec<(String, Arc<K::Instance>)> {
        self.shared.all::<K>()
    }

    /// The plugin's configuration table as `T`. Unknown keys are reported by [`super::Plugin::check`]; a wrong value is *invalid
    /// argument* with the plugin's URI.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(toml::Value::Table(self.config.clone())).map_err(|source| {
            Error::invalid(format!("configuration of plugin {}.{}", self.kind, self.id)).with_source(source)
        })
    }

    /// `<root>/<type>.<id>`: persistent, made on first use with mode 0700.
    pub fn root(&self) -> Result<PathBuf> {
        self.dir(&self.shared.options.root)
    }

    /// `<state>/<type>.<id>`: gone after a reboot, made on first use with mode 0700.
    pub fn state(&self) -> Result<PathBuf> {
        self.dir(&self.shared.options.state)
    }

    fn dir(&self, base: &Path) -> Result<PathBuf> {
        let dir = base.join(format!("{}.{}", self.kind, self.id));
        match rustix::fs::mkdir(&dir, rustix::fs::Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(dir),
            Err(errno) => Err(Error::io(format!("make plugin directory {}", dir.display()), errno.into())),
        }
    }

    /// The daemon's own options: directories and addresses.
    pub fn options(&self) -> &super::Options {
        &self.shared.options
    }

    /// The report on all plugins, complete once all have started; for introspection.
    pub fn report(&self) -> Report {
        Report::new(&self.shared)
    }

    pub fn platform(&self, platform: Platform) {
        self.with_meta(|m| m.platforms.push(platform));
    }

    pub fn capability(&self, name: impl Into<String>) {
        self.with_meta(|m| m.capabilities.push(name.into()));
    }

    pub fn export(&self, key: impl Into<String>, value: impl Into<String>) {
        self.with_meta(|m| {
            m.exports.insert(key.into(), value.into());
        });
    }

    fn with_meta(&self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta.lock().expect("no plugin panics while it tells of itself"));
    }

    /// The error that says "this plugin does not apply on this machine", with the reason.
    pub fn skip(reason: impl std::fmt::Display) -> Error {
        Error::new(Class::Unimplemented, format!("{reason}: skip plugin")).with_source(Skip)
    }
}
