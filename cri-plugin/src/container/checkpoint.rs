//! A running container's state put into a file.

use std::sync::Arc;

use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::cri::Cri;

impl Cri {
    /// *Unimplemented* with the embedded runtime, which has nothing that could dump a process.
    pub async fn checkpoint_container(
        self: &Arc<Self>,
        request: cri::CheckpointContainerRequest,
    ) -> Result<cri::CheckpointContainerResponse> {
        let container = self.running(&request.container_id)?;
        let sandbox = self.state.sandboxes.get(&container.record.sandbox_id)?;
        let handler = self.handler(&sandbox.record.handler)?;
        if !self.config.enable_criu {
            return Err(Error::precondition("checkpoints are switched off (enable_criu)"));
        }
        if handler.is_ours() && handler.binary().is_empty() {
            return Err(Error::unimplemented(format!(
                "container {} runs under the embedded runtime, which makes no checkpoints; use a runtime handler whose \
                 BinaryName is runc or crun, with criu installed",
                container.id
            )));
        }
        Err(Error::unimplemented("checkpoints"))
    }
}
