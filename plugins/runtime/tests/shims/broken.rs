//! Shims that die, hang, lie and talk too much.

use std::time::Duration;

use windlass_core::Class;
use windlass_core::event::Event;
use windlass_core::task::{ExecOptions, Status, Tasks};

use crate::harness::*;

pub const CASES: &[Case] = &[
    ("broken::a_failed_create_leaves_nothing", || run(failed_creates())),
    ("broken::a_shim_that_hangs_hurts_itself_alone", || run(hangs())),
    ("broken::a_killed_shims_task_ends_once", || run(killed())),
    ("broken::a_shim_that_dies_in_a_call", || run(dies_in_calls())),
    ("broken::a_true_exit_survives_its_shim", || run(true_exit())),
    ("broken::a_binary_that_cannot_clear_up", || run(no_cleanup())),
    ("broken::a_binary_that_is_killed_clears_up_the_next_time", || run(killed_cleanup())),
    ("broken::a_dropped_caller_does_not_stop_a_create", || run(dropped())),
    ("broken::a_broken_connection_is_no_death", || run(broken_connection())),
    ("broken::a_log_flood_blocks_nobody", || run(flood())),
];

async fn failed_creates() {
    let mut node = Node::new().await;
    (node.limits.launch, node.limits.create) = (Duration::from_millis(500), Duration::from_millis(300));
    (node.limits.shutdown, node.limits.connect) = (Duration::from_millis(300), Duration::from_millis(500));
    let manager = node.manager().await;
    let mut told = node.watch();
    for (mode, class, said) in [
        ("start-fail", Class::Unknown, "boom: exit status: 1"),
        ("start-hang", Class::DeadlineExceeded, "no answer within"),
        ("start-garbage", Class::Unknown, "cannot be read"),
        ("start-flood", Class::Unknown, "cannot be read"),
        ("start-lie", Class::Unavailable, "connect to shim"),
        (
            "create-fail",
            Class::Unknown,
            "failed to create shim task: OCI runtime create failed: no such thing",
        ),
        ("create-hang", Class::DeadlineExceeded, "failed to create shim task"),
        ("create-die", Class::Unavailable, "ttrpc: closed"),
    ] {
        let error = manager.create(cx(), "a", options(mode)).await.unwrap_err();
        assert_eq!(error.class(), class, "{mode}: {}", error.chain());
        assert!(error.chain().contains(said), "{mode}: {}", error.chain());
        assert!(manager.ids(cx()).await.is_empty());
        // A shim that hung or died leaves its socket file, which is its own.
        let _ = std::fs::remove_dir_all(node.path().join("s"));
        node.assert_clean().await;
    }
    running(&manager, "a", "").await;
    end(&manager, "a").await;
    assert_eq!(told.rest(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

async fn hangs() {
    let mut node = Node::new().await;
    (node.limits.state, node.limits.delete) = (Duration::from_millis(200), Duration::from_millis(300));
    node.limits.shutdown = Duration::from_millis(300);
    let manager = node.manager().await;
    running(&manager, "mute", "state-hang").await;
    running(&manager, "stuck", "delete-hang").await;
    running(&manager, "well", "").await;
    let states = manager.list(cx()).await.unwrap();
    let status = |id: &str| states.iter().find(|s| s.container_id == id).unwrap().status;
    assert_eq!(
        (status("mute"), status("stuck"), status("well")),
        (Status::Unknown, Status::Running, Status::Running)
    );
    assert_eq!(manager.state(cx(), "mute", "").await.unwrap_err().class(), Class::DeadlineExceeded);
    manager.kill(cx(), "stuck", "", 9, false).await.unwrap();
    assert_eq!(manager.delete(cx(), "stuck", "").await.unwrap_err().class(), Class::DeadlineExceeded);
    running(&manager, "quiet", "shutdown-hang").await;
    for id in ["mute", "quiet", "well"] {
        end(&manager, id).await;
    }
    until("one shim is left", || node.shims().len() == 1).await;
}

async fn killed() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    let pid = running(&manager, "a", "").await;
    running(&manager, "b", "").await;
    manager.exec(cx(), "a", "e", ExecOptions::default()).await.unwrap();
    manager.start(cx(), "a", "e").await.unwrap();
    let (waited, exec, ()) = tokio::join!(manager.wait(cx(), "a", ""), manager.wait(cx(), "a", "e"), async {
        tokio::task::yield_now().await;
        signal(pid as i32, rustix::process::Signal::KILL);
    });
    assert_eq!((waited.unwrap().status, exec.unwrap().status), (137, 137));
    told.until("/tasks/delete").await;
    assert_eq!(manager.pause(cx(), "a").await.unwrap_err().class(), Class::NotFound);
    assert_eq!(manager.ids(cx()).await, ["b"]);
    assert!(!node.bundle("a").exists());
    let ends: Vec<_> = told.seen.iter().filter(|e| e.topic == "/tasks/exit").collect();
    assert!(matches!(&ends[..], [one] if matches!(&one.event,
        Event::TaskExit { container_id, id, exit_status: 137, .. } if container_id == "a" && id == "a")));
    // The id is free again.
    running(&manager, "a", "").await;
    for id in ["a", "b"] {
        end(&manager, id).await;
    }
}

async fn dies_in_calls() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    manager.create(cx(), "a", options("start-die")).await.unwrap();
    let error = manager.start(cx(), "a", "").await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    told.until("/tasks/delete").await;
    running(&manager, "b", "delete-die").await;
    manager.kill(cx(), "b", "", 15, false).await.unwrap();
    assert_eq!(manager.wait(cx(), "b", "").await.unwrap().status, 143);
    // The shim's binary says 137; the truth was told before.
    assert_eq!(manager.delete(cx(), "b", "").await.unwrap().status, 143);
    told.until("/tasks/delete").await;
    let topics = told.rest();
    let count = |topic: &str| topics.iter().filter(|t| *t == topic).count();
    assert_eq!((count("/tasks/exit"), count("/tasks/delete")), (2, 2), "{topics:?}");
    let _ = std::fs::remove_dir_all(node.path().join("s"));
    node.assert_clean().await;
}

async fn true_exit() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    let pid = running(&manager, "a", "").await;
    manager.kill(cx(), "a", "", 15, false).await.unwrap();
    told.until("/tasks/exit").await;
    // The manager has heard of it too.
    manager.wait(cx(), "a", "").await.unwrap();
    signal(pid as i32, rustix::process::Signal::KILL);
    let topics = told.until("/tasks/delete").await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert!(matches!(told.seen[3].event, Event::TaskDelete { exit_status: 143, .. }), "{:?}", told.seen[3]);
}

