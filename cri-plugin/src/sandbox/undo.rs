//! What a pod is made of is taken down again: where making it failed, where a restart finds it half made, and where it
//! is stopped. Everything may be missing already.

use std::path::Path;

use windlass_core::{Error, Result, blocking};
use windlass_network::namespaces;

use super::files;
use crate::cri::Cri;
use crate::state::record::{SandboxPhase, SandboxRecord, SandboxStatus};

impl Cri {
    /// Undoes a pod that was never ready; answers its status where something could not be undone, so that it is kept for
    /// another try. Network plugins are not waited for: what they hold is remembered and collected later.
    pub(crate) async fn undo_pod(&self, id: &str, record: &SandboxRecord) -> Option<SandboxStatus> {
        self.dismiss_pod(id, record).await;
        let undone = async {
            self.end_pause(id, record).await?;
            if record.network
                && let Err(error) = self.disconnect_pod(id, record).await
            {
                tracing::warn!(
                    pod = %id, error = %error.chain(),
                    "network plugins do not take back what they did for a pod that could not be made; it is collected later"
                );
                self.networks.leave();
            }
            self.drop_pod(id).await?;
            self.forget_pod(id).await
        };
        let error: Error = undone.await.err()?;
        tracing::warn!(pod = %id, error = %error.chain(), "a pod that could not be made is not undone yet; it is kept as not ready");
        let status = SandboxStatus { phase: SandboxPhase::NotReady.into(), ..Default::default() };
        if let Err(error) = self.write_pod_status(id, &status).await {
            tracing::warn!(pod = %id, error = %error.chain(), "and its record does not say so");
        }
        Some(status)
    }

    /// Ends the hold on namespaces, and deletes the files.
    pub(crate) async fn drop_pod(&self, id: &str) -> Result<()> {
        namespaces::remove(&self.namespaces_dir(id)).await.map_err(Error::from)?;
        let dir = self.sandbox_dir(id);
        blocking(move || files::remove(&dir)).await
    }

    /// Ends the hold on namespaces and on shared memory; the other files stay until the pod is removed.
    pub(super) async fn release_pod(&self, id: &str) -> Result<()> {
        namespaces::remove(&self.namespaces_dir(id)).await.map_err(Error::from)?;
        let dir = self.sandbox_dir(id);
        blocking(move || files::unmount(&dir)).await
    }

    /// The network plugins take the pod's network down. Where its namespace is gone, they are told so.
    pub(super) async fn disconnect_pod(&self, id: &str, record: &SandboxRecord) -> Result<()> {
        let path = self.namespaces_dir(id).join("net");
        let held: Option<&Path> = namespaces::is_namespace(&path).then_some(path.as_path());
        self.networks.remove(&record.handler, id, held, record.config.as_ref()).await
    }
}
