//! Removal: the records of an image go, then the collector takes what nothing else needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use windlass_api::cri;
use windlass_core::{Error, Result, metadata};

use super::Images;

/// Collections that several removals share: one that began after a removal's last record has gone is enough for it.
#[derive(Default)]
pub struct Collection {
    asked: AtomicU64,
    /// How many askers the last collection has served.
    served: tokio::sync::Mutex<u64>,
}

impl Collection {
    async fn run(&self, database: &dyn metadata::Database) -> Result<()> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut served = self.served.lock().await;
        if *served >= ticket {
            return Ok(());
        }
        let all = self.asked.load(Ordering::Acquire);
        database.collect().await?;
        *served = all;
        Ok(())
    }
}

impl Images {
    /// Removes an image with all its names, and what only it needed. One that is not there is no error; containers that
    /// run it go on.
    pub async fn remove(self: &Arc<Self>, image: &cri::ImageSpec) -> Result<()> {
        let Some(found) = self.resolve(&image.image) else { return Ok(()) };
        let this = self.clone();
        let task = tokio::spawn(async move {
            let id = found.id.as_str();
            // The id goes last: while it is there the image can be named, and the removal tried again.
            let others = found.references.iter().map(String::as_str).filter(|name| *name != id);
            for name in others.chain([id]) {
                match this.records.delete(&this.cx, name, None).await {
                    Err(error) if !error.is_not_found() => {
                        return Err(error.context(format!("remove image {id}: its name {name:?}")));
                    }
                    _ => this.refresh(name).await?,
                }
            }
            this.collection
                .run(&*this.database)
                .await
                .map_err(|e| e.context(format!("free what image {id} took up")))?;
            tracing::info!(%id, "image removed");
            Ok(())
        });
        task.await.map_err(|e| Error::internal("removal of an image ended unexpectedly").with_source(e))?
    }
}
