//! Kubernetes' pods: whole lives, deaths of the daemon and of shims, networks that fail; nothing is lost or left over.

use std::time::{Duration, Instant};

use tonic::Code;
use windlass_api::cri::{ContainerEventType, ContainerState, NamespaceMode, PodSandboxConfig};
use windlass_tests::cri::{COMPLAINT, Mode, Node, Process, log, pod, script};
use windlass_tests::{Daemon, VOLUME};

/// Ends at once when asked to.
const IDLE: &str = "trap 'exit 5' TERM; sleep 1000 & wait";

/// A pod with a network.
fn networked(node: &Node, name: &str) -> PodSandboxConfig {
    pod(node, name, NamespaceMode::Pod, false)
}

/// The network namespace of a process.
fn network_of(process: &str) -> String {
    std::fs::read_link(format!("/proc/{process}/ns/net")).expect("it runs").to_string_lossy().into_owned()
}

#[test]
fn pods_and_containers_live_and_leave_nothing() {
    let node = Node::start();
    let happened = node.events();
    let (web, host) = (networked(&node, "web"), pod(&node, "host", NamespaceMode::Node, false));
    let (web_id, host_id) = (node.run_pod(&web).expect("a pod"), node.run_pod(&host).expect("a pod"));
    let addresses = node.plugin.addresses();
    assert_eq!(addresses, [("10.9.0.2".to_owned(), format!("{web_id}-eth0"))], "one address, for one pod");
    let status = node.pod_status(&web_id).expect("it is known");
    assert_eq!(status.network.expect("it has one").ip, "10.9.0.2");
    assert!(node.is_ready(&web_id) && node.is_ready(&host_id));

    let talk = "echo out; echo err >&2; printf unfinished; exit 3";
    let (a, b) = (script(&web, "a", IDLE), script(&web, "b", talk));
    let a_id = node.create(&web_id, &a, &web).expect("a container");
    assert_eq!(node.state(&a_id), ContainerState::ContainerCreated);
    node.start_container(&a_id).expect("it starts");
    assert_eq!(node.state(&a_id), ContainerState::ContainerRunning);
    let said = node.exec(&a_id, "echo yes; echo no >&2; exit 7").expect("a command can be run");
    assert_eq!(said, Process { code: 7, stdout: "yes\n".into(), stderr: "no\n".into() });
    assert_eq!(node.says(&a_id, "hostname"), "web");
    assert_eq!(node.says(&a_id, &format!("touch {VOLUME}/x && grep -c ' {VOLUME} ' /proc/mounts")), "1");
    let other = node.run(&host_id, &script(&host, "other", IDLE), &host);
    assert_eq!(node.says(&other, "readlink /proc/self/ns/net"), network_of("self"));
    assert_ne!(node.says(&a_id, "readlink /proc/self/ns/net"), network_of("self"));

    let b_id = node.run(&web_id, &b, &web);
    assert_eq!(node.ended(&b_id), (3, "Error".into()));
    let mut lines = log(&node.logs("web").join("b.log"));
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P unfinished"]);
    node.stop_container(&a_id, 20).expect("it stops");
    assert_eq!(node.ended(&a_id), (5, "Error".into()));
    for id in [&a_id, &b_id] {
        node.remove_container(id).expect("it goes");
        node.remove_container(id).expect("it has gone");
        assert_eq!(node.status(id).expect_err("it has gone").code(), Code::NotFound);
    }
    node.stop_pod(&web_id).expect("it stops");
    assert!(!node.is_ready(&web_id));
    assert_eq!(node.plugin.addresses(), [], "the address is free again");
    node.remove_pod(&web_id).expect("it goes");
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
        ContainerStoppedEvent as Stopped,
    };
    for id in [&web_id, &a_id, &b_id] {
        let about = || -> Vec<_> {
            let all = happened.lock().expect("nobody panics");
            all.iter().filter(|(about, _)| about == id).map(|(_, kind)| *kind).collect()
        };
        node.daemon.eventually("events come", || about().len() >= 4);
        assert_eq!(about(), [Created, Started, Stopped, Deleted]);
    }
    node.end();
}

