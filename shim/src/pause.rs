//! The `pause` subcommand: the first process of a pod's PID namespace. It buries the orphans of the pod's containers and
//! sleeps until it is told to end. Nothing else: it runs as long as its pod.

use std::process::ExitCode;

/// The word that makes the shim one.
pub const ACTION: &str = "pause";

/// Waits for children and for the end.
pub fn run() -> ExitCode {
    // SAFETY: the set is initialised before it is used, and the calls take nothing but it and plain numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
            libc::sigaddset(&mut set, signal);
        }
        // Held back, they wait to be taken: none is lost, and the first process of a namespace takes only what it asks for.
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            match libc::sigwaitinfo(&set, std::ptr::null_mut()) {
                libc::SIGINT | libc::SIGTERM => return ExitCode::SUCCESS,
                _ => {}
            }
        }
    }
}
