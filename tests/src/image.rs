//! The image of the tests: this machine's static busybox, packed by the project's own script.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Its name.
pub const IMAGE: &str = "docker.io/windlass/demo:latest";

/// The image's archive, made once per test process.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &ARCHIVE
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            let file = dir.path().join("demo.tar");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo-image.sh");
            let status = Command::new(script).arg(&file).arg(IMAGE).status().expect("the script runs");
            assert!(status.success(), "scripts/demo-image.sh failed; is busybox-static installed?");
            (dir, file)
        })
        .1
}
