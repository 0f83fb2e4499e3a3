//! Programs, their streams, their environment, their end.

use crate::harness::*;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use windlass_oci_runtime::{ErrorKind, Stdio};

pub const TESTS: &[Test] = &[
    ("exit_codes", exit_codes),
    ("streams", streams),
    ("environment", environment),
    ("only_three_descriptors", only_three_descriptors),
    ("programs_that_cannot_run", programs_that_cannot_run),
    ("signals_are_reset", signals_are_reset),
    ("terminal", terminal),
    ("terminal_for_the_right_ones", terminal_for_the_right_ones),
    ("names_and_states", names_and_states),
    ("keyring", keyring),
];

fn exit_codes() {
    assert_eq!(Bundle::sh("exit 7").run().code, 7);
    assert_eq!(Bundle::new().run().code, 0);
    assert_eq!(Bundle::sh("kill -9 $$").run().code, 0, "pid 1 is not killed by itself");
    let mut bundle = Bundle::sh("kill -9 $$");
    bundle.without_namespace("pid");
    assert_eq!(bundle.run().code, 137);
}

fn streams() {
    let output = Bundle::sh("cat; echo out; echo err >&2").run();
    assert_eq!((output.out.as_str(), output.err.as_str()), ("out\n", "err\n"));
    let (input, write) = pipe();
    let (out, stdout) = pipe();
    let mut bundle = Bundle::new();
    bundle.args(&["cat"]);
    let stdio = Stdio::Fds { stdin: Some(input), stdout: Some(stdout), stderr: None };
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    File::from(write).write_all(b"through").unwrap();
    assert_eq!(read(out), "through");
    assert_eq!(wait(&container.pidfd().unwrap()), 0);
    container.delete(false).unwrap();
    bundle.assert_clean();
}

fn environment() {
    let mut bundle = Bundle::sh("pwd; echo $HOME $TERM $A; umask; hostname");
    bundle.spec["process"]["cwd"] = json!("/made/for/it");
    bundle.spec["process"]["env"].as_array_mut().unwrap().push(json!("A=b c"));
    bundle.spec["process"]["user"]["umask"] = json!(0o77);
    assert_eq!(bundle.run().out, "/made/for/it\n/root xterm b c\n0077\ntesthost\n");
    let mut bundle = Bundle::sh("echo $HOME; id -u; umask");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.run().out, "/home/bob\n1000\n0022\n");
    // A passwd that is no file must not be waited for.
    let bundle = Bundle::sh("echo $HOME");
    let passwd = bundle.rootfs().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    let name = std::ffi::CString::new(passwd.to_str().unwrap()).unwrap();
    // SAFETY: the name is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o644) }, 0);
    assert_eq!(bundle.run().out, "/\n");
}

