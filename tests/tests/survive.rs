//! The daemon and shims die; containers, their output and their exits do not get lost.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;
use windlass_tests::{Daemon, IMAGE};

/// One container as `windlass ps` sees it.
fn container(daemon: &Daemon, id: &str) -> Option<Value> {
    let list: Value =
        serde_json::from_str(&daemon.windlass(&["ps", "--all", "--format", "json"]).ok()).expect("JSON");
    list.as_array().expect("a list").iter().find(|c| c["id"] == id).cloned()
}

fn status(daemon: &Daemon, id: &str) -> String {
    container(daemon, id).map_or("gone".into(), |c| c["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn ten_containers_survive_kill_nine_of_the_daemon() {
    let mut daemon = Daemon::with_image();
    for n in 0..6 {
        let name = format!("sleeper{n}");
        daemon.windlass(&["run", "-d", "--name", &name, IMAGE, "sleep", "1000"]).ok();
    }
    daemon.windlass(&["run", "-d", "--name", "paused", IMAGE, "sleep", "1000"]).ok();
    daemon.windlass(&["pause", "paused"]).ok();
    daemon.windlass(&["run", "-d", "--name", "tty", "--tty", IMAGE, "sleep", "1000"]).ok();
    daemon
        .windlass(&[
            "run",
            "-d",
            "--name",
            "ends",
            IMAGE,
            "sh",
            "-c",
            "while [ ! -e /go ]; do sleep 0.02; done; exit 42",
        ])
        .ok();
    // Piped output: a client of its own stays attached over the daemon's death through the fifos.
    let piped = daemon
        .command(&[
            "run",
            "--name",
            "piped",
            "-i",
            IMAGE,
            "sh",
            "-c",
            "echo first; read x; echo $x; seq 1 20000; echo last",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut piped = piped.expect("windlass runs");
    let mut output = BufReader::new(piped.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("output comes");
    assert_eq!(line, "first\n");
    let pids: Vec<_> = (0..6).map(|n| daemon.pid_of(&format!("sleeper{n}"))).collect();
    let ending = format!("/proc/{}/root/go", daemon.pid_of("ends"));

    daemon.kill();
    std::fs::write(ending, "").expect("the container's root is there");
    piped.stdin.take().expect("a pipe").write_all(b"second\n").expect("the container reads");
    let mut rest = Vec::new();
    while rest.last().is_none_or(|l| l != "last") {
        let mut line = String::new();
        assert_ne!(
            output.read_line(&mut line).expect("output comes"),
            0,
            "output ended after {} lines",
            rest.len()
        );
        rest.push(line.trim_end().to_owned());
    }
    assert_eq!(rest.len(), 20_002, "not a line is lost");
    assert_eq!(rest[0], "second");
    daemon.start();

    for (n, before) in pids.iter().enumerate() {
        let name = format!("sleeper{n}");
        assert_eq!(status(&daemon, &name), "running");
        assert_eq!(daemon.pid_of(&name), *before);
    }
    assert_eq!(status(&daemon, "paused"), "paused");
    daemon.windlass(&["resume", "paused"]).ok();
    assert_eq!(status(&daemon, "tty"), "running");
    daemon.eventually("the exit is known", || status(&daemon, "ends") == "stopped");
    assert_eq!(container(&daemon, "ends").expect("it is listed")["exit_status"], 42);
    assert_eq!(daemon.windlass(&["exec", "sleeper0", "echo", "still here"]).ok(), "still here\n");
    piped.kill().expect("a child can be killed");
    piped.wait().expect("a child can be waited for");
    daemon.windlass(&["rm", "--force", "--all"]).ok();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn an_exec_in_flight_finishes_over_a_restart() {
    let mut daemon = Daemon::with_image();
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]).ok();
    let exec = daemon
        .command(&[
            "exec",
            "c",
            "sh",
            "-c",
            "echo begun; while [ ! -e /go ]; do sleep 0.02; done; echo done >/proof",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut exec = exec.expect("windlass runs");
    let mut line = String::new();
    BufReader::new(exec.stdout.take().expect("a pipe")).read_line(&mut line).expect("output comes");
    let root = format!("/proc/{}/root", daemon.pid_of("c"));
    daemon.kill();
    std::fs::write(format!("{root}/go"), "").expect("the container's root is there");
    daemon.start();
    daemon.eventually("the exec finishes", || std::path::Path::new(&format!("{root}/proof")).exists());
    exec.kill().expect("a child can be killed");
    exec.wait().expect("a child can be waited for");
    assert_eq!(status(&daemon, "c"), "running");
}

#[test]
fn a_killed_shim_takes_its_container_along_and_leaves_nothing() {
    let daemon = Daemon::with_image();
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]).ok();
    let process = daemon.pid_of("c");
    daemon.kill_shim("c");
    daemon
        .eventually("the container is gone", || !std::path::Path::new(&format!("/proc/{process}")).exists());
    daemon.eventually("the task is cleaned up", || {
        matches!(status(&daemon, "c").as_str(), "stopped" | "no task")
    });
    daemon.windlass(&["rm", "--force", "c"]).ok();
    daemon.eventually("nothing is left", || daemon.leftovers().is_empty());
    // The name is free again.
    assert_eq!(daemon.windlass(&["run", "--rm", "--name", "c", IMAGE, "echo", "again"]).ok(), "again\n");
}

#[test]
fn a_shim_that_dies_with_the_daemon_is_found_dead() {
    let mut daemon = Daemon::with_image();
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]).ok();
    let process = daemon.pid_of("c");
    daemon.kill_with_shim("c");
    daemon.start();
    daemon
        .eventually("the container is gone", || !std::path::Path::new(&format!("/proc/{process}")).exists());
    daemon.windlass(&["rm", "--force", "c"]).ok();
    daemon.eventually("nothing is left", || daemon.leftovers().is_empty());
}

#[test]
fn sigterm_ends_the_daemon_and_not_the_containers() {
    let mut daemon = Daemon::with_image();
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]).ok();
    let before = daemon.pid_of("c");
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(std::path::Path::new(&format!("/proc/{before}")).exists());
    daemon.start();
    assert_eq!(status(&daemon, "c"), "running");
    assert_eq!(daemon.pid_of("c"), before);
}

#[test]
fn one_root_has_one_daemon() {
    let daemon = Daemon::builder().start();
    let second = std::process::Command::new(Daemon::bin().join("windlassd"))
        .arg("--root")
        .arg(daemon.root())
        .arg("--state")
        .arg(daemon.state())
        .arg("--address")
        .arg(daemon.address())
        .output()
        .expect("windlassd runs");
    assert!(!second.status.success());
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains(&daemon.pid().to_string()), "the refusal names the other's process: {error}");
    daemon.windlass(&["version"]).ok();
}
