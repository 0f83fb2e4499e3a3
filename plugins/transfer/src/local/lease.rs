//! The lease of a transfer: what it fetches is nobody's until the image record is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use windlass_core::lease::LABEL_EXPIRE;
use windlass_core::{Error, Labels, Result};

use super::Job;

/// How the ids of transfers' own leases begin.
pub const PREFIX: &str = "transfer";
/// A transfer that takes longer, or died, loses its protection.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Runs `work` under the caller's lease, or under one of its own that is deleted afterwards.
pub async fn under<T>(mut job: Job, work: impl AsyncFnOnce(Job) -> Result<T>) -> Result<T> {
    if job.cx.lease.is_some() {
        return work(job).await;
    }
    let id = unique(PREFIX);
    let mut labels = Labels::new();
    labels.insert(LABEL_EXPIRE.into(), rfc3339(SystemTime::now() + LIFE)?);
    job.local.parts.leases.create(&job.cx, &id, labels).await?;
    let (leases, outside) = (job.local.clone(), job.cx.clone());
    job.cx = job.cx.with_lease(&id);
    crate::step!("transfer.after-lease");
    let result = work(job).await;
    if let Err(error) = leases.parts.leases.delete(&outside, &id).await {
        tracing::warn!(lease = %id, error = %error.chain(), "lease of a transfer stays until it expires");
    }
    result
}

/// A name that nobody else makes: time and a count.
pub fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys are the randomness at hand.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{prefix}-{nanos:x}-{random:016x}")
}

pub fn rfc3339(at: SystemTime) -> Result<String> {
    time::OffsetDateTime::from(at)
        .format(&time::format_description::well_known::Rfc3339)
        .map_err(|e| Error::internal("format a time").with_source(e))
}