fn only_three_descriptors() {
    // One that would be inherited by any other way of starting programs.
    let leak = File::open("/etc/hostname").unwrap();
    // SAFETY: F_SETFD takes an integer.
    unsafe { libc::fcntl(leak.as_raw_fd(), libc::F_SETFD, 0) };
    let list = "for f in /proc/self/fd/*; do echo -n \"$f \"; done";
    assert_eq!(
        Bundle::sh(list).run().out.trim(),
        "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    );
    let mut running = Running::new(Bundle::new());
    // The fourth is the shell's own, on the directory that it lists.
    assert_eq!(
        running.exec(list).out.trim(),
        "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    );
    let fds = std::fs::read_dir(format!("/proc/{}/fd", running.container.pid())).unwrap().count();
    assert_eq!(fds, 3);
}

fn programs_that_cannot_run() {
    for (name, message) in [
        ("nothing", r#"exec: "nothing": executable file not found in $PATH"#),
        ("/nothing", r#"exec: "/nothing": stat /nothing: no such file or directory"#),
        ("/etc", r#"exec: "/etc": is a directory"#),
        ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
    ] {
        let mut bundle = Bundle::new();
        bundle.args(&[name]);
        let error = bundle.refused();
        assert!(
            error.starts_with("unable to start container process: ") && error.contains(message),
            "{error}"
        );
    }
    let mut running = Running::new(Bundle::new());
    let mut process = running.process("");
    process["args"] = json!(["nothing"]);
    let error = running.exec_child(&process, Stdio::Null).err().unwrap();
    assert!(error.report().contains(r#"exec: "nothing": executable file not found in $PATH"#));
    let mut bundle = Bundle::new();
    bundle.args(&["/text"]);
    std::fs::write(bundle.rootfs().join("text"), "\x7fELF no more").unwrap();
    std::fs::set_permissions(
        bundle.rootfs().join("text"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let error = bundle.try_run().err().unwrap();
    assert!(error.report().contains("exec /text: exec format error"), "{}", error.report());
}

fn signals_are_reset() {
    let mut bundle = Bundle::new();
    bundle.args(&["grep", "Sig", "/proc/self/status"]);
    // Rust ignores SIGPIPE; a shim blocks SIGCHLD.
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    let out = bundle.run().out;
    for name in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(out.contains(&format!("{name}:\t0000000000000000")), "{out}");
    }
}

fn terminal() {
    let mut bundle =
        Bundle::sh("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo yes; ls -l /dev/console");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut container = bundle.create(Stdio::Terminal).unwrap();
    let master = container.take_terminal().unwrap();
    assert!(container.take_terminal().is_none());
    container.start().unwrap();
    let out = read(master);
    wait(&container.pidfd().unwrap());
    assert!(out.starts_with("/dev/pts/0\r\n33 77\r\nyes\r\ncrw") && out.contains("bob"), "{out}");
    container.delete(false).unwrap();
    bundle.assert_clean();
    // The same for a process that is added, its terminal sent over a socket.
    let mut running = Running::new(Bundle::new());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut process = running.process("tty; stty size");
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({"height": 10, "width": 20});
    let child = running.exec_child(&process, Stdio::ConsoleSocket(theirs.into())).unwrap();
    assert!(child.terminal.is_none());
    let master = receive_fd(&ours);
    assert_eq!(read(master), "/dev/pts/0\r\n10 20\r\n");
    wait(&child.pidfd);
}

/// Takes one descriptor from a socket.
pub fn receive_fd(socket: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    let mut data = [0u8; 4096];
    let mut control = [0u64; 8];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: the header points to buffers that are valid for writing; the descriptor is ours once received.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        assert!(libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) > 0);
        let header = libc::CMSG_FIRSTHDR(&message);
        assert!(!header.is_null());
        std::os::fd::OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}

fn terminal_for_the_right_ones() {
    let mut bundle = Bundle::new();
    bundle.spec["process"]["terminal"] = json!(true);
    assert!(bundle.refused().contains("terminal"));
    // What the image puts in place of the multiplexer is not taken for it.
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev/pts");
    assert!(bundle.create(Stdio::Terminal).is_err());
    bundle.assert_clean();
}

fn names_and_states() {
    let bundle = Bundle::new();
    let first = bundle.create(Stdio::Null).unwrap();
    let error = bundle.create(Stdio::Null).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let mut first = first;
    assert_eq!(first.id(), bundle.id);
    assert!(first.start().is_ok());
    assert_eq!(first.start().err().unwrap().kind(), ErrorKind::FailedPrecondition);
    wait(&first.pidfd().unwrap());
    first.delete(false).unwrap();
    bundle.assert_clean();
    let mut bundle = Bundle::new();
    bundle.id = "../escape".into();
    assert_eq!(bundle.create(Stdio::Null).err().unwrap().kind(), ErrorKind::InvalidArgument);
}

fn keyring() {
    let mut bundle = Bundle::sh("cat /proc/keys");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    let out = bundle.run().out;
    assert!(out.contains(&format!("_ses.{}", bundle.id)), "{out}");
}
