//! The whole command line, against a daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use serde_json::Value;
use windlass_tests::{Daemon, IMAGE, Registry};

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let text = daemon.windlass(args).ok();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

/// One container as `windlass ps` sees it.
fn field(daemon: &Daemon, id: &str, name: &str) -> String {
    let template = format!("{{{{.{name}}}}}");
    daemon
        .windlass(&["ps", "--all", "--filter", &format!("id=={id}"), "--format", &template])
        .ok()
        .trim()
        .to_owned()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: a plain signal to a child of ours that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn a_detached_container_through_its_whole_life() {
    let daemon = Daemon::with_image();
    let script = "trap 'exit 3' TERM; echo begun; echo to-error >&2; while :; do sleep 0.05; done";
    let options = ["run", "-d", "--name", "web", "--label", "app=web", "-m", "64m", "--pids-limit", "50"];
    let id = daemon.windlass(&[&options[..], &[IMAGE, "sh", "-c", script]].concat()).ok();
    assert_eq!(id, "web\n");
    daemon
        .eventually("its output is in the log", || daemon.windlass(&["logs", "web"]).ok().contains("begun"));
    assert!(daemon.windlass(&["logs", "web"]).ok().contains("to-error"));
    assert_eq!(daemon.windlass(&["logs", "--tail", "0", "web"]).ok(), "");

    assert_eq!(daemon.windlass(&["ps", "-q", "--filter", "labels.app==web"]).ok(), "web\n");
    assert_eq!(daemon.windlass(&["ps", "-q", "--filter", "labels.app==other"]).ok(), "");
    assert!(daemon.windlass(&["ps"]).ok().contains("sh -c trap"));
    assert_eq!(
        daemon.windlass(&["inspect", "--format", "{{.task.status}} {{.labels.app}}", "web"]).ok(),
        "running web\n"
    );
    let spec = json(&daemon, &["inspect", "web"]);
    assert_eq!(spec[0]["spec"]["linux"]["resources"]["memory"]["limit"], 64 << 20);

    assert_eq!(
        daemon.windlass(&["exec", "-w", "/tmp", "-e", "A=b", "web", "sh", "-c", "pwd; echo $A"]).ok(),
        "/tmp\nb\n"
    );
    assert_eq!(daemon.windlass(&["exec", "web", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(daemon.windlass(&["exec", "web", "no-such-program"]).code, 127);
    assert!(daemon.windlass(&["top", "web"]).ok().contains("sh -c trap"));
    let stats = json(&daemon, &["stats", "--no-stream", "--format", "json"]);
    assert_eq!(stats[0]["id"], "web");
    assert_eq!(stats[0]["memory_limit"], 64 << 20);
    assert!(stats[0]["pids"].as_u64().is_some_and(|n| n >= 1), "{stats}");

    daemon.windlass(&["pause", "web"]).ok();
    assert_eq!(field(&daemon, "web", "status"), "paused");
    daemon.windlass(&["resume", "web"]).ok();
    let error = daemon.windlass(&["rm", "web"]).err();
    assert!(error.contains("running") && error.contains("windlass stop web"), "{error}");

    assert_eq!(daemon.windlass(&["stop", "web"]).ok(), "web\n");
    assert_eq!(
        (field(&daemon, "web", "status"), field(&daemon, "web", "exit_status")),
        ("stopped".into(), "3".into())
    );
    assert_eq!(daemon.windlass(&["wait", "web"]).ok(), "3\n");
    daemon.windlass(&["start", "web"]).ok();
    assert_eq!(field(&daemon, "web", "status"), "running");
    let error = daemon.windlass(&["start", "web"]).err();
    assert!(error.contains("running"), "{error}");
    daemon.windlass(&["kill", "-s", "SIGKILL", "web"]).ok();
    assert_eq!(daemon.windlass(&["wait", "web"]).ok(), "137\n");
    daemon.windlass(&["restart", "web"]).ok();
    assert_eq!(field(&daemon, "web", "status"), "running");
    daemon.windlass(&["pause", "web"]).ok();
    daemon.windlass(&["rm", "-f", "web"]).ok();
    assert_eq!(daemon.windlass(&["ps", "-aq"]).ok(), "");
    let logs = daemon
        .state()
        .parent()
        .expect("state lies in the test's directory")
        .join("logs")
        .join(daemon.namespace());
    assert!(!logs.exists(), "the log stays behind");
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn exit_codes_and_remedies_are_told_apart() {
    let daemon = Daemon::with_image();
    assert_eq!(daemon.windlass(&["run", "--rm", IMAGE, "sh", "-c", "exit 41"]).code, 41);
    assert_eq!(daemon.windlass(&["run", "--rm", IMAGE, "no-such-program"]).code, 127);
    assert_eq!(daemon.windlass(&["run", "--rm", IMAGE, "/etc/passwd"]).code, 126);
    assert_eq!(daemon.windlass(&["run", "--no-such-option", IMAGE]).code, 125);
    assert_eq!(daemon.windlass(&["run", "--rm", "--pull", "never", "no-such-image"]).code, 125);
    assert_eq!(daemon.windlass(&["run", "--rm", "-u", "no-such-user", IMAGE, "true"]).code, 125);
    assert_eq!(daemon.windlass(&["run", "--rm", "-u", "2147483648", IMAGE, "true"]).code, 125);
    assert_eq!(daemon.windlass(&["ps", "--no-such-option"]).code, 2);
    assert_eq!(daemon.windlass(&["stop", "none"]).code, 1);
    let error = daemon.windlass(&["inspect", "none"]).err();
    assert!(error.contains("windlass ps -a"), "{error}");
    let error = daemon.windlass(&["push", "none"]).err();
    assert!(error.contains("windlass pull none"), "{error}");
    assert_eq!(daemon.windlass(&["ps", "-aq"]).ok(), "", "a container that failed is left behind");

    daemon.windlass(&["create", "--name", "twice", IMAGE]).ok();
    let error = daemon.windlass(&["create", "--name", "twice", IMAGE]).err();
    assert!(error.contains("windlass rm twice"), "{error}");
    let error = daemon.windlass(&["--address", "/no/such.sock", "ps"]);
    assert_ne!(error.code, 0);

    // The exit status of a container that somebody was with is kept.
    assert_eq!(daemon.windlass(&["run", "--name", "kept", IMAGE, "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(field(&daemon, "kept", "state"), "exited (5)");
    assert_eq!(daemon.windlass(&["wait", "kept"]).ok(), "5\n");
    assert_eq!(daemon.windlass(&["start", "-a", "kept"]).code, 5);
}

#[test]
fn options_reach_the_process() {
    let daemon = Daemon::with_image();
    let run = |options: &[&str], script: &str| {
        daemon.windlass(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat()).ok()
    };
    assert_eq!(run(&["-u", "nobody"], "id -u; id -g"), "65534\n65534\n");
    assert_eq!(run(&["-u", "33:44"], "id -u; id -G"), "33\n44\n");
    assert_eq!(run(&["--hostname", "box", "-w", "/tmp"], "hostname; pwd"), "box\n/tmp\n");
    assert_eq!(run(&["--ulimit", "nofile=77"], "ulimit -n"), "77\n");
    assert_eq!(run(&["--read-only"], "touch /x 2>/dev/null; echo $?"), "1\n");
    assert_eq!(run(&["--read-only", "--tmpfs", "/t"], "touch /t/x; echo $?"), "0\n");
    assert_eq!(run(&["--cap-drop", "ALL"], "grep CapEff /proc/self/status"), "CapEff:\t0000000000000000\n");
    assert_eq!(run(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    assert_eq!(run(&["--device", "/dev/null:/dev/nothing"], "test -c /dev/nothing; echo $?"), "0\n");
    assert_eq!(run(&["--entrypoint", "/bin/echo"], "x"), "sh -c x\n");
    assert_eq!(run(&["--privileged"], "grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t0\n");
    assert_eq!(run(&[], "grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t1\n");

    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("env"), "FROM_FILE=yes\n").expect("a file is written");
    std::fs::write(dir.path().join("shared"), "seen\n").expect("a file is written");
    let env = dir.path().join("env");
    let volume = format!("{}:/here:ro", dir.path().display());
    let got = run(
        &["--env-file", env.to_str().expect("UTF-8"), "-v", &volume],
        "echo $FROM_FILE; cat /here/shared; touch /here/x 2>/dev/null; echo $?",
    );
    assert_eq!(got, "yes\nseen\n1\n");
    let cidfile = dir.path().join("cid");
    let cid = cidfile.to_str().expect("UTF-8");
    run(&["--cidfile", cid, "--name", "named"], "true");
    assert_eq!(std::fs::read_to_string(&cidfile).expect("the file is there"), "named");
    assert!(daemon.windlass(&["run", "--rm", "--cidfile", cid, IMAGE]).err().contains("exists already"));

    // Namespaces of another container.
    daemon.windlass(&["run", "-d", "--name", "other", "--hostname", "theirs", IMAGE, "sleep", "1000"]).ok();
    assert_eq!(
        run(
            &["--uts", "container:other", "--pid", "container:other"],
            "hostname; tr '\\0' ' ' </proc/1/cmdline"
        ),
        "theirs\nsleep 1000 "
    );
}

#[test]
fn a_seccomp_profile_is_kept() {
    let daemon = Daemon::with_image();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("profile.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    std::fs::write(&file, profile).expect("a file is written");
    let option = format!("seccomp={}", file.display());
    let refused = daemon.windlass(&["run", "--rm", "--security-opt", &option, IMAGE, "mkdir", "/x"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let admin = ["run", "--rm", "--cap-add", "SYS_ADMIN", "--security-opt", &option, IMAGE, "mkdir", "/x"];
    daemon.windlass(&admin).ok();
}

#[test]
fn images_go_out_and_come_back() {
    let daemon = Daemon::with_image();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("out.tar");
    let tar = file.to_str().expect("UTF-8");
    daemon.windlass(&["tag", IMAGE, "copy:1"]).ok();
    let names = daemon.windlass(&["images", "-q"]).ok();
    assert_eq!(names, format!("docker.io/library/copy:1\n{IMAGE}\n"));
    assert!(
        daemon
            .windlass(&["images", "copy", "--format", "{{.size}}"])
            .ok()
            .trim()
            .parse::<u64>()
            .is_ok_and(|n| n > 0)
    );
    daemon.windlass(&["export", "-o", tar, "copy:1", IMAGE]).ok();
    daemon.windlass(&["rmi", "--all"]).ok();
    assert_eq!(daemon.windlass(&["content", "ls", "-q"]).ok(), "");
    let imported = daemon.windlass(&["import", "-q", tar]).ok();
    let mut imported: Vec<_> = imported.lines().collect();
    imported.sort_unstable();
    assert_eq!(imported, ["docker.io/library/copy:1", IMAGE]);
    assert_eq!(daemon.windlass(&["run", "--rm", "copy:1", "echo", "works"]).ok(), "works\n");

    // Through pipes.
    let mut export =
        daemon.command(&["export", "copy:1"]).stdout(Stdio::piped()).spawn().expect("windlass runs");
    let import = daemon.command(&["import", "-"]).stdin(export.stdout.take().expect("a pipe")).output();
    assert!(import.expect("windlass runs").status.success());
    assert!(export.wait().expect("a child can be waited for").success());

    let missing = daemon.windlass(&["import", "/no/such.tar"]).err();
    assert!(missing.contains("/no/such.tar"), "{missing}");
    assert!(!daemon.windlass(&["import", "/etc/passwd"]).err().is_empty());
    let size = daemon.windlass(&["inspect", "--type", "image", "--format", "{{.size}}", "copy:1"]).ok();
    assert!(size.trim().parse::<u64>().is_ok_and(|n| n > 0), "{size}");

    daemon.windlass(&["run", "--name", "user", "copy:1", "true"]).ok();
    let error = daemon.windlass(&["rmi", "copy:1"]).err();
    assert!(error.contains("windlass rm user"), "{error}");
    // Unpacked by us where the daemon did not.
    assert_eq!(
        daemon.windlass(&["run", "--rm", "--snapshotter", "native", "copy:1", "echo", "native"]).ok(),
        "native\n"
    );
}

#[test]
fn the_rest_of_the_nouns_can_be_listed_and_changed() {
    let daemon = Daemon::with_image();
    daemon.windlass(&["ns", "create", "other", "a=b"]).ok();
    daemon.windlass(&["ns", "label", "other", "c=d", "a="]).ok();
    let spaces = json(&daemon, &["ns", "ls", "--format", "json"]);
    let other = spaces
        .as_array()
        .expect("a list")
        .iter()
        .find(|n| n["name"] == "other")
        .expect("it is listed")
        .clone();
    assert_eq!(other["labels"], serde_json::json!({"c": "d"}));
    daemon.windlass(&["ns", "rm", "other"]).ok();

    let lease = daemon.windlass(&["leases", "create", "--expires", "1h", "--label", "x=y"]).ok();
    let listed = json(&daemon, &["leases", "ls", "--format", "json"]);
    let mine = listed
        .as_array()
        .expect("a list")
        .iter()
        .find(|l| l["id"] == lease.trim())
        .expect("it is listed")
        .clone();
    assert_eq!(mine["labels"]["x"], "y");
    assert!(mine["expires"].as_str().is_some_and(|e| e.contains('T')), "{mine}");
    daemon.windlass(&["leases", "rm", lease.trim()]).ok();
    assert_eq!(daemon.windlass(&["leases", "ls", "-q"]).ok(), "");

    let digest =
        daemon.windlass(&["content", "ls", "-q"]).ok().lines().next().expect("there is content").to_owned();
    let blob = daemon.command(&["content", "get", &digest]).output().expect("windlass runs").stdout;
    assert!(!blob.is_empty());
    assert_eq!(daemon.windlass(&["content", "active", "--format", "json"]).ok(), "[]\n");

    daemon.windlass(&["create", "--name", "c", IMAGE]).ok();
    let tree = daemon.windlass(&["snapshots", "tree"]).ok();
    assert!(tree.starts_with("sha256:") && tree.contains("\n  c (active)\n"), "{tree}");
    let usage = json(&daemon, &["snapshots", "usage", "--format", "json"]);
    assert!(
        usage.as_array().expect("a list").iter().all(|u| u["inodes"].as_i64().is_some_and(|n| n > 0)),
        "{usage}"
    );
    assert!(daemon.windlass(&["snapshots", "mounts", "c"]).ok().contains("overlay"));

    assert_eq!(daemon.windlass(&["plugins", "--failed", "--format", "json"]).ok(), "[]\n");
    assert!(
        daemon.windlass(&["plugins", "ls", "id==overlayfs"]).ok().contains("io.containerd.snapshotter.v1")
    );
    let info = json(&daemon, &["info", "--format", "json"]);
    assert_eq!(info["root"], daemon.root().to_str().expect("UTF-8"));
    assert_eq!((info["containers"].as_u64(), info["images"].as_u64()), (Some(1), Some(1)));
    let config = daemon.windlass(&["config"]).ok();
    assert!(
        config.contains(daemon.address().to_str().expect("UTF-8")) && config.contains("command line"),
        "{config}"
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(daemon.windlass(&["completion", shell]).ok().contains("windlass"));
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    daemon.windlass(&["man", dir.path().to_str().expect("UTF-8")]).ok();
    assert!(dir.path().join("windlass-run.1").exists());
}

#[test]
fn events_are_told_as_they_happen() {
    let daemon = Daemon::with_image();
    let mut events = daemon
        .command(&["events", "--format", "json", "--filter", "topic~=^/tasks/"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("windlass runs");
    let lines = BufReader::new(events.stdout.take().expect("a pipe")).lines();
    // Nobody says when a subscription begins: containers run until one is seen.
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let seen = seen.clone();
        move || {
            let mut topics = Vec::new();
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).expect("a line is JSON");
                let topic = event["topic"].as_str().expect("an event has a topic").to_owned();
                topics.push(topic.clone());
                if topic == "/tasks/exit" {
                    assert_eq!(event["event"]["exit_status"], 6);
                    seen.store(true, std::sync::atomic::Ordering::SeqCst);
                    break;
                }
            }
            topics
        }
    });
    daemon.eventually("an exit is told", || {
        daemon.windlass(&["run", "--rm", IMAGE, "sh", "-c", "exit 6"]);
        seen.load(std::sync::atomic::Ordering::SeqCst)
    });
    let topics = reader.join().expect("the reader ends");
    assert!(topics.iter().all(|t| t.starts_with("/tasks/")), "{topics:?}");
    events.kill().expect("a child can be killed");
    events.wait().expect("a child can be waited for");
}

#[test]
fn files_are_copied_both_ways() {
    let daemon = Daemon::with_image();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let here = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::create_dir_all(dir.path().join("site/sub")).expect("directories are made");
    std::fs::write(dir.path().join("site/sub/page"), "hello").expect("a file is written");
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]).ok();
    daemon.windlass(&["cp", &here("site"), "c:/tmp"]).ok();
    assert_eq!(daemon.windlass(&["exec", "c", "cat", "/tmp/site/sub/page"]).ok(), "hello");
    daemon.windlass(&["exec", "c", "sh", "-c", "echo out >/tmp/out; ln -s /etc/shadow /tmp/link"]).ok();
    daemon.windlass(&["cp", "c:/tmp/out", &here("got")]).ok();
    assert_eq!(std::fs::read_to_string(dir.path().join("got")).expect("it came"), "out\n");
    // Links of the container are links, and lead nowhere out of it.
    daemon.windlass(&["cp", "c:/tmp/link", &here("link")]).ok();
    assert!(dir.path().join("link").symlink_metadata().expect("it came").is_symlink());
    daemon.windlass(&["stop", "-t", "0", "c"]).ok();
    daemon.windlass(&["cp", "c:/tmp/site", &here("back")]).ok();
    assert_eq!(std::fs::read_to_string(dir.path().join("back/sub/page")).expect("it came"), "hello");
    assert!(daemon.windlass(&["cp", "c:/none", &here("none")]).err().contains("none"));
}

#[test]
fn credentials_come_from_the_line_the_file_and_helpers() {
    let daemon = Daemon::builder().start();
    let registry = Registry::with_login();
    let image = registry.image();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let windlass = |args: &[&str]| {
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = daemon.command(args);
        let out = command.env("DOCKER_CONFIG", dir.path()).env("PATH", path).output().expect("windlass runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(!text.contains("hunter") && !text.contains("bWU6"), "a secret is printed: {text}");
        (out.status.code().unwrap_or(-1), text)
    };
    let pull = |options: &[&str]| {
        let result = windlass(&[&["pull", "--plain-http"], options, &[&image]].concat());
        daemon.windlass(&["rmi", "--all"]);
        result
    };
    let (code, text) = pull(&[]);
    assert_ne!(code, 0, "pulled without credentials: {text}");
    assert!(text.contains("401") || text.to_lowercase().contains("auth"), "{text}");
    assert_ne!(pull(&["--user", "me:wrong-hunter"]).0, 0);
    assert_eq!(pull(&["--user", "me:hunter2"]).0, 0);

    let login = |args: &[&str]| {
        let mut command = daemon.command(args);
        let mut child =
            command.env("DOCKER_CONFIG", dir.path()).stdin(Stdio::piped()).spawn().expect("windlass runs");
        child.stdin.take().expect("a pipe").write_all(b"hunter2\n").expect("it reads");
        assert!(child.wait().expect("a child can be waited for").success());
    };
    let host = registry.host();
    login(&["login", "-u", "me", "--password-stdin", &host]);
    assert_eq!(pull(&[]).0, 0);
    assert!(windlass(&["config"]).1.contains(&host));
    assert_eq!(windlass(&["logout", &host]).0, 0);
    assert_ne!(pull(&[]).0, 0);

    let helper = dir.path().join("docker-credential-windlasstest");
    std::fs::write(
        &helper,
        "#!/bin/sh\nread -r host\necho \"{\\\"Username\\\": \\\"me\\\", \\\"Secret\\\": \\\"hunter2\\\"}\"\n",
    )
    .expect("a file is written");
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let config = format!("{{\"credHelpers\": {{\"{host}\": \"windlasstest\"}}}}");
    std::fs::write(dir.path().join("config.json"), config).expect("a file is written");
    let (code, text) = pull(&[]);
    assert_eq!(code, 0, "{text}");
    // One that fails is told, and nothing it says that is a secret.
    std::fs::write(&helper, "#!/bin/sh\necho 'the store is locked'; exit 1\n").expect("a file is written");
    let (code, text) = pull(&[]);
    assert!(code != 0 && text.contains("the store is locked"), "{text}");
}

#[test]
fn an_interrupt_ends_a_pull_at_once() {
    let daemon = Daemon::builder().start();
    let stalling = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let image = format!("{}/a/b", stalling.local_addr().expect("a bound socket has an address"));
    let pull = daemon
        .command(&["pull", "--plain-http", &image])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("windlass runs");
    let (_connection, _) = stalling.accept().expect("the daemon asks");
    signal(&pull, libc::SIGINT);
    let out = pull.wait_with_output().expect("a child can be waited for");
    assert_eq!(out.status.code(), Some(130), "{out:?}");
    assert_eq!(daemon.windlass(&["images", "-q"]).ok(), "");
}

#[test]
fn signals_go_to_the_container_and_patience_ends() {
    let daemon = Daemon::with_image();
    let start = |script: &str| {
        let mut child = daemon
            .command(&["run", "--rm", "--name", "c", IMAGE, "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("windlass runs");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("output comes");
        (child, output)
    };
    let (mut child, _output) = start("trap 'exit 8' INT; echo ready; while :; do sleep 0.05; done");
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(8));

    let (mut child, _output) = start("trap '' INT; echo ready; while :; do sleep 0.05; done");
    daemon.eventually("the client gives up", || {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return true;
        }
        signal(&child, libc::SIGINT);
        false
    });
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(130));
    assert_eq!(field(&daemon, "c", "status"), "running");
    daemon.windlass(&["rm", "-f", "c"]).ok();

    // Nobody reads the output: the client ends, and so does a container that was to go with it.
    let (mut child, output) = start("echo ready; yes");
    drop(output);
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(141));
    assert_eq!(daemon.windlass(&["ps", "-aq"]).ok(), "");
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn an_attached_client_outlives_the_daemon() {
    let mut daemon = Daemon::with_image();
    let script = "echo begun; while [ ! -e /go ]; do sleep 0.02; done; echo ended; exit 9";
    let run =
        daemon.command(&["run", "--name", "c", IMAGE, "sh", "-c", script]).stdout(Stdio::piped()).spawn();
    let mut run = run.expect("windlass runs");
    let mut output = BufReader::new(run.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("output comes");
    let go = format!("/proc/{}/root/go", field(&daemon, "c", "pid"));
    daemon.restart();
    std::fs::write(go, "").expect("the container's root is there");
    line.clear();
    output.read_to_string(&mut line).expect("output comes");
    assert_eq!(line, "ended\n");
    assert_eq!(run.wait().expect("a child can be waited for").code(), Some(9));
}

#[test]
fn text_of_strangers_does_not_reach_the_terminal() {
    let daemon = Daemon::with_image();
    let evil = "x=\x1b[2J\u{9b}31m";
    daemon
        .windlass(&[
            "run",
            "-d",
            "--name",
            "c",
            "--label",
            evil,
            IMAGE,
            "sh",
            "-c",
            "sleep 1000; : \x1b]0;x\x07",
        ])
        .ok();
    for args in [
        &["ps", "--no-trunc"][..],
        &["ps", "--format", "{{.labels.x}} {{json .labels}} {{.command}}"],
        &["ps", "--format", "json"],
        &["inspect", "c"],
        &["top", "c"],
    ] {
        let text = daemon.windlass(args).ok();
        assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{args:?}: {text:?}");
    }
    let shown = json(&daemon, &["ps", "--format", "json"]);
    assert_eq!(shown[0]["labels"]["x"], "\x1b[2J\u{9b}31m");
}

/// A pair of ends of a new terminal.
fn terminal() -> (std::fs::File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two integers outlive the call; the other pointers may be null or are valid.
    let made =
        unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(made, 0, "a terminal can be made");
    // SAFETY: the call gave us both descriptors, and nobody else has them.
    unsafe { (std::fs::File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

fn is_raw(slave: &OwnedFd) -> bool {
    // SAFETY: a zeroed termios is a valid one to be filled.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: descriptor and pointer are valid for the call.
    assert_eq!(unsafe { libc::tcgetattr(slave.as_raw_fd(), &mut settings) }, 0);
    settings.c_lflag & libc::ICANON == 0
}

/// `windlass …` at a terminal of its own.
fn at_terminal(daemon: &Daemon, args: &[&str], slave: &OwnedFd) -> Child {
    let copy = || Stdio::from(slave.try_clone().expect("a descriptor can be copied"));
    let mut command = daemon.command(args);
    command.stdin(copy()).stdout(copy()).stderr(copy());
    // SAFETY: both are plain system calls, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    command.spawn().expect("windlass runs")
}

/// Reads from a terminal until `text` has come; answers all of it.
fn until(master: &mut std::fs::File, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = master.read(&mut buffer).expect("the terminal is open");
        all.extend_from_slice(&buffer[..count]);
        let shown = String::from_utf8_lossy(&all);
        if shown.contains(text) {
            return shown.into_owned();
        }
    }
}

#[test]
fn a_terminal_is_the_containers_and_comes_back() {
    let daemon = Daemon::with_image();
    let (mut master, slave) = terminal();
    let mut run = at_terminal(&daemon, &["run", "-it", "--name", "t", IMAGE, "sh"], &slave);
    until(&mut master, "#");
    daemon.eventually("the size has arrived", || {
        master.write_all(b"stty size; echo ok\r").expect("the terminal takes keys");
        until(&mut master, "ok\r\n").contains("33 77")
    });
    assert!(is_raw(&slave));
    // Ctrl-C is the container's.
    // While a shell edits its line it takes keys as they are: something else must run.
    master.write_all(b"sh -c 'echo in-$((4+4)); exec sleep 1000'\r").expect("the terminal takes keys");
    until(&mut master, "in-8");
    master.write_all(b"\x03").expect("the terminal takes keys");
    master.write_all(b"echo still-$((1+1))\r").expect("the terminal takes keys");
    until(&mut master, "still-2");
    master.write_all(b"\x10\x11").expect("the terminal takes keys");
    until(&mut master, "runs on");
    assert_eq!(run.wait().expect("a child can be waited for").code(), Some(0));
    assert!(!is_raw(&slave), "the terminal stays raw");
    assert_eq!(field(&daemon, "t", "status"), "running");

    let mut attach = at_terminal(&daemon, &["attach", "t"], &slave);
    daemon.eventually("the terminal is attached", || is_raw(&slave));
    master.write_all(b"echo again-$((2+2))\r").expect("the terminal takes keys");
    until(&mut master, "again-4");
    master.write_all(b"exit 12\r").expect("the terminal takes keys");
    assert_eq!(attach.wait().expect("a child can be waited for").code(), Some(12));
    assert!(!is_raw(&slave), "the terminal stays raw");

    let mut start = at_terminal(&daemon, &["start", "-ai", "t"], &slave);
    daemon.eventually("the terminal is attached", || is_raw(&slave));
    // Told to end from outside: the terminal is given back, whatever the shell makes of it.
    daemon.eventually("it ends", || {
        if start.try_wait().expect("a child can be waited for").is_some() {
            return true;
        }
        signal(&start, libc::SIGTERM);
        false
    });
    start.wait().expect("a child can be waited for");
    assert!(!is_raw(&slave), "the terminal stays raw");
    daemon.windlass(&["rm", "-f", "t"]).ok();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn a_detached_terminal_can_be_joined() {
    let daemon = Daemon::with_image();
    daemon.windlass(&["run", "-dit", "--name", "t", IMAGE, "sh"]).ok();
    let (mut master, slave) = terminal();
    let mut attach = at_terminal(&daemon, &["attach", "--detach-keys", "ctrl-a,d", "t"], &slave);
    daemon.eventually("the terminal is attached", || is_raw(&slave));
    master.write_all(b"echo joined-$((3+3))\r").expect("the terminal takes keys");
    until(&mut master, "joined-6");
    master.write_all(b"\x01d").expect("the terminal takes keys");
    assert_eq!(attach.wait().expect("a child can be waited for").code(), Some(0));
    assert!(daemon.windlass(&["logs", "t"]).ok().contains("joined-6"));
    daemon.windlass(&["rm", "-f", "t"]).ok();
    let fifos =
        daemon.state().parent().expect("state lies in the test's directory").join("run/windlass-fifo");
    assert_eq!(std::fs::read_dir(fifos).map_or(0, Iterator::count), 0, "fifos stay behind");
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[test]
fn a_log_is_followed_until_the_end() {
    let daemon = Daemon::with_image();
    let script = "echo one; while [ ! -e /go ]; do sleep 0.02; done; seq 1 5000; echo last";
    daemon.windlass(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", script]).ok();
    let logs = daemon.command(&["logs", "-f", "c"]).stdout(Stdio::piped()).spawn();
    let mut logs = logs.expect("windlass runs");
    let mut output = BufReader::new(logs.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("output comes");
    assert_eq!(line, "one\n");
    std::fs::write(format!("/proc/{}/root/go", field(&daemon, "c", "pid")), "")
        .expect("the container's root is there");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("output comes");
    assert_eq!(rest.lines().count(), 5001);
    assert!(rest.ends_with("last\n"));
    assert!(logs.wait().expect("a child can be waited for").success());
    assert_eq!(daemon.windlass(&["logs", "--tail", "2", "c"]).ok(), "5000\nlast\n");
}
