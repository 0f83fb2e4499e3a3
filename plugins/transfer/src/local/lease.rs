//! The lease of a transfer: what it fetches is nobody's until the image record is there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// A number that another process does not have; the standard library's hasher keys are the randomness at hand.
fn process() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    static PROCESS: OnceLock<u64> = OnceLock::new();
    *PROCESS.get_or_init(|| {
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos()));
        hasher.finish()
    })
}

/// A name that nobody else makes: `<prefix>-<process>-<count>`.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{:016x}-{:x}", process(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether [`unique`] made `name` in another process.
pub fn is_left_over(prefix: &str, name: &str) -> bool {
    let maker = name.strip_prefix(prefix).and_then(|n| n.strip_prefix('-')).and_then(|n| n.split('-').next());
    maker
        .filter(|m| m.len() == 16)
        .and_then(|m| u64::from_str_radix(m, 16).ok())
        .is_some_and(|maker| maker != process())
}

pub fn rfc3339(at: SystemTime) -> Result<String> {
    time::OffsetDateTime::from(at)
        .format(&time::format_description::well_known::Rfc3339)
        .map_err(|e| Error::internal("format a time").with_source(e))
}
