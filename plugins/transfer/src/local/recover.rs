//! What transfers of an earlier process left behind: half-made snapshots and what cannot be resumed go at once; ingests
//! that can be stay under their lease until that expires.
//!
//! Names that transfers make hold a number of their process, so this runs beside new transfers. Leases and snapshots that
//! clients made are theirs.

use std::sync::Arc;

use futures::StreamExt;
use windlass_core::metadata::Database;
use windlass_core::{Context, Filters, Result};

use super::import::INGEST;
use super::lease::{PREFIX, is_left_over};
use super::unpack::EXTRACT;

/// Removes what nobody will go on with. Answers how many objects that were.
pub async fn clean(database: Arc<dyn Database>) -> usize {
    let mut removed = 0;
    match database.namespaces().list().await {
        Ok(namespaces) => {
            for namespace in namespaces {
                match one(&*database, &Context::new(&namespace.name)).await {
                    Ok(count) => removed += count,
                    Err(error) => {
                        tracing::warn!(namespace = %namespace.name, error = %error.chain(), "cannot clean up after transfers");
                    }
                }
            }
        }
        Err(error) => tracing::warn!(error = %error.chain(), "cannot clean up after transfers"),
    }
    if removed > 0 {
        tracing::info!(removed, "cleaned up after transfers that an earlier process did not finish");
    }
    removed
}

fn begins_with(field: &str, prefix: &str) -> Result<Filters> {
    Filters::parse(&[format!("{field}~=/^{prefix}-/")])
}

async fn one(database: &dyn Database, cx: &Context) -> Result<usize> {
    let mut removed = 0;
    for id in database.snapshotters() {
        let Some(snapshotter) = database.snapshotter(&id) else { continue };
        let keys: Vec<String> = snapshotter
            .list(cx, &begins_with("name", EXTRACT)?)
            .filter_map(async |info| info.ok().map(|i| i.name).filter(|name| is_left_over(EXTRACT, name)))
            .collect()
            .await;
        for key in keys {
            removed += usize::from(gone(snapshotter.remove(cx, &key).await)?);
        }
    }
    let content = database.content();
    for status in content.list_statuses(cx, &begins_with("ref", INGEST)?).await? {
        if is_left_over(INGEST, &status.reference) {
            removed += usize::from(gone(content.abort(cx, &status.reference).await)?);
        }
    }
    let leases = database.leases();
    for lease in leases.list(cx, &begins_with("id", PREFIX)?).await? {
        if !is_left_over(PREFIX, &lease.id) {
            continue;
        }
        let resources = leases.list_resources(cx, &lease.id).await?;
        if !resources.iter().any(|r| r.kind == "ingests") {
            removed += usize::from(gone(leases.delete(cx, &lease.id).await)?);
        }
    }
    Ok(removed)
}

/// Whether it was there.
fn gone(result: Result<()>) -> Result<bool> {
    match result {
        Err(error) if error.is_not_found() => Ok(false),
        result => result.map(|()| true),
    }
}
