//! The end of a container: awaited, written down, told of; its task deleted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use windlass_api::cri;
use windlass_core::Result;
use windlass_core::event::{Envelope, Event};
use windlass_core::task::Exit;

use super::{KILLED, UNKNOWN, now, reason};
use crate::cri::{Cri, NAMESPACE};
use crate::state::record::{ContainerStatus, nanos};
use crate::state::{Container, Phase};
use crate::step;

/// Pause before the end is asked for again, where asking failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How long figures may take that say whether memory ran out.
const FIGURES: Duration = Duration::from_secs(2);
/// How long output may last after the container: what it left behind is killed with its task.
const OUTPUT: Duration = Duration::from_secs(5);
/// Longest wait for the deletion of a task whose container has ended; it goes on by itself.
const DELETION: Duration = Duration::from_secs(15);

impl Cri {
    /// Awaits the end of a container that has a task, in a task of its own.
    pub(super) fn watch(self: &Arc<Self>, container: &Arc<Container>) {
        let (cri, container) = (Arc::downgrade(self), container.clone());
        let (tasks, cx) = (self.tasks.clone(), self.cx.clone());
        tokio::spawn(async move {
            let exit = loop {
                match tasks.wait(&cx, &container.id, "").await {
                    Ok(exit) => break Some(exit),
                    Err(error) if error.is_not_found() => break None,
                    Err(error) => {
                        tracing::warn!(id = %container.id, error = %error.chain(), "cannot wait for the container's end");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            let Some(cri) = cri.upgrade() else { return };
            // Tracked, so that a stop of the daemon lets it be written down.
            let ended = cri.clone();
            let work = cri.work.track_future(async move { ended.ended(&container, exit).await });
            drop(cri);
            work.await;
        });
    }

    /// Writes down how a container ended, lets it be seen, and deletes its task.
    async fn ended(self: &Arc<Self>, container: &Arc<Container>, exit: Option<Exit>) {
        let _guard = container.lock.lock().await;
        if container.phase() != Phase::Running {
            // Given up on before, and now its shim has come to itself.
            self.delete_task(&container.id).await;
            return;
        }
        if exit.is_some_and(|exit| i32::try_from(exit.status) == Ok(KILLED)) && !container.is_oom() {
            self.look_for_oom(container).await;
        }
        let status = after(&container.status().clone(), exit, container.is_oom());
        let io = container.set_io(None);
        // Output that is still under way reaches the log before anybody hears of the end.
        let drained = async {
            if let Some(io) = &io
                && !io.wait(OUTPUT).await
            {
                io.close().await;
            }
        };
        // Not before it is written down: with its task the shim forgets how the container ended.
        let written = async {
            self.write_end_at_last(container, &status).await.then(|| self.spawn_deletion(&container.id))
        };
        let ((), deletion) = tokio::join!(drained, written);
        container.set_status(status);
        self.stopped_in_plugins(container).await;
        self.tell(container, cri::ContainerEventType::ContainerStoppedEvent).await;
        if let Some(deletion) = deletion {
            let _ = tokio::time::timeout(DELETION, deletion).await;
        }
    }

    /// Writes an end down; false where that fails. Then it is gone on with behind the caller, who holds the container's lock
    /// and lets the status be seen.
    pub(super) async fn write_end_at_last(
        self: &Arc<Self>,
        container: &Arc<Container>,
        status: &ContainerStatus,
    ) -> bool {
        let written = self.write_end(container, status).await;
        if !written {
            self.write_end_later(container);
        }
        written
    }

    /// Goes on to write an end down; only then is its task deleted. Its shim knows how the container ended as long as it is
    /// there, and after a restart it is asked.
    fn write_end_later(self: &Arc<Self>, container: &Arc<Container>) {
        let (cri, container) = (Arc::downgrade(self), container.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                let Some(cri) = cri.upgrade() else { return };
                let _guard = container.lock.lock().await;
                if cri.still_there(&container).is_err() {
                    return;
                }
                let status = container.status().clone();
                if cri.write_status(&container, &status).await.is_ok() {
                    tracing::info!(id = %container.id, "the container's end is written down now");
                    cri.delete_task(&container.id).await;
                    return;
                }
            }
        });
    }

    /// Writes an end down; false where that fails. It must be seen even then.
    pub(super) async fn write_end(&self, container: &Container, status: &ContainerStatus) -> bool {
        let written: Result<()> = async {
            step!("container.exit.begin");
            self.write_status(container, status).await?;
            step!("container.exit.written");
            Ok(())
        }
        .await;
        match written {
            Err(error) if !error.is_not_found() => {
                tracing::error!(id = %container.id, error = %error.chain(), "the container's end is not written down");
                false
            }
            _ => true,
        }
    }

    /// Whether the kernel has killed for want of memory, by the control group's own count: the event may be late.
    async fn look_for_oom(&self, container: &Container) {
        let figures = tokio::time::timeout(FIGURES, self.tasks.metrics(&self.cx, &container.id)).await;
        let Ok(Ok(windlass_core::task::Metrics { data: Some(data), .. })) = figures else { return };
        if oom_kills(&data) > 0 {
            container.set_oom();
        }
    }

    /// Deletes a task, ended or not there.
    pub(super) async fn delete_task(&self, id: &str) {
        match tokio::time::timeout(DELETION, self.spawn_deletion(id)).await {
            Ok(_) => {}
            Err(_) => tracing::warn!(id, "the deletion of a task takes long"),
        }
    }

    fn spawn_deletion(&self, id: &str) -> impl Future<Output = ()> + use<> {
        let (tasks, cx, id) = (self.tasks.clone(), self.cx.clone(), id.to_owned());
        let deletion = self.work.spawn(async move {
            match tasks.delete(&cx, &id, "").await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(%id, error = %error.chain(), "the task of an ended container is not deleted");
                }
                _ => {}
            }
        });
        async move {
            let _ = deletion.await;
        }
    }

    /// Takes note of containers that ran out of memory, as long as the daemon runs.
    pub(crate) fn follow_oom(self: &Arc<Self>) -> Result<()> {
        let filters = [format!("topic==\"/tasks/oom\",namespace=={NAMESPACE}")];
        let (weak, exchange) = (Arc::downgrade(self), self.exchange.clone());
        let mut events = exchange.subscribe(&filters)?;
        tokio::spawn(async move {
            loop {
                while let Some(Ok(envelope)) = events.next().await {
                    let Some(cri) = weak.upgrade() else { return };
                    cri.note_oom(&envelope);
                }
                if weak.strong_count() == 0 {
                    return;
                }
                // Cut off: what was missed is found in the control group's count.
                match exchange.subscribe(&filters) {
                    Ok(stream) => events = stream,
                    Err(_) => return,
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Ok(())
    }

    fn note_oom(&self, envelope: &Envelope) {
        let Event::TaskOom { container_id } = &envelope.event else { return };
        if let Ok(container) = self.state.containers.get(container_id)
            && container.id == *container_id
        {
            container.set_oom();
        }
    }
}

/// The status of a container that has ended; without an exit, nobody saw how.
pub(super) fn after(running: &ContainerStatus, exit: Option<Exit>, oom: bool) -> ContainerStatus {
    let mut status = running.clone();
    status.pid = 0;
    match exit {
        Some(exit) => {
            status.finished_at = nanos(exit.at).max(1);
            status.exit_code = i32::try_from(exit.status).unwrap_or(UNKNOWN);
            status.reason = match (oom, status.exit_code) {
                (true, _) => reason::OOM,
                (false, 0) => reason::COMPLETED,
                (false, _) => reason::ERROR,
            }
            .to_owned();
        }
        None => {
            status.finished_at = now();
            status.exit_code = UNKNOWN;
            status.reason = reason::UNKNOWN.to_owned();
        }
    }
    status
}

/// Kills for want of memory, by what a task's figures say.
fn oom_kills(data: &windlass_core::Any) -> u64 {
    use windlass_api::convert::any;
    if let Ok(v2) = any::unpack::<windlass_api::cgroups_v2::Metrics>(data) {
        return v2.memory_events.map_or(0, |events| events.oom_kill);
    }
    if let Ok(v1) = any::unpack::<windlass_api::cgroups_v1::Metrics>(data) {
        return v1.memory_oom_control.map_or(0, |control| control.oom_kill);
    }
    0
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn exit(status: u32) -> Option<Exit> {
        Some(Exit { pid: 7, status, at: SystemTime::now() })
    }

    #[test]
    fn ends_have_codes_and_reasons() {
        let running = ContainerStatus { started_at: 5, pid: 7, ..Default::default() };
        for (exit, oom, code, reason) in [
            (exit(0), false, 0, "Completed"),
            (exit(3), false, 3, "Error"),
            (exit(137), true, 137, "OOMKilled"),
            (None, false, 255, "Unknown"),
        ] {
            let status = after(&running, exit, oom);
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
            assert_eq!((status.phase(), status.pid, status.started_at), (Phase::Exited, 0, 5));
        }
    }
}
