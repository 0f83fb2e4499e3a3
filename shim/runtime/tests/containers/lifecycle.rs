//! From creation to deletion, and what happens in between.

use crate::harness::*;
use serde_json::json;
use std::fs;
use std::time::Duration;
use windlass_oci_runtime::{Container, CreateOptions, ErrorKind, Status, Stdio};

pub const TESTS: &[Test] = &[
    ("statuses", statuses),
    ("exec_in_running", exec_in_running),
    ("exec_identity", exec_identity),
    ("kill", kill),
    ("kill_all", kill_all),
    ("pause_and_resume", pause_and_resume),
    ("hooks_in_order", hooks_in_order),
    ("hooks_that_fail", hooks_that_fail),
    ("delete_kills_what_is_left", delete_kills_what_is_left),
    ("creator_dies_before_start", creator_dies_before_start),
    ("creator_dies_after_start", creator_dies_after_start),
    ("nothing_grows", nothing_grows),
];

fn statuses() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]);
    let mut container = bundle.create(Stdio::Null).unwrap();
    assert_eq!(container.status().unwrap(), Status::Created);
    assert_eq!(container.pids().unwrap(), [container.pid()]);
    assert!(container.delete(false).is_err());
    container.start().unwrap();
    assert_eq!(container.status().unwrap(), Status::Running);
    container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(wait(&container.pidfd().unwrap()), 137);
    assert_eq!(container.status().unwrap(), Status::Stopped);
    assert_eq!(container.kill(libc::SIGTERM, false).err().unwrap().kind(), ErrorKind::NotFound);
    container.delete(false).unwrap();
    // A second time there is nothing to do.
    container.delete(false).unwrap();
    bundle.assert_clean();
    // Deleted without ever having been started.
    let mut container = bundle.create(Stdio::Null).unwrap();
    container.delete(true).unwrap();
    bundle.assert_clean();
}

fn exec_in_running() {
    let mut running = Running::new(Bundle::new());
    let output = running.exec("echo $$; readlink /proc/1/exe; hostname; exit 5");
    let mut lines = output.out.lines();
    assert_ne!(lines.next(), Some("1"));
    assert_eq!(lines.collect::<Vec<_>>(), ["/bin/busybox", "testhost"]);
    assert_eq!(output.code, 5);
    // It is in every group of the container, and our own child.
    let (stdio, out, _err) = pipes();
    let process = running.process("cat /proc/self/cgroup; sleep 1000");
    let child = running.exec_child(&process, stdio).unwrap();
    assert!(running.container.pids().unwrap().contains(&child.pid));
    let mut out = fs::File::from(out);
    for _ in 0..fs::read_to_string("/proc/self/cgroup").unwrap().lines().count() {
        let text = line(&mut out);
        assert!(text.contains(&running.bundle.id) || text.starts_with("0::"), "{text}");
    }
    let parent = fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
    let parent: u32 = parent.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(parent, std::process::id());
    // Init's end takes it along.
    running.container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(wait(&child.pidfd), 137);
    wait(&running.container.pidfd().unwrap());
    let process = running.process("true");
    assert_eq!(
        running.exec_child(&process, Stdio::Null).err().unwrap().kind(),
        ErrorKind::FailedPrecondition
    );
}

fn exec_identity() {
    let mut running = Running::new(Bundle::new());
    let mut process =
        running.process("id -u; id -g; pwd; echo $X; grep -E 'CapEff|NoNewPrivs' /proc/self/status; umask");
    process["user"] = json!({"uid": 1000, "gid": 50, "umask": 0o27});
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "X=y"]);
    process["capabilities"] = json!({"bounding": [], "effective": []});
    process["noNewPrivileges"] = json!(false);
    assert_eq!(
        running.exec_process(&process).out,
        "1000\n50\n/tmp\ny\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\n0027\n"
    );
    process["cwd"] = json!("/missing");
    let error = running.exec_child(&process, Stdio::Null).err().unwrap().report();
    assert!(error.contains("/missing: no such file or directory"), "{error}");
    // What the new process does not say is as for init.
    let mut process = running.process("grep CapBnd /proc/self/status");
    process.as_object_mut().unwrap().remove("capabilities");
    assert!(!running.exec_process(&process).out.contains("0000000000000000"));
}

