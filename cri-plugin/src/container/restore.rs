//! Containers after a restart of the daemon, of their shim, or of the machine: found again by their records, with what
//! their tasks say.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use windlass_core::task::Status;
use windlass_core::{Filters, Result, container};

use super::monitor::after;
use super::plan::{KIND, KIND_CONTAINER};
use super::{now, remove};
use crate::cri::Cri;
use crate::io::ContainerIo;
use crate::state::record::{self, ContainerRecord, ContainerStatus};
use crate::state::{Container, Phase};

/// Containers that are looked into at the same time.
const PARALLEL: usize = 32;

impl Cri {
    /// Takes on all containers that there are records of, and clears away those that were never whole. The pods are known.
    /// Called once, before the first call.
    pub async fn restore_containers(self: &Arc<Self>) -> Result<()> {
        self.follow_oom()?;
        let filters = Filters::parse(&[format!("labels.\"{KIND}\"=={KIND_CONTAINER}")])?;
        let records = self.database.containers().list(&self.cx, &filters).await?;
        let tasks: Arc<HashSet<String>> = Arc::new(self.tasks.ids(&self.cx).await.into_iter().collect());
        let ids: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        futures::stream::iter(records)
            .for_each_concurrent(PARALLEL, |record| {
                let (cri, tasks) = (self.clone(), tasks.clone());
                async move {
                    let id = record.id.clone();
                    if let Err(error) = cri.restore_container(record, &tasks).await {
                        tracing::error!(%id, error = %error.chain(), "a container is not restored");
                    }
                }
            })
            .await;
        let roots = [self.container_dir(""), self.io_dir("")];
        self.work.spawn(sweep(roots.into(), ids));
        let cri = self.clone();
        self.work.spawn(async move { cri.end_unknown_tasks(&tasks).await });
        Ok(())
    }

    /// Takes down tasks that no record names, of anybody: those of containers that were removed while their shim, or the
    /// runtime, did not delete them.
    async fn end_unknown_tasks(&self, tasks: &HashSet<String>) {
        // A record comes before its task and goes after it.
        let records = match self.database.containers().list(&self.cx, &Filters::default()).await {
            Ok(records) => records,
            Err(error) => {
                return tracing::warn!(error = %error.chain(), "tasks are not compared with their records");
            }
        };
        let known: HashSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
        for id in tasks.iter().filter(|id| !known.contains(id.as_str())) {
            tracing::warn!(%id, "taking down a task whose container is gone");
            self.take_back(id).await;
        }
    }

    async fn restore_container(
        self: &Arc<Self>,
        written: container::Container,
        tasks: &HashSet<String>,
    ) -> Result<()> {
        let what = format!("container {}", written.id);
        let extension = |name| written.extensions.get(name);
        let record: ContainerRecord = record::decode(extension(record::RECORD), &what)?;
        let status: ContainerStatus = record::decode(extension(record::STATUS), &what)?;
        if record.config.is_none() {
            return Err(windlass_core::Error::data_loss(format!("{what}: the record has no configuration")));
        }
        if status.creating || (status.phase() == Phase::Created && self.lacks_snapshot(&written).await) {
            tracing::info!(id = %written.id, name = %record.name, "clearing away a container that was never whole");
            return self.clear(&written.id, &record.snapshotter).await;
        }
        let container = Arc::new(Container::new(written.id, record, status));
        let running = self.settle_container(&container, tasks.contains(&container.id)).await;
        self.state.containers.restore(container.clone());
        if running {
            self.watch(&container);
        }
        Ok(())
    }

    async fn lacks_snapshot(&self, written: &container::Container) -> bool {
        let Some(snapshotter) = self.database.snapshotter(&written.snapshotter) else { return false };
        snapshotter.stat(&self.cx, &written.snapshot_key).await.is_err_and(|error| error.is_not_found())
    }

    /// Brings a container's status in line with its task; true where its end is to be awaited.
    async fn settle_container(self: &Arc<Self>, container: &Arc<Container>, task: bool) -> bool {
        let mut status = container.status().clone();
        let phase = status.phase();
        if !task {
            if phase == Phase::Running {
                self.lost(container).await;
            }
            return false;
        }
        if phase == Phase::Exited {
            // What was left to do when its end was seen.
            let (cri, id) = (self.clone(), container.id.clone());
            self.work.spawn(async move { cri.delete_task(&id).await });
            return false;
        }
        match self.tasks.state(&self.cx, &container.id, "").await {
            Ok(state) if state.status == Status::Created => {
                // Its start was cut off: it can be started again.
                self.take_back(&container.id).await;
                if phase == Phase::Running {
                    (status.started_at, status.pid) = (0, 0);
                    self.write_end(container, &status).await;
                    container.set_status(status);
                }
                return false;
            }
            Ok(state) => {
                self.end_cut_off_checkpoint(&container.id, state.status == Status::Paused).await;
                if phase == Phase::Created {
                    // Started, and nobody could write it down any more.
                    (status.started_at, status.pid) = (now(), state.pid);
                    self.write_end(container, &status).await;
                    container.set_status(status);
                } else if status.pid != state.pid && state.pid != 0 {
                    status.pid = state.pid;
                    container.set_status(status);
                }
            }
            Err(error) if error.is_not_found() => {
                if phase == Phase::Running {
                    self.lost(container).await;
                }
                return false;
            }
            // Its shim hangs; it may come to itself.
            Err(error) => {
                tracing::warn!(id = %container.id, error = %error.chain(), "what a container does is not known yet");
                if phase == Phase::Created {
                    return false;
                }
            }
        }
        self.reattach(container).await;
        true
    }

    async fn reattach(&self, container: &Container) {
        match self.reopen_io(container).await {
            Ok(io) => drop(container.set_io(Some(io))),
            Err(error) => {
                tracing::warn!(id = %container.id, error = %error.chain(), "the output of a container is lost");
            }
        }
    }

    async fn reopen_io(&self, container: &Container) -> Result<Arc<ContainerIo>> {
        let (config, log) = (container.config(), super::start::log(container));
        ContainerIo::reattach(
            &self.io_root(),
            &container.id,
            config.tty,
            config.stdin,
            config.stdin_once,
            log,
            self.config.max_container_log_line_size,
        )
        .await
    }

    /// A container that ran, and of whose end nobody knows.
    async fn lost(&self, container: &Container) {
        let status = after(&container.status().clone(), None, false);
        // What it wrote last may still be on its way to the log.
        if let Ok(io) = self.reopen_io(container).await {
            io.close().await;
        }
        self.write_end(container, &status).await;
        container.set_status(status);
    }
}

/// Removes directories of containers that there are no records of.
async fn sweep(roots: Vec<PathBuf>, ids: HashSet<String>) {
    let mut left = Vec::new();
    for root in roots {
        let Ok(mut entries) = tokio::fs::read_dir(&root).await else { continue };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if entry.file_name().to_str().is_none_or(|name| !ids.contains(name)) {
                left.push(entry.path());
            }
        }
    }
    if let Err(error) = remove::delete(left).await {
        tracing::warn!(error = %error.chain(), "directories of containers that are gone are left over");
    }
}
