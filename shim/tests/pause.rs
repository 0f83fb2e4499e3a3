//! The `pause` subcommand: ends when it is asked to, and buries what is left to it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
    let call = format!("/proc/{}/syscall", child.id());
    let waits = format!("{} ", libc::SYS_rt_sigtimedwait);
    until("the wait for signals", || fs::read_to_string(&call).unwrap().starts_with(&waits));
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
    // The shell leaves a child behind and becomes the process.
    let script = format!("(exit 3) & echo $!; exec {SHIM} pause");
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut orphan = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut orphan).unwrap();
    let orphan = format!("/proc/{}", orphan.trim());
    until("the burial", || !Path::new(&orphan).exists());
    let comm = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(comm.starts_with("containerd-shim"), "the shell itself buried it");
}
