//! Checkpoints: containers put into archives, and made again from them.
//!
//! - `make`: a running container's state goes into an archive. `criu`: whether processes can be dumped at all.
//! - `archive`: an archive, or an image that holds one, is taken apart. `restore`: a container made and started from it.
//!
//! The archive's layout is that of Kubernetes' tools (`checkpointctl`). One that comes from elsewhere is hostile: of it
//! come CRIU's images, what the container changed in its root file system, its log, and which image it was made of;
//! all else (mounts, users, limits, names) is what the request says.

mod archive;
mod criu;
mod make;
mod restore;

use windlass_api::convert::any;
use windlass_api::runc;
use windlass_core::{Error, Result};

use crate::config::Handler;
use crate::cri::Cri;

pub(super) use restore::Restored;

/// Directory of an archive that CRIU's images are in.
const IMAGES: &str = "checkpoint";
/// What the container changed in its root file system.
const CHANGES: &str = "rootfs-diff.tar";
const LOG: &str = "container.log";
const CONFIG: &str = "config.dump";

impl Cri {
    /// Whether containers of a runtime handler can be dumped and restored. *Unimplemented* with the embedded runtime,
    /// which has nothing to do it with; *failed precondition* where CRIU is missing or switched off.
    async fn has_criu(&self, handler: &str) -> Result<()> {
        if !self.config.enable_criu {
            return Err(Error::precondition("checkpoints are switched off by enable_criu = false"));
        }
        let handler = self.handler(handler)?;
        if handler.is_ours() && handler.binary().is_empty() && self.is_embedded(&handler).await? {
            return Err(Error::unimplemented(format!(
                "runtime handler {:?} is the embedded runtime, which does no checkpoints: use a handler whose option \
                 BinaryName is runc, with criu installed",
                handler.name
            )));
        }
        criu::check().await
    }

    /// Whether the runtime is the embedded one, where the handler names none: the daemon's configuration may name one for
    /// all of them.
    async fn is_embedded(&self, handler: &Handler<'_>) -> Result<bool> {
        let info = self.tasks.runtime_info(&self.runtime(handler)).await?;
        let Some(options) = info.options.filter(any::is::<runc::Options>) else { return Ok(true) };
        Ok(any::unpack::<runc::Options>(&options)?.binary_name.is_empty())
    }
}
