//! What transfers of an earlier process left behind: half-made snapshots go at once, what can be resumed stays under its
//! lease until that expires.

use std::sync::Arc;

use windlass_core::lease::Lease;
use windlass_core::metadata::Database;
use windlass_core::{Context, Filters, Result};

use super::lease::PREFIX;
use super::unpack::EXTRACT;

/// Leases of transfers that ended without deleting them. Only what is there before the first transfer of this process is
/// left over, so call it before that.
pub async fn left_over(database: &dyn Database) -> Result<Vec<(Context, Lease)>> {
    let filter = Filters::parse(&[format!("id~=/^{PREFIX}-/")])?;
    let mut found = Vec::new();
    for namespace in database.namespaces().list().await? {
        let cx = Context::new(namespace.name);
        for lease in database.leases().list(&cx, &filter).await? {
            found.push((cx.clone(), lease));
        }
    }
    Ok(found)
}

/// Removes what nobody will go on with.
pub async fn clean(database: Arc<dyn Database>, left: Vec<(Context, Lease)>) {
    for (cx, lease) in left {
        match one(&*database, &cx, &lease.id).await {
            Ok(()) => {
                tracing::info!(namespace = %cx.namespace, lease = %lease.id, "cleaned up after a transfer")
            }
            Err(error) => {
                tracing::warn!(lease = %lease.id, error = %error.chain(), "cannot clean up after a transfer");
            }
        }
    }
}

async fn one(database: &dyn Database, cx: &Context, lease: &str) -> Result<()> {
    let mut resumable = false;
    for resource in database.leases().list_resources(cx, lease).await? {
        resumable |= resource.kind == "ingests";
        let Some(snapshotter) =
            resource.kind.strip_prefix("snapshots/").and_then(|id| database.snapshotter(id))
        else {
            continue;
        };
        if resource.id.starts_with(EXTRACT) {
            match snapshotter.remove(cx, &resource.id).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    if !resumable {
        database.leases().delete(cx, lease).await?;
    }
    Ok(())
}
