//! A pod is removed with everything in it. May be asked for any number of times.

use std::sync::Arc;

use windlass_api::cri;
use windlass_core::Result;

use crate::cri::Cri;
use crate::state::Sandbox;
use crate::step;

impl Cri {
    pub async fn remove_pod_sandbox(
        self: &Arc<Self>,
        request: cri::RemovePodSandboxRequest,
    ) -> Result<cri::RemovePodSandboxResponse> {
        let answer = cri::RemovePodSandboxResponse {};
        let sandbox = match self.state.sandboxes.get(&request.pod_sandbox_id) {
            Err(error) if error.is_not_found() => return Ok(answer),
            found => found?,
        };
        let cri = self.clone();
        self.finish(async move {
            let _lock = sandbox.lock.lock().await;
            let _hold = cri.hold_plugins().await;
            cri.remove_pod(&sandbox)
                .await
                .map_err(|error| error.context(format!("remove pod {}", sandbox.id)))
        })
        .await?;
        Ok(answer)
    }

    async fn remove_pod(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let there = self.state.sandboxes.get(&sandbox.id).is_ok_and(|now| Arc::ptr_eq(&now, sandbox));
        if !there {
            // Somebody else was quicker.
            return Ok(());
        }
        self.stop_pod(sandbox).await?;
        for container in self.state.containers_of(&sandbox.id) {
            crate::container::remove_stopped(self, &container).await?;
        }
        step!("pod.remove.containers");
        // Images that its containers had as volumes.
        self.images.release_volumes(&sandbox.id).await?;
        self.drop_pod(&sandbox.id).await?;
        step!("pod.remove.files");
        self.remove_pod_in_plugins(sandbox).await;
        // Last: as long as there is a record, a start finds what is left.
        self.forget_pod(&sandbox.id).await?;
        step!("pod.remove.record");
        self.tell_pod(sandbox, cri::ContainerEventType::ContainerDeletedEvent).await;
        self.state.sandboxes.remove(&sandbox.id);
        self.collect_network();
        Ok(())
    }
}
