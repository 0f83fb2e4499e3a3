//! Registers the exchange as `io.containerd.event.v1.exchange`.

use std::sync::Arc;

use serde::Deserialize;
use toml::Table;
use windlass_core::event;
use windlass_core::kinds::Event;
use windlass_core::registry::{InitContext, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result};

use crate::exchange::{Exchange, QUEUE};

#[derive(Deserialize)]
#[serde(default)]
struct Config {
    /// Events that may wait for one subscriber before it is cut off.
    queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { queue: QUEUE }
    }
}

/// Queues may be this long at most: a hundredfold of the default.
const MAX_QUEUE: usize = 100 * QUEUE;

struct ExchangePlugin;

impl Plugin for ExchangePlugin {
    type Kind = Event;
    const ID: &'static str = "exchange";

    fn init(ctx: &InitContext) -> Result<Arc<dyn event::Exchange>> {
        let config: Config = ctx.config()?;
        checked(config.queue)?;
        Ok(Arc::new(Exchange::new(config.queue)))
    }

    fn close(instance: &dyn event::Exchange) {
        instance.close();
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        if let Some(value) = config.get("queue") {
            checked(value.as_integer().and_then(|n| usize::try_from(n).ok()).unwrap_or(0))?;
        }
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> Table {
        let queue = i64::try_from(QUEUE).expect("a small constant");
        Table::from_iter([("queue".to_owned(), toml::Value::Integer(queue))])
    }
}

fn checked(queue: usize) -> Result<()> {
    if (1..=MAX_QUEUE).contains(&queue) {
        return Ok(());
    }
    Err(Error::invalid(format!("queue must be a number from 1 to {MAX_QUEUE}")))
}

inventory::submit! { Registration::of::<ExchangePlugin>() }
