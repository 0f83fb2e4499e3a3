//! Listens to what shims tell of exits: waiters need not ask again, and what a shim told before it died is not told
//! twice.

use std::sync::{Arc, Weak};

use futures::StreamExt;
use windlass_core::event::{Envelope, Event};
use windlass_core::task::Exit;

use crate::tasks::Inner;

/// Listens as long as the manager lives.
pub fn follow(manager: &Arc<Inner>) {
    let weak = Arc::downgrade(manager);
    let filters = ["topic==\"/tasks/exit\"".to_owned(), "topic==\"/tasks/delete\"".to_owned()];
    let exchange = manager.exchange.clone();
    // The first subscription stands before the first task is found.
    let mut events = exchange.subscribe(&filters);
    tokio::spawn(async move {
        loop {
            let mut stream = match events {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(error = %error.chain(), "exits cannot be followed"),
            };
            loop {
                match stream.next().await {
                    Some(Ok(envelope)) => {
                        if !note(&weak, &envelope) {
                            return;
                        }
                    }
                    // Cut off: what was missed is asked of the shims.
                    Some(Err(error)) => {
                        tracing::warn!(error = %error.chain(), "exits were missed");
                        break;
                    }
                    None => return,
                }
            }
            events = exchange.subscribe(&filters);
        }
    });
}

/// False once the manager has gone.
fn note(manager: &Weak<Inner>, envelope: &Envelope) -> bool {
    let Some(manager) = manager.upgrade() else { return false };
    let task = |id: &str| manager.tasks.get(&envelope.namespace, id).ok();
    match &envelope.event {
        Event::TaskExit { container_id, id, pid, exit_status, exited_at } => {
            if let Some(task) = task(container_id) {
                task.exited(id, Exit { pid: *pid, status: *exit_status, at: *exited_at });
            }
        }
        Event::TaskDelete { container_id, id, .. } => {
            if let Some(task) = task(container_id) {
                task.deleted(id);
            }
        }
        _ => {}
    }
    true
}
