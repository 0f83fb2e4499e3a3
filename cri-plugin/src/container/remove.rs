//! A container is removed: ended first if need be; its record, then its files. Its log stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use windlass_api::cri;
use windlass_core::{Error, Result, tree};

use super::stop::stop_at_once;
use crate::cri::Cri;
use crate::state::{Container, Phase};
use crate::step;

/// Removes a container that the caller has stopped. One that is not there any more is fine.
pub async fn remove_stopped(cri: &Arc<Cri>, container: &Arc<Container>) -> Result<()> {
    cri.remove(container).await
}

impl Cri {
    pub async fn remove_container(
        self: &Arc<Self>,
        request: cri::RemoveContainerRequest,
    ) -> Result<cri::RemoveContainerResponse> {
        let answer = cri::RemoveContainerResponse {};
        let container = match self.state.containers.get(&request.container_id) {
            Err(error) if error.is_not_found() => return Ok(answer),
            found => found?,
        };
        let cri = self.clone();
        self.finish(async move {
            let _hold = cri.hold_plugins().await;
            cri.remove(&container)
                .await
                .map_err(|error| error.context(format!("remove container {}", container.id)))
        })
        .await?;
        Ok(answer)
    }

    pub(super) async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        stop_at_once(self, container).await?;
        let _guard = container.lock.lock().await;
        if self.still_there(container).is_err() {
            // Somebody else was quicker.
            return Ok(());
        }
        container.set_removing(true);
        let removed = self.remove_all(container).await;
        if removed.is_err() {
            container.set_removing(false);
        }
        removed
    }

    async fn remove_all(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.phase() == Phase::Running {
            return Err(Error::unavailable(format!(
                "container {} was started again, try again",
                container.id
            )));
        }
        step!("container.remove.begin");
        self.removed_in_plugins(container).await;
        self.clear(&container.id, &container.record.snapshotter).await?;
        step!("container.remove.cleared");
        self.state.containers.remove(&container.id);
        self.end_hung_shim(container);
        self.tell(container, cri::ContainerEventType::ContainerDeletedEvent).await;
        Ok(())
    }

    /// A shim that did not answer when its container was to end, and that nobody needs any more, would stay for ever.
    fn end_hung_shim(&self, container: &Container) {
        let Some(shim) = container.set_hung_shim(None) else { return };
        let containers = self.state.containers_of(&container.record.sandbox_id);
        if containers.iter().any(|other| other.phase() == Phase::Running) {
            return;
        }
        // One that has come to itself and has ended is no error.
        if rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::KILL).is_ok() {
            tracing::warn!(id = %container.id, "a shim that did not answer was killed");
        }
    }

    /// Deletes what there is of a container that does not run: its record first, so that nothing is left that names what
    /// is gone. All of it may be missing.
    pub(super) async fn clear(&self, id: &str, snapshotter: &str) -> Result<()> {
        absent(self.database.containers().delete(&self.cx, id).await)?;
        step!("container.remove.record");
        let snapshot = async {
            match self.database.snapshotter(snapshotter) {
                Some(snapshotter) => absent(snapshotter.remove(&self.cx, id).await),
                None => Ok(()),
            }
        };
        let (snapshot, files) = tokio::join!(snapshot, delete(vec![self.container_dir(id), self.io_dir(id)]));
        snapshot?;
        files
    }
}

fn absent(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes directories; those that are not there are fine.
pub(super) async fn delete(directories: Vec<PathBuf>) -> Result<()> {
    // Most containers have none of them: no thread for that.
    let there: Vec<_> = directories.into_iter().filter(|path| is_there(path)).collect();
    if there.is_empty() {
        return Ok(());
    }
    let work = tokio::task::spawn_blocking(move || {
        there.iter().try_for_each(|path| {
            tree::remove_path(path).map_err(|e| Error::io(format!("delete {}", path.display()), e))
        })
    });
    work.await.map_err(|e| Error::internal("deleting files ended early").with_source(e))?
}

fn is_there(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok()
}
