//! Where a container's output goes, and the log opened anew after a rotation.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::cri::Cri;

/// Longest path of a log.
const LONGEST: usize = 4096;

/// The log of a container: `path` below `directory`; `None` where either is empty. *Invalid argument* for one that leads
/// elsewhere.
pub fn path(directory: &str, path: &str) -> Result<Option<PathBuf>> {
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    if !directory.starts_with('/') {
        return Err(Error::invalid(format!("log directory {directory:?} must be an absolute path")));
    }
    let path = path.trim_start_matches('/');
    let odd = |path: &str| Path::new(path).components().any(|part| part == Component::ParentDir);
    if path.is_empty() || odd(directory) || odd(path) || path.contains('\0') || directory.contains('\0') {
        return Err(Error::invalid(format!(
            "log path {path:?} must name a file below {directory:?}, without \"..\""
        )));
    }
    if directory.len() + path.len() >= LONGEST {
        return Err(Error::invalid("the path of the log is too long"));
    }
    Ok(Some(Path::new(directory).join(path)))
}

impl Cri {
    pub async fn reopen_container_log(
        self: &Arc<Self>,
        request: cri::ReopenContainerLogRequest,
    ) -> Result<cri::ReopenContainerLogResponse> {
        let container = self.running(&request.container_id)?;
        let io = container.io().ok_or_else(|| {
            Error::precondition(format!("container {} has no streams to log", container.id))
        })?;
        io.reopen_log()
            .await
            .map_err(|error| error.context(format!("reopen the log of container {}", container.id)))?;
        Ok(cri::ReopenContainerLogResponse {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_stay_below_their_directory() {
        let log =
            |directory, file| path(directory, file).map(|p| p.map(|p| p.to_string_lossy().into_owned()));
        assert_eq!(log("/var/log/pods/x", "c/0.log").unwrap().as_deref(), Some("/var/log/pods/x/c/0.log"));
        assert_eq!(log("/var/log", "/0.log").unwrap().as_deref(), Some("/var/log/0.log"));
        assert_eq!(log("", "0.log").unwrap(), None);
        assert_eq!(log("/var/log", "").unwrap(), None);
        for (directory, file) in
            [("/var/log", "../x"), ("/var/log", "a/../../x"), ("/v/../x", "a"), ("v", "a"), ("/v", "/")]
        {
            assert!(log(directory, file).is_err(), "{directory} {file}");
        }
    }
}