#[test]
fn a_killed_daemon_disturbs_nobody() {
    let mut node = Node::start();
    let (web, shared) = (networked(&node, "web"), pod(&node, "shared", NamespaceMode::Node, true));
    let (web_id, shared_id) = (node.run_pod(&web).expect("a pod"), node.run_pod(&shared).expect("a pod"));
    let idle = node.run(&web_id, &script(&web, "idle", IDLE), &web);
    let gated = |then: &str| format!("echo begun; while [ ! -e /go ]; do sleep 0.02; done; {then}");
    let ends = node.run(&web_id, &script(&web, "ends", &gated("exit 42")), &web);
    let writes = node.run(&web_id, &script(&web, "writes", &gated("seq 1 20000")), &web);
    let beside = node.run(&shared_id, &script(&shared, "beside", IDLE), &shared);
    let waits = node.create(&web_id, &script(&web, "waits", IDLE), &web).expect("a container");
    let ids = [&idle, &ends, &writes, &beside];
    let pids = ids.map(|id| node.pid(id));
    let go = |pid: i32| std::fs::write(format!("/proc/{pid}/root/go"), "").expect("its root is there");

    node.daemon.kill();
    go(pids[1]);
    go(pids[2]);
    let here = |pid: i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    node.daemon.eventually("it ends while nobody looks", || !here(pids[1]));
    node.daemon.start();

    for (id, pid) in [(&idle, pids[0]), (&beside, pids[3])] {
        assert_eq!((node.state(id), node.pid(id)), (ContainerState::ContainerRunning, pid));
        assert_eq!(node.says(id, "echo still here"), "still here");
    }
    assert!(
        node.says(&beside, "cat /proc/1/cmdline | tr '\\0' ' '").contains("pause"),
        "the pod's own process"
    );
    assert_eq!(node.ended(&ends), (42, "Error".into()));
    assert_eq!(node.ended(&writes), (0, "Completed".into()));
    let mut expected = vec!["stdout F begun".to_owned()];
    expected.extend((1..=20_000).map(|n| format!("stdout F {n}")));
    let lines = log(&node.logs("web").join("writes.log"));
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected, "each line once, in order");
    assert!(node.is_ready(&web_id) && node.is_ready(&shared_id));
    assert_eq!(node.plugin.addresses().len(), 1, "the pod has its address still");
    node.start_container(&waits).expect("what was made before can be started");
    node.run(&web_id, &script(&web, "later", IDLE), &web);
    node.stop_container(&idle, 20).expect("it stops");
    assert_eq!(node.ended(&idle), (5, "Error".into()));
    node.end();
}

#[test]
fn a_killed_shim_costs_the_containers_and_not_the_pod() {
    let mut node = Node::start();
    let web = networked(&node, "web");
    let id = node.run_pod(&web).expect("a pod");
    let mut config = script(&web, "c", IDLE);
    for attempt in 0..2 {
        config.metadata.as_mut().expect("it has a name").attempt = attempt;
        let container = node.run(&id, &config, &web);
        let process = node.pid(&container);
        node.kill_shim(&container);
        let (code, _) = node.ended(&container);
        assert_ne!(code, 0, "nobody says that it went well");
        assert!(!std::path::Path::new(&format!("/proc/{process}/root")).exists(), "its process goes along");
        assert!(node.is_ready(&id), "the pod is well");
        if attempt == 0 {
            // The second time the daemon has not seen the first shim.
            node.daemon.restart();
        }
    }
    config.metadata.as_mut().expect("it has a name").attempt = 2;
    let again = node.run(&id, &config, &web);
    assert_eq!(node.says(&again, "hostname"), "web");
    node.end();
}

#[test]
fn who_asks_again_gets_what_was_made() {
    let mut node = Node::start();
    let mut web = networked(&node, "web");
    node.plugin.set(Mode::Hangs);
    let request = windlass_api::cri::RunPodSandboxRequest { config: Some(web.clone()), ..Default::default() };
    let asked = request.clone();
    let first = node.ask(|mut client| async move { client.run_pod_sandbox(asked).await });
    node.daemon.eventually("the network is under way", || node.plugin.hangs());
    first.give_up();
    let second = node.ask(|mut client| async move { client.run_pod_sandbox(request).await });
    node.plugin.release();
    let id = node.answer(second).expect("the first call's pod").pod_sandbox_id;
    node.plugin.set(Mode::Works);
    assert_eq!(node.run_pod(&web).expect("it is there"), id);
    assert_eq!((node.pods().len(), node.plugin.addresses().len()), (1, 1), "one pod was made");

    let config = script(&web, "c", IDLE);
    let container = node.create(&id, &config, &web).expect("a container");
    assert_eq!(node.create(&id, &config, &web).expect("it is there"), container);
    node.daemon.restart();
    assert_eq!(node.run_pod(&web).expect("it is there"), id, "also after a restart");
    assert_eq!(node.create(&id, &config, &web).expect("it is there"), container);
    assert_eq!(node.containers().len(), 1);
    node.start_container(&container).expect("it starts");
    node.start_container(&container).expect("it has started");

    node.stop_pod(&id).expect("it stops");
    node.stop_pod(&id).expect("it has stopped");
    assert_eq!(node.run_pod(&web).expect_err("a stopped pod is not taken up").code(), Code::AlreadyExists);
    web.metadata.as_mut().expect("it has a name").attempt = 1;
    assert_ne!(node.run_pod(&web).expect("the next attempt"), id);
    node.end();
}

