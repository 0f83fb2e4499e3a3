//! What configuration says about specifications: the runtime section, and the table of one handler.

use std::sync::Arc;

use serde_json::Value;

use crate::classes::Classes;
use crate::config::{Config, Handler, Runtime};

/// Configuration for the pods of one runtime handler. The default is that of the default configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub config: Arc<Config>,
    /// The handler's own table.
    pub runtime: Runtime,
    /// What its `base_runtime_spec` names, read.
    pub base_runtime_spec: Option<Value>,
    pub classes: Arc<Classes>,
}

impl Settings {
    /// Control groups are made by systemd.
    pub fn systemd_cgroup(&self) -> bool {
        Handler { name: "", config: &self.runtime }.systemd_cgroup()
    }

    /// The default with changes.
    #[cfg(test)]
    pub fn with(change: impl FnOnce(&mut Config, &mut Runtime)) -> Self {
        let mut settings = Self::default();
        change(Arc::make_mut(&mut settings.config), &mut settings.runtime);
        settings
    }
}
