//! The `pause` subcommand: ends when it is asked to, and buries what is left to it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");
const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::yield_now();
    }
}

/// A pause process that takes its signals already.
fn pause() -> Child {
    let child = Command::new(SHIM).arg("pause").spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    until("the mask of signals", || {
        let text = fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
    });
    child
}

#[test]
fn it_ends_when_it_is_asked_to() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut child = pause();
        // SAFETY: the process is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn it_buries_orphans() {
    // The first process of a namespace of its own; the shell leaves an orphan and becomes it.
    let script = format!("(exit 3) & exec {SHIM} pause");
    let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let comm = format!("/proc/{}/comm", child.id());
    until("the pause process", || fs::read_to_string(&comm).unwrap().starts_with("containerd-shim"));
    until("the burial", || fs::read_to_string(&children).unwrap().trim().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
}