#[test]
fn a_network_that_fails_leaves_nothing_of_its_pod() {
    let mut node = Node::start();
    let web = networked(&node, "web");
    for (mode, word) in [(Mode::Fails, COMPLAINT), (Mode::Garbage, "windlass-fake")] {
        node.plugin.set(mode);
        let error = node.run_pod(&web).expect_err("there is no network");
        assert!(error.message().contains(word), "{mode:?}: {error}");
        node.nothing_is_left();
    }
    node.plugin.set(Mode::Works);
    node.plugin.uninstall();
    let error = node.run_pod(&web).expect_err("there is no plugin");
    assert!(error.message().contains("windlass-fake"), "{error}");
    assert!(error.message().contains("cni.bin_dirs"), "it says what to do: {error}");
    // What was never run holds nothing.
    node.nothing_is_left();
    node.plugin.install();

    // One that hangs does not outlast the daemon's death.
    node.plugin.set(Mode::Hangs);
    let request = windlass_api::cri::RunPodSandboxRequest { config: Some(web.clone()), ..Default::default() };
    let asked = node.ask(|mut client| async move { client.run_pod_sandbox(request).await });
    node.daemon.eventually("the network is under way", || node.plugin.hangs());
    node.daemon.kill();
    assert!(node.answer(asked).is_err(), "nobody says that there is a pod");
    assert_eq!(node.plugin.addresses().len(), 1);
    node.daemon.start();
    node.nothing_is_left();
    node.plugin.release();
    node.plugin.set(Mode::Works);
    let id = node.run_pod(&web).expect("the network works again");
    assert_eq!(node.plugin.addresses().len(), 1);

    node.plugin.set(Mode::Keeps);
    let error = node.stop_pod(&id).expect_err("the network stays");
    assert!(error.message().contains(COMPLAINT), "{error}");
    assert!(!node.is_ready(&id), "it is stopped all the same");
    node.plugin.set(Mode::Works);
    node.stop_pod(&id).expect("it stops");
    assert_eq!(node.plugin.addresses(), []);
    node.end();
}

/// Longest that a call may take whose plugin is killed after a second: three tries, and what a loaded machine adds.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_pod_whose_plugin_misbehaves_can_be_asked_for_again() {
    let node = Node::with_network(Daemon::builder(), "exec_timeout = \"1s\"\n");
    let web = networked(&node, "web");
    for (mode, code, words) in [
        (Mode::Refuses, Code::Unknown, COMPLAINT),
        (Mode::Garbage, Code::Unknown, "printed what is not an answer"),
        (Mode::Floods, Code::Unknown, "printed more than 1048576 bytes and was killed"),
        (Mode::Sleeps, Code::DeadlineExceeded, "did not end within 1s and was killed"),
    ] {
        node.plugin.set(mode);
        let begun = Instant::now();
        let error = node.run_pod(&web).expect_err("there is no network");
        assert!(begun.elapsed() < BOUND, "{mode:?} takes {:?}", begun.elapsed());
        assert_eq!(error.code(), code, "{mode:?}: {error}");
        for part in [words, "\"windlass-fake\"", "network \"e2e\"", "cni."] {
            assert!(error.message().contains(part), "{mode:?}: {part:?} is missing: {error}");
        }
        assert_eq!(node.pods(), [], "{mode:?}: what never ran is not there");
        // The kubelet asks for the same pod until there is one.
        assert_eq!(node.run_pod(&web).expect_err("there is no network still").code(), code);
        node.plugin.set(Mode::Works);
        let id = node.run_pod(&web).expect("the network has been mended");
        assert!(node.is_ready(&id));
        // What a plugin would not give back is collected, now that it works.
        node.daemon.eventually("one address is left, the pod's", || node.plugin.addresses().len() == 1);

        node.plugin.set(mode);
        let begun = Instant::now();
        let mut tries = 0;
        while let Err(error) = node.stop_pod(&id) {
            assert!(error.message().contains("network \"e2e\""), "{mode:?}: {error}");
            tries += 1;
            assert!(tries < 3, "{mode:?}: stopping a pod ends: {error}");
        }
        assert!(begun.elapsed() < BOUND, "{mode:?} takes {:?}", begun.elapsed());
        node.plugin.set(Mode::Works);
        node.remove_pod(&id).expect("it goes");
        node.nothing_is_left();
    }
    node.end();
}