fn kill() {
    // Init has no handler, but a pid namespace's init is spared only what it has none for.
    let mut running = Running::new(Bundle::sh(
        "trap 'exit 9' TERM; echo ready > /tmp/ready; while true; do sleep 0.05; done",
    ));
    let ready = running.bundle.rootfs().join("tmp/ready");
    for _ in 0..200 {
        if ready.exists() {
            break;
        }
        running.exec("sleep 0.05");
    }
    running.container.kill(libc::SIGTERM, false).unwrap();
    assert_eq!(wait(&running.container.pidfd().unwrap()), 9);
    assert!(running.container.kill(12345, false).is_err());
}

fn kill_all() {
    let mut bundle = Bundle::sh("sleep 1000 & sleep 1000 & wait");
    bundle.without_namespace("pid");
    let mut running = Running::new(bundle);
    for _ in 0..200 {
        if running.container.pids().unwrap().len() == 3 {
            break;
        }
        running.exec("sleep 0.02");
    }
    assert_eq!(running.container.pids().unwrap().len(), 3);
    running.container.kill(libc::SIGKILL, true).unwrap();
    assert_eq!(wait(&running.container.pidfd().unwrap()), 137);
    running.container.delete(false).unwrap();
}

fn pause_and_resume() {
    let mut running = Running::new(Bundle::sh("while true; do echo x; done > /dev/null"));
    let container = &mut running.container;
    container.pause().unwrap();
    assert_eq!(container.status().unwrap(), Status::Paused);
    let time = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let before = time(container.pid());
    assert!(container.pause().is_err());
    let process = json!({"args": ["true"], "cwd": "/"}).to_string();
    assert!(container.exec(windlass_oci_runtime::ExecOptions::new(process.as_bytes())).is_err());
    assert_eq!(before, time(container.pid()));
    container.resume().unwrap();
    assert_eq!(container.status().unwrap(), Status::Running);
    assert!(container.resume().is_err());
    // A paused one can be killed and deleted.
    container.pause().unwrap();
    container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(wait(&container.pidfd().unwrap()), 137);
}

