//! Containers with a busybox root file system, one feature after the other. Needs root and a static busybox.
//!
//! One thread, one test at a time: the library forks. Arguments pick tests by a part of their name.

#![allow(clippy::unwrap_used)] // a test that cannot go on ends by panicking

mod basics;
mod files;
mod harness;
mod hostile;
mod identity;
mod lifecycle;
mod limits;
mod namespaces;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Mounts of its own, shared as on most hosts: what a container lets out shows, and what others mount does not.
fn own_mounts() {
    // SAFETY: the strings are null or NUL-terminated.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "{}", std::io::Error::last_os_error());
        for flag in [libc::MS_PRIVATE, libc::MS_SHARED] {
            let none = std::ptr::null();
            assert_eq!(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | flag, none.cast()), 0);
        }
    }
}

fn main() {
    // SAFETY: takes no pointers; a hang ends the run instead of blocking it.
    unsafe { libc::alarm(300) };
    own_mounts();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        return;
    }
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let all = [
        basics::TESTS,
        files::TESTS,
        hostile::TESTS,
        identity::TESTS,
        lifecycle::TESTS,
        limits::TESTS,
        namespaces::TESTS,
    ];
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in all.into_iter().flatten() {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    println!("\ntest result: {passed} passed; {} failed {failed:?}", failed.len());
    if !failed.is_empty() {
        std::process::exit(1);
    }
}
