//! Pods after a restart of the daemon or of the machine: what was never whole is cleared away, what runs is taken on, what
//! is gone is told so.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt;
use windlass_core::task::Status;
use windlass_core::{Error, Filters, Result, sandbox};
use windlass_network::namespaces::is_namespace;

use crate::cri::Cri;
use crate::sandbox::{KIND, KIND_SANDBOX, SANDBOXER, host_ipc};
use crate::state::record::{self, SandboxPhase, SandboxRecord, SandboxStatus, nanos};
use crate::state::{Reserved, Sandbox};

/// Pods that are looked into at the same time.
const PARALLEL: usize = 32;

impl Cri {
    /// Takes on all pods and containers. Called once, before the first call.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        let filters = Filters::parse(&[format!("labels.\"{KIND}\"=={KIND_SANDBOX}")])?;
        let records = self.database.sandboxes().list(&self.cx, &filters).await?;
        let ids: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        futures::stream::iter(records.into_iter().filter(|record| record.sandboxer == SANDBOXER))
            .for_each_concurrent(PARALLEL, |record| async move {
                let id = record.id.clone();
                if let Err(error) = self.restore_pod(record).await {
                    tracing::error!(%id, error = %error.chain(), "a pod is not restored");
                }
            })
            .await;
        self.sweep(ids).await;
        self.restore_containers().await?;
        self.restore_image_volumes();
        // A daemon that was killed may have left addresses with nobody.
        self.networks.leave();
        self.collect_network();
        Ok(())
    }

    async fn restore_pod(self: &Arc<Self>, written: sandbox::Sandbox) -> Result<()> {
        let what = format!("pod {}", written.id);
        let record: SandboxRecord = record::decode(written.extensions.get(record::RECORD), &what)?;
        let status: SandboxStatus = record::decode(written.extensions.get(record::STATUS), &what)?;
        if record.config.is_none() {
            return Err(Error::data_loss(format!("{what}: the record has no configuration")));
        }
        if status.phase() == SandboxPhase::Creating {
            self.clear_away(Sandbox::new(written.id, record, status)).await;
            return Ok(());
        }
        let sandbox = Arc::new(Sandbox::new(written.id, record, status));
        if sandbox.is_ready() {
            if self.has_ended(&sandbox).await {
                tracing::info!(pod = %sandbox.id, name = %sandbox.name, "a pod has ended while nobody looked");
                let ended = |status: &mut SandboxStatus| {
                    status.phase = SandboxPhase::NotReady.into();
                    status.exited_at = nanos(SystemTime::now());
                };
                self.set_pod_status(&sandbox, ended).await?;
            } else {
                self.watch_pause(&sandbox);
            }
        }
        if sandbox.was_ready() {
            self.state.sandboxes.restore(sandbox);
        } else {
            self.state.sandboxes.restore_nameless(sandbox);
        }
        Ok(())
    }

    /// In the background, since a network plugin may take its time: takes back a pod that was never whole. Whoever asks for
    /// the same pod again waits for it.
    async fn clear_away(self: &Arc<Self>, pod: Sandbox) {
        tracing::info!(pod = %pod.id, "clearing away a pod that was never whole");
        let reserved = self.state.sandboxes.reserve(&pod.name).await;
        let cri = self.clone();
        self.work.spawn(async move {
            let left = cri.undo_pod(&pod.id, &pod.record).await;
            if let (Some(left), Reserved::New(reservation)) = (left, reserved) {
                pod.set_status(left);
                reservation.give_up(Arc::new(pod));
            }
        });
    }

    /// Whether what a pod stands on is gone: its namespaces by a reboot, its own process by anything.
    async fn has_ended(&self, sandbox: &Sandbox) -> bool {
        let dir = self.namespaces_dir(&sandbox.id);
        let held = |kind: &str| is_namespace(&dir.join(kind));
        if sandbox.record.network && !held("net") || !host_ipc(sandbox.config()) && !held("ipc") {
            return true;
        }
        if !self.sandbox_dir(&sandbox.id).is_dir() {
            return true;
        }
        if !sandbox.record.pause {
            return false;
        }
        match self.tasks.state(&self.cx, &sandbox.id, "").await {
            Ok(state) => matches!(state.status, Status::Stopped | Status::Created),
            // A shim that hangs may come to itself.
            Err(error) => error.is_not_found(),
        }
    }

    /// In the background: lets images go that were mounted for pods that are no more.
    fn restore_image_volumes(self: &Arc<Self>) {
        let cri = self.clone();
        self.work.spawn(async move {
            let there =
                |id: &str| cri.state.sandboxes.get(id).is_ok_and(|pod| pod.id == id && !pod.status().down);
            if let Err(error) = cri.images.restore_volumes(there).await {
                tracing::warn!(error = %error.chain(), "images that were mounted for pods are left over");
            }
        });
    }

    /// Takes down what belongs to pods that there are no records of.
    async fn sweep(&self, known: HashSet<String>) {
        let roots = [self.namespaces_dir(""), self.sandbox_dir("")];
        let listed =
            tokio::task::spawn_blocking(move || roots.iter().flat_map(names).collect::<HashSet<_>>());
        let Ok(names) = listed.await else { return };
        for id in names.difference(&known) {
            if let Err(error) = self.drop_pod(id).await {
                tracing::warn!(pod = %id, error = %error.chain(), "what is left of a pod cannot be cleared away");
            }
        }
    }
}

fn names(dir: &PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
