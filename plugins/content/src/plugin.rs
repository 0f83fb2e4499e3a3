//! Registers the store as `io.containerd.content.v1.content`.

use std::sync::Arc;

use windlass_core::registry::{InitContext, Plugin, Registration, unknown_keys};
use windlass_core::{Result, content, kinds};

use crate::Store;

struct Local;

impl Plugin for Local {
    type Kind = kinds::Content;
    const ID: &'static str = "content";

    fn init(ctx: &InitContext) -> Result<Arc<dyn content::Store>> {
        let root = ctx.root()?;
        ctx.export("root", root.to_string_lossy());
        Ok(Arc::new(Store::open(&root)?))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        Ok(unknown_keys(config, &Self::defaults()))
    }
}

inventory::submit! { Registration::of::<Local>() }
