//! A pod in memory.

use std::path::PathBuf;
use std::sync::{OnceLock, RwLock, RwLockReadGuard};

use windlass_api::cri;

use super::record::{SandboxPhase, SandboxRecord, SandboxStatus};
use super::table::Entry;
use crate::stats::Kept;

/// A pod.
pub struct Sandbox {
    pub id: String,
    /// `name_namespace_uid_attempt`.
    pub name: String,
    pub record: SandboxRecord,
    /// Held by whoever changes the pod, over calls to shims and plugins too: it is the pod's own.
    pub lock: tokio::sync::Mutex<()>,
    status: RwLock<SandboxStatus>,
    /// Set when first asked for.
    pub places: OnceLock<Places>,
    /// For its figures.
    pub kept: Kept,
}

/// Where a pod's files are.
pub struct Places {
    /// Holds `hostname`, `hosts` and `resolv.conf`.
    pub dir: PathBuf,
    /// Its own shared memory, if it has any.
    pub shm: PathBuf,
}

impl Sandbox {
    pub fn new(id: String, record: SandboxRecord, status: SandboxStatus) -> Self {
        let name = name(record.config.as_ref().and_then(|c| c.metadata.as_ref()));
        Self {
            id,
            name,
            record,
            lock: tokio::sync::Mutex::new(()),
            status: RwLock::new(status),
            places: OnceLock::new(),
            kept: Kept::default(),
        }
    }

    /// What the pod was asked to be.
    pub fn config(&self) -> &cri::PodSandboxConfig {
        self.record
            .config
            .as_ref()
            .expect("a pod has a configuration: checked when it is made and when it is read")
    }

    pub fn status(&self) -> RwLockReadGuard<'_, SandboxStatus> {
        self.status.read().expect("nothing panics while it holds a status")
    }

    /// Replaces the status: for who holds the lock and has written the record.
    pub fn set_status(&self, status: SandboxStatus) {
        *self.status.write().expect("nothing panics while it holds a status") = status;
    }

    pub fn is_ready(&self) -> bool {
        self.status().phase() == SandboxPhase::Ready
    }

    /// Whether it is ready or has been. One that never was holds no name.
    pub fn was_ready(&self) -> bool {
        self.is_ready() || self.status().exited_at != 0
    }
}

/// `name_namespace_uid_attempt`, unique among pods.
pub fn name(metadata: Option<&cri::PodSandboxMetadata>) -> String {
    metadata.map_or_else(String::new, |m| format!("{}_{}_{}_{}", m.name, m.namespace, m.uid, m.attempt))
}

impl Entry for Sandbox {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}
