//! CRIU, which dumps processes: whether it is there, and new enough. Running it is the OCI runtime's business.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use windlass_core::{Error, Result};

/// The first version that can dump what is in a pod's namespaces.
const OLDEST: (u32, u32) = (3, 16);
/// Longest that it may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes sure that there is a CRIU that can be used. *Failed precondition* with what to do otherwise.
pub(super) async fn check() -> Result<()> {
    check_in(&std::env::var_os("PATH").unwrap_or_default()).await
}

async fn check_in(path: &std::ffi::OsStr) -> Result<()> {
    let Some(program) = find(std::env::split_paths(path)) else {
        return Err(Error::precondition(
            "checkpoints need criu, which is in no directory of the daemon's PATH: install criu 3.16 or later",
        ));
    };
    let said = said(&program).await?;
    match version(&said) {
        Some(found) if found >= OLDEST => Ok(()),
        Some((major, minor)) => Err(Error::precondition(format!(
            "checkpoints need criu 3.16 or later, {} is {major}.{minor}: install a newer one",
            program.display()
        ))),
        None => Err(Error::precondition(format!(
            "checkpoints need criu, and {} does not say its version: {:?}",
            program.display(),
            said.chars().take(200).collect::<String>()
        ))),
    }
}

fn find(mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    directories.find_map(|dir| Some(dir.join("criu")).filter(|path| path.is_absolute() && runs(path)))
}

async fn said(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.map_err(|_| {
        Error::precondition(format!("{} does not say its version within {PATIENCE:?}", program.display()))
    })?;
    let output =
        output.map_err(|e| Error::precondition(format!("run {}", program.display())).with_source(e))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Major and minor number out of `Version: 3.17.1`.
fn version(said: &str) -> Option<(u32, u32)> {
    let numbers = said.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut numbers = numbers.split(['.', '-', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("Version: 3.17.1\n"), Some((3, 17)));
        assert_eq!(version("Warn\nVersion: 4.1\nGitID: v4.1"), Some((4, 1)));
        assert_eq!(version("criu 3"), None);
    }

    #[tokio::test]
    async fn what_is_missing_or_old_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = check_in(dir.path().as_os_str()).await.unwrap_err();
        assert!(error.message().contains("install criu"), "{error}");
        for (script, word) in [
            ("echo Version: 3.15", "3.15: install a newer one"),
            ("echo hello", "does not say its version: \"hello"),
        ] {
            let program = dir.path().join("criu");
            std::fs::write(dir.path().join("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(dir.path().join("new"), PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::rename(dir.path().join("new"), &program).unwrap();
            let error = check_in(dir.path().as_os_str()).await.unwrap_err();
            assert!(error.message().contains(word), "{error}");
            assert!(error.is(windlass_core::Class::FailedPrecondition));
        }
        std::fs::write(dir.path().join("criu"), "#!/bin/sh\necho Version: 3.17.1\n").unwrap();
        check_in(dir.path().as_os_str()).await.unwrap();
    }
}
