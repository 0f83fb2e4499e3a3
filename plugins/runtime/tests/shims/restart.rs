//! The daemon goes and comes back.

use std::time::{Duration, Instant};

use windlass_core::Class;
use windlass_core::event::Event;
use windlass_core::task::{Status, Tasks};

use crate::harness::*;

pub const CASES: &[Case] = &[
    ("restart::tasks_are_found_again", || run(found())),
    ("restart::the_dead_are_buried", || run(dead())),
    ("restart::a_hung_shim_does_not_hold_the_start", || run(hung())),
    ("restart::what_was_never_finished_is_dropped", || run(unfinished())),
    ("restart::a_hundred", || run(hundred())),
];

async fn found() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let pid = running(&manager, "a", "").await;
    running(&manager, "ends", "").await;
    running(&manager, "old", "only-v2").await;
    drop(manager);
    let manager = node.manager().await;
    assert_eq!(manager.ids(cx()).await, ["a", "ends", "old"]);
    let state = manager.state(cx(), "a", "").await.unwrap();
    assert_eq!((state.pid, state.status), (pid, Status::Running));
    manager.kill(cx(), "ends", "", 15, false).await.unwrap();
    drop(manager);
    let manager = node.manager().await;
    assert_eq!(manager.wait(cx(), "ends", "").await.unwrap().status, 143);
    assert_eq!(manager.delete(cx(), "ends", "").await.unwrap().status, 143);
    for id in ["a", "old"] {
        end(&manager, id).await;
    }
    node.assert_clean().await;
}

async fn dead() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let pid = running(&manager, "a", "").await;
    running(&manager, "b", "").await;
    drop(manager);
    signal(pid as i32, rustix::process::Signal::KILL);
    until("the shim has died", || node.shims().len() == 1).await;
    let mut told = node.watch();
    let manager = node.manager().await;
    assert_eq!(manager.state(cx(), "a", "").await.unwrap_err().class(), Class::NotFound);
    let topics = told.until("/tasks/delete").await;
    assert_eq!(topics, ["/tasks/exit", "/tasks/delete"]);
    assert!(
        matches!(&told.seen[0].event, Event::TaskExit { container_id, exit_status: 137, .. } if container_id == "a")
    );
    assert_eq!(manager.ids(cx()).await, ["b"]);
    running(&manager, "a", "").await;
    for id in ["a", "b"] {
        end(&manager, id).await;
    }
    node.assert_clean().await;
}

async fn hung() {
    let mut node = Node::new().await;
    node.limits.state = Duration::from_millis(200);
    let manager = node.manager().await;
    let pid = running(&manager, "a", "").await;
    running(&manager, "b", "").await;
    drop(manager);
    signal(pid as i32, rustix::process::Signal::STOP);
    let begun = Instant::now();
    let manager = node.manager().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let states = manager.list(cx()).await.unwrap();
    assert_eq!((states[0].status, states[1].status), (Status::Unknown, Status::Running));
    // It was only slow.
    signal(pid as i32, rustix::process::Signal::CONT);
    assert_eq!(manager.state(cx(), "a", "").await.unwrap().status, Status::Running);
    for id in ["a", "b"] {
        end(&manager, id).await;
    }
    node.assert_clean().await;
}

async fn unfinished() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "a", "").await;
    drop(manager);
    // As a crash leaves them: an empty bundle, one without a shim, one half removed, a lone work directory.
    let bundle = |id: &str| node.bundle(id);
    std::fs::create_dir(bundle("empty")).unwrap();
    std::fs::create_dir_all(bundle("half").join("rootfs")).unwrap();
    std::fs::write(
        bundle("half").join("shim-binary-path"),
        std::env::current_exe().unwrap().to_str().unwrap(),
    )
    .unwrap();
    std::fs::create_dir_all(bundle(".gone").join("rootfs")).unwrap();
    std::fs::create_dir_all(node.path().join("root").join(namespace()).join("reboot/x")).unwrap();
    std::fs::create_dir_all(node.path().join("root").join(namespace()).join("empty")).unwrap();
    let mut told = node.watch();
    let manager = node.manager().await;
    assert_eq!(manager.ids(cx()).await, ["a"]);
    until("only one bundle is left", || {
        node.path().join("state").join(namespace()).read_dir().unwrap().count() == 1
    })
    .await;
    until("only one work directory is left", || {
        node.path().join("root").join(namespace()).read_dir().unwrap().count() == 1
    })
    .await;
    running(&manager, "half", "").await;
    for id in ["a", "half"] {
        end(&manager, id).await;
    }
    assert_eq!(told.rest().iter().filter(|t| *t == "/tasks/exit").count(), 2);
    node.assert_clean().await;
}

async fn hundred() {
    let node = Node::new().await;
    let manager = node.manager().await;
    for n in 0..100 {
        running(&manager, &format!("t{n}"), "").await;
    }
    drop(manager);
    let begun = Instant::now();
    let manager = node.manager().await;
    let took = begun.elapsed();
    println!("100 shims taken on in {took:.1?}");
    assert_eq!(manager.ids(cx()).await.len(), 100);
    let begun = Instant::now();
    assert!(manager.list(cx()).await.unwrap().iter().all(|s| s.status == Status::Running));
    println!("100 states in {:.1?}", begun.elapsed());
    for n in 0..100 {
        end(&manager, &format!("t{n}")).await;
    }
    node.assert_clean().await;
}
