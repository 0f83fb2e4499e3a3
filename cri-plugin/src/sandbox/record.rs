//! What is written down of a pod: first that it is being made, then what it is.

use std::collections::BTreeMap;
use std::time::SystemTime;

use windlass_core::validate::MAX_LABEL;
use windlass_core::{FieldMask, Labels, Result, container, sandbox};

use crate::cri::Cri;
use crate::state::Sandbox;
use crate::state::record::{RECORD, STATUS, SandboxRecord, SandboxStatus, encode};

use super::{KIND, KIND_SANDBOX, SANDBOXER};

impl Cri {
    /// Writes down that a pod is being made.
    pub(super) async fn write_pod(
        &self,
        id: &str,
        runtime: container::Runtime,
        record: &SandboxRecord,
        status: &SandboxStatus,
    ) -> Result<()> {
        let written = sandbox::Sandbox {
            id: id.to_owned(),
            labels: labels(record),
            runtime,
            spec: None,
            sandboxer: SANDBOXER.into(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::from([
                (RECORD.to_owned(), encode(record, "Sandbox")),
                (STATUS.to_owned(), encode(status, "SandboxStatus")),
            ]),
        };
        self.database.sandboxes().create(&self.cx, written).await.map(drop)
    }

    /// Writes down what a pod is now. Who holds its lock, or is making it, may.
    pub(crate) async fn write_pod_status(&self, id: &str, status: &SandboxStatus) -> Result<()> {
        let written = sandbox::Sandbox {
            id: id.to_owned(),
            labels: Labels::new(),
            runtime: container::Runtime::default(),
            spec: None,
            sandboxer: String::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::from([(STATUS.to_owned(), encode(status, "SandboxStatus"))]),
        };
        let fields = FieldMask::of(&[&format!("extensions.{STATUS}")]);
        self.database.sandboxes().update(&self.cx, written, &fields).await.map(drop)
    }

    /// Changes a pod's status, on disk first.
    pub(crate) async fn set_pod_status(
        &self,
        sandbox: &Sandbox,
        change: impl FnOnce(&mut SandboxStatus),
    ) -> Result<()> {
        let mut status = sandbox.status().clone();
        change(&mut status);
        self.write_pod_status(&sandbox.id, &status).await?;
        sandbox.set_status(status);
        Ok(())
    }

    /// Forgets a pod's record. One that is not there is fine.
    pub(crate) async fn forget_pod(&self, id: &str) -> Result<()> {
        match self.database.sandboxes().delete(&self.cx, id).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Labels as containerd writes them. One that no record can hold is left to the configuration.
pub(super) fn labels(record: &SandboxRecord) -> Labels {
    let mut labels = Labels::new();
    let config = record.config.as_ref();
    for (key, value) in config.into_iter().flat_map(|config| &config.labels) {
        if !key.is_empty() && key.len() + value.len() <= MAX_LABEL {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels.insert(KIND.into(), KIND_SANDBOX.into());
    labels
}
