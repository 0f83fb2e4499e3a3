//! A pod is stopped: its containers, its own process, its network, its namespaces. Always comes to an end, and may be
//! asked for any number of times.

use std::sync::Arc;
use std::time::SystemTime;

use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::cri::Cri;
use crate::state::Sandbox;
use crate::state::record::{SandboxPhase, nanos};
use crate::step;

/// After so many failures of the network plugins a pod is stopped without them; what they hold is collected later.
const PATIENCE: u32 = 3;

impl Cri {
    pub async fn stop_pod_sandbox(
        self: &Arc<Self>,
        request: cri::StopPodSandboxRequest,
    ) -> Result<cri::StopPodSandboxResponse> {
        let answer = cri::StopPodSandboxResponse {};
        let sandbox = match self.state.sandboxes.get(&request.pod_sandbox_id) {
            Err(error) if error.is_not_found() => return Ok(answer),
            found => found?,
        };
        let cri = self.clone();
        self.finish(async move {
            let _lock = sandbox.lock.lock().await;
            let _hold = cri.hold_plugins().await;
            cri.stop_pod(&sandbox).await.map_err(|error| error.context(format!("stop pod {}", sandbox.id)))
        })
        .await?;
        Ok(answer)
    }

    /// Stops a pod whose lock the caller holds.
    pub(super) async fn stop_pod(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        if sandbox.status().down {
            // Only what may have been made since: a container whose creation was under way.
            return self.stop_containers(sandbox).await;
        }
        let begun = std::time::Instant::now();
        self.mark_stopped(sandbox).await?;
        step!("pod.stop.marked");
        self.stop_containers(sandbox).await?;
        step!("pod.stop.containers");
        self.end_pause(&sandbox.id, &sandbox.record).await?;
        step!("pod.stop.pause");
        self.stop_pod_in_plugins(sandbox).await;
        if sandbox.record.network {
            self.disconnect_or_give_up(sandbox).await?;
        }
        step!("pod.stop.network");
        self.images.release_volumes(&sandbox.id).await?;
        self.release_pod(&sandbox.id).await?;
        step!("pod.stop.namespaces");
        self.set_pod_status(sandbox, |status| {
            status.down = true;
            status.pid = 0;
        })
        .await?;
        step!("pod.stop.down");
        tracing::info!(pod = %sandbox.id, name = %sandbox.name, elapsed = ?begun.elapsed(), "pod stopped");
        Ok(())
    }

    /// From now on no container is made in it.
    pub(super) async fn mark_stopped(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        if !sandbox.is_ready() {
            return Ok(());
        }
        self.set_pod_status(sandbox, |status| {
            status.phase = SandboxPhase::NotReady.into();
            status.exited_at = nanos(SystemTime::now());
        })
        .await?;
        self.tell_pod(sandbox, cri::ContainerEventType::ContainerStoppedEvent).await;
        Ok(())
    }

    async fn stop_containers(self: &Arc<Self>, sandbox: &Sandbox) -> Result<()> {
        let stops = self.state.containers_of(&sandbox.id).into_iter().map(|container| {
            let cri = self.clone();
            async move { crate::container::stop_at_once(&cri, &container).await }
        });
        futures::future::join_all(stops).await.into_iter().collect()
    }

    async fn disconnect_or_give_up(&self, sandbox: &Sandbox) -> Result<()> {
        let Err(error) = self.disconnect_pod(&sandbox.id, &sandbox.record).await else { return Ok(()) };
        let failures = sandbox.status().failures + 1;
        // Never set up, as far as is known: then there is nothing to lose.
        if failures < PATIENCE && !sandbox.status().network.is_empty() {
            self.set_pod_status(sandbox, |status| status.failures = failures).await?;
            return Err(Error::new(
                error.class(),
                format!("take down the network (try {failures} of {PATIENCE})"),
            )
            .with_source(error));
        }
        tracing::error!(
            pod = %sandbox.id, error = %error.chain(),
            "network plugins do not take the pod's network down; it is stopped without them, its addresses are collected later"
        );
        self.networks.leave();
        Ok(())
    }
}