fn hooks_in_order() {
    let mut bundle = Bundle::sh("echo main");
    let log = bundle.dir.path().join("log");
    fs::write(&log, "").unwrap();
    fs::write(bundle.rootfs().join("tmp/log"), "").unwrap();
    let hook = |name: &str, file: &str, shell: &str| {
        // What a hook sees of the state, and in which mount and pid namespace it runs.
        let script = format!(
            "state=$(cat); case $state in *'\"status\":\"'*) s=${{state#*status\\\":\\\"}}; s=${{s%%\\\"*}};; esac; \
             test -e /bin/busybox && test ! -e /usr/sbin && in=inside || in=outside; echo {name} $s $in >> {file}"
        );
        json!({"path": shell, "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
    };
    let out = log.to_str().unwrap().to_string();
    bundle.spec["hooks"] = json!({
        "prestart": [hook("prestart", &out, "/bin/sh")],
        "createRuntime": [hook("createRuntime", &out, "/bin/sh")],
        "createContainer": [hook("createContainer", &out, "/bin/sh")],
        "startContainer": [hook("startContainer", "/tmp/log", "/bin/sh")],
        "poststart": [hook("poststart", &out, "/bin/sh")],
        "poststop": [hook("poststop", &out, "/bin/sh")]
    });
    assert_eq!(bundle.run().out, "main\n");
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "prestart creating outside\ncreateRuntime creating outside\ncreateContainer creating outside\n\
         poststart running outside\npoststop stopped outside\n"
    );
    assert_eq!(
        fs::read_to_string(bundle.rootfs().join("tmp/log")).unwrap(),
        "startContainer created inside\n"
    );
}

fn hooks_that_fail() {
    let fail = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 4"]}]);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new();
        bundle.spec["hooks"] = json!({ kind: fail });
        let error = bundle.refused();
        assert!(error.contains("exit status: 4: because"), "{kind}: {error}");
    }
    let mut bundle = Bundle::new();
    bundle.spec["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    assert!(bundle.try_run().err().unwrap().report().contains("/bin/false"));
    let mut bundle = Bundle::new();
    bundle.spec["hooks"] = json!({"poststart": fail, "poststop": fail});
    let mut container = bundle.create(Stdio::Null).unwrap();
    container.start().unwrap();
    assert!(container.warnings()[0].contains("because"));
    wait(&container.pidfd().unwrap());
    container.delete(false).unwrap();
    bundle.assert_clean();
    let mut bundle = Bundle::new();
    bundle.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    assert!(bundle.refused().contains("timed out after 1 s"));
}

fn delete_kills_what_is_left() {
    let mut bundle = Bundle::sh("sleep 1000 & sleep 1000 &");
    bundle.without_namespace("pid");
    let mut container = bundle.create(Stdio::Null).unwrap();
    container.start().unwrap();
    assert_eq!(wait(&container.pidfd().unwrap()), 0);
    assert_eq!(container.pids().unwrap().len(), 2);
    container.delete(false).unwrap();
    bundle.assert_clean();
}

/// Lets another process create the container, and die.
fn created_by_another(bundle: &Bundle, start: bool) {
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let made = bundle.create(Stdio::Null).and_then(|mut c| {
            if start {
                c.start()?
            }
            std::mem::forget(c);
            Ok(())
        });
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(made.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(status, 0);
}

fn creator_dies_before_start() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]);
    created_by_another(&bundle, false);
    let mut container = Container::load(&bundle.state_root(), &bundle.id).unwrap();
    // Nobody is left who could start it, so it has ended, or is about to.
    if let Some(pidfd) = container.pidfd() {
        let mut poll =
            libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&pidfd), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 5000) }, 1);
    }
    assert_eq!(container.status().unwrap(), Status::Stopped);
    container.delete(false).unwrap();
    bundle.assert_clean();
    assert_eq!(Container::load(&bundle.state_root(), &bundle.id).err().unwrap().kind(), ErrorKind::NotFound);
}

fn creator_dies_after_start() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]);
    fs::write(bundle.dir.path().join("config.json"), serde_json::to_vec(&bundle.spec).unwrap()).unwrap();
    created_by_another(&bundle, true);
    let mut container = Container::load(&bundle.state_root(), &bundle.id).unwrap();
    assert_eq!(container.status().unwrap(), Status::Running);
    assert!(container.start().is_err());
    let (stdio, out, _err) = pipes();
    let process = json!({"args": ["hostname"], "cwd": "/", "env": ["PATH=/bin"]}).to_string();
    let mut options = windlass_oci_runtime::ExecOptions::new(process.as_bytes());
    options.stdio = stdio;
    let child = container.exec(options).unwrap();
    assert_eq!(read(out), "testhost\n");
    assert_eq!(wait(&child.pidfd), 0);
    assert!(container.delete(false).is_err());
    container.delete(true).unwrap();
    bundle.assert_clean();
}

fn nothing_grows() {
    let bundle = Bundle::new();
    fs::write(bundle.dir.path().join("config.json"), serde_json::to_vec(&bundle.spec).unwrap()).unwrap();
    let root = bundle.state_root();
    let cycle = || {
        let mut container =
            Container::create(CreateOptions::new(&bundle.id, bundle.dir.path(), &root)).unwrap();
        container.start().unwrap();
        wait(&container.pidfd().unwrap());
        container.delete(false).unwrap();
    };
    cycle();
    let (fds, table, start) = (open_fds(), mounts(), std::time::Instant::now());
    for _ in 0..100 {
        cycle();
    }
    assert_eq!(fds, open_fds());
    assert_mounts(&table);
    bundle.assert_clean();
    // Far above what it takes, far below what a wait for luck would make it.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?} for 100 cycles", start.elapsed());
}