async fn no_cleanup() {
    let mut node = Node::new().await;
    node.limits.cleanup = Duration::from_millis(500);
    let manager = node.manager().await;
    for mode in ["cleanup-fail", "cleanup-hang"] {
        let mut told = node.watch();
        let pid = running(&manager, "a", mode).await;
        signal(pid as i32, rustix::process::Signal::KILL);
        told.until("/tasks/delete").await;
        assert!(matches!(told.seen[2].event, Event::TaskExit { exit_status: 137, pid: p, .. } if p == pid));
        let _ = std::fs::remove_dir_all(node.path().join("s"));
        node.assert_clean().await;
    }
}

async fn killed_cleanup() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    let pid = running(&manager, "a", "cleanup-die").await;
    signal(pid as i32, rustix::process::Signal::KILL);
    told.until("/tasks/delete").await;
    // What the binary said, which it did not when it was killed.
    assert!(
        matches!(told.seen[2].event, Event::TaskExit { exit_status: 137, pid: 7, .. }),
        "{:?}",
        told.seen[2]
    );
    let _ = std::fs::remove_dir_all(node.path().join("s"));
    node.assert_clean().await;
}

async fn dropped() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    {
        let create = manager.create(cx(), "a", options(""));
        // Begun, and given up at once.
        assert!(futures::FutureExt::now_or_never(create).is_none());
    }
    told.until("/tasks/create").await;
    while !manager.ids(cx()).await.contains(&"a".to_owned()) {
        tokio::task::yield_now().await;
    }
    manager.start(cx(), "a", "").await.unwrap();
    end(&manager, "a").await;
    node.assert_clean().await;
}

async fn broken_connection() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "pod", "").await;
    let wire =
        Wire::new(&node.path().join("wire"), &node.path().join("s").join(format!("{}-pod", namespace())));
    let mut inner = options("");
    (inner.sandbox_id, inner.address) =
        ("pod".into(), format!("ttrpc+unix://{}", node.path().join("wire").display()));
    manager.create(cx(), "a", inner).await.unwrap();
    manager.start(cx(), "a", "").await.unwrap();
    let mut told = node.watch();
    let (waited, ()) = tokio::join!(manager.wait(cx(), "a", ""), async {
        for _ in 0..3 {
            wire.cut();
            assert_eq!(manager.state(cx(), "a", "").await.unwrap().status, Status::Running);
        }
        manager.kill(cx(), "a", "", 15, false).await.unwrap();
    });
    assert_eq!(waited.unwrap().status, 143);
    assert_eq!(manager.delete(cx(), "a", "").await.unwrap().status, 143);
    assert_eq!(told.until("/tasks/delete").await, ["/tasks/exit", "/tasks/delete"]);
    end(&manager, "pod").await;
    node.assert_clean().await;
}

async fn flood() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "a", "log-flood").await;
    until("the shim got rid of its log", || node.bundle("a").join("flooded").exists()).await;
    end(&manager, "a").await;
    node.assert_clean().await;
}
