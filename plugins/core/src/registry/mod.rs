//! The plugin registry: what there is, in which order it starts, what came of it.
//!
//! A plugin is a type that implements [`Plugin`] and is submitted with
//! `inventory::submit! { Registration::of::<Overlay>() }`. The daemon collects the registrations into a
//! [`Graph`], starts them and closes them in reverse. The only downcast of the whole project is in this module.

mod context;
mod graph;

use std::any::Any;
use std::sync::Arc;

pub use context::{InitContext, Meta};
pub use graph::{Graph, Options, Outcome, Report};

use crate::error::Result;

/// A kind of plugin: containerd's type string, and the trait object that plugins of this kind provide.
pub trait Kind: 'static {
    const NAME: &'static str;
    type Instance: ?Sized + Send + Sync + 'static;
}

/// A plugin.
pub trait Plugin: 'static {
    type Kind: Kind;
    const ID: &'static str;
    /// Kinds whose plugins, all of them, start before this one. One may be missing or have failed: `get` says so.
    const REQUIRES: &'static [&'static str] = &[];

    /// Nearly everything needs it: the daemon ends if it does not start, to be started again by whoever watches over it,
    /// instead of answering that nothing is there. It may still be disabled.
    const VITAL: bool = false;

    /// Starts the plugin, on a thread that may block and inside a tokio runtime. An error made by
    /// [`InitContext::skip`] means "does not apply here" and is not a failure.
    fn init(ctx: &InitContext) -> Result<Arc<<Self::Kind as Kind>::Instance>>;

    /// Ends the plugin when the daemon ends, before those that it requires.
    fn close(_instance: &<Self::Kind as Kind>::Instance) {}

    /// Checks the plugin's configuration before anything starts; the default accepts everything.
    fn check(_config: &toml::Table) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The configuration in effect where a file says nothing, for `config default`.
    fn defaults() -> toml::Table {
        toml::Table::new()
    }
}

type Boxed = Box<dyn Any + Send + Sync>;

/// A plugin as `inventory` collects it.
pub struct Registration {
    pub kind: &'static str,
    pub id: &'static str,
    pub requires: &'static [&'static str],
    pub vital: bool,
    pub check: fn(&toml::Table) -> Result<Vec<String>>,
    pub defaults: fn() -> toml::Table,
    init: fn(&InitContext) -> Result<Boxed>,
    close: fn(&Boxed),
}

inventory::collect!(Registration);

impl Registration {
    pub const fn of<P: Plugin>() -> Self {
        Self {
            kind: <P::Kind as Kind>::NAME,
            id: P::ID,
            requires: P::REQUIRES,
            vital: P::VITAL,
            check: P::check,
            defaults: P::defaults,
            init: |ctx| P::init(ctx).map(|instance| Box::new(instance) as Boxed),
            close: |boxed| {
                if let Some(instance) = boxed.downcast_ref::<Arc<<P::Kind as Kind>::Instance>>() {
                    P::close(instance);
                }
            },
        }
    }

    /// `type.id`.
    pub fn uri(&self) -> String {
        format!("{}.{}", self.kind, self.id)
    }
}

/// The keys of `config` that `known`, a table of all keys, does not have; for [`Plugin::check`].
pub fn unknown_keys(config: &toml::Table, known: &toml::Table) -> Vec<String> {
    config.keys().filter(|key| !known.contains_key(*key)).cloned().collect()
}

fn downcast<K: Kind>(boxed: &Boxed) -> Arc<K::Instance> {
    boxed.downcast_ref::<Arc<K::Instance>>().expect("a plugin's instance has the type of its kind").clone()
}
