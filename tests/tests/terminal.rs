//! `windlass` as a person uses it.

use std::io::Write;
use std::process::Stdio;

use windlass_tests::{Daemon, IMAGE};

#[test]
fn run_passes_output_input_and_exit_code() {
    let daemon = Daemon::with_image();
    assert_eq!(daemon.windlass(&["run", "--rm", IMAGE, "echo", "hello"]).ok(), "hello\n");
    let failed = daemon.windlass(&["run", "--rm", IMAGE, "sh", "-c", "echo oops >&2; exit 7"]);
    assert_eq!((failed.code, failed.stderr.as_str()), (7, "oops\n"));
    let mut cat = daemon
        .command(&["run", "--rm", "-i", IMAGE, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("windlass runs");
    cat.stdin.take().expect("a pipe").write_all(b"through and through").expect("the container reads");
    let out = cat.wait_with_output().expect("a child can be waited for");
    assert_eq!(out.stdout, b"through and through");
    let big =
        daemon.windlass(&["run", "--rm", IMAGE, "sh", "-c", "yes 0123456789abcde | head -c 16000000"]).ok();
    assert_eq!(big.len(), 16_000_000);
    assert_eq!(daemon.windlass(&["ps", "--all", "--quiet"]).ok(), "");
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_run_is_said() {
    let daemon = Daemon::with_image();
    let error = daemon.windlass(&["run", "--rm", IMAGE, "/no/such"]).err();
    assert!(error.contains("/no/such"), "{error}");
    let error = daemon.windlass(&["run", "--rm", "127.0.0.1:1/none/such:1"]).err();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert_eq!(daemon.windlass(&["ps", "--all", "--quiet"]).ok(), "");
    daemon.eventually("nothing is left", || daemon.leftovers().is_empty());
}

#[test]
fn removal_of_an_image_empties_the_store() {
    let daemon = Daemon::with_image();
    daemon.windlass(&["rmi", IMAGE]).ok();
    let blobs = daemon.root().join("io.containerd.content.v1.content/blobs/sha256");
    assert_eq!(std::fs::read_dir(&blobs).map_or(0, Iterator::count), 0, "blobs are left");
    let snapshots = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    daemon.eventually("snapshots are removed", || {
        std::fs::read_dir(&snapshots).map_or(0, Iterator::count) == 0
    });
}
