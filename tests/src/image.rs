//! The image of the tests: this machine's static busybox, packed by the project's own script.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Its name.
pub const IMAGE: &str = "docker.io/windlass/demo:latest";

/// What the image with a volume declares as one.
pub const VOLUME: &str = "/data";

type Archive = OnceLock<(tempfile::TempDir, PathBuf)>;

/// The image's archive, made once per test process.
pub fn archive() -> &'static Path {
    static ARCHIVE: Archive = OnceLock::new();
    &ARCHIVE.get_or_init(|| make(&[])).1
}

/// The same image, but that it declares [`VOLUME`].
pub fn archive_with_volume() -> &'static Path {
    static ARCHIVE: Archive = OnceLock::new();
    &ARCHIVE.get_or_init(|| make(&[VOLUME])).1
}

fn make(volume: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("demo.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo-image.sh");
    let status = Command::new(script).arg(&file).arg(IMAGE).args(volume).status().expect("the script runs");
    assert!(status.success(), "scripts/demo-image.sh failed; is busybox-static installed?");
    (dir, file)
}
