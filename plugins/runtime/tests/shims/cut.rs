//! Failures at every named step: nothing is left, nothing is lost, and the retry works.

use windlass_core::Class;
use windlass_core::task::{Status, Tasks};

use crate::harness::*;

pub const CASES: &[Case] = &[
    ("cut::create", || run(create())),
    ("cut::start", || run(start())),
    ("cut::delete", || run(delete())),
    ("cut::restore", || run(restore())),
];

fn set(step: &str) {
    fail::cfg(step, "return").unwrap();
}

async fn create() {
    let node = Node::new().await;
    let manager = node.manager().await;
    for step in ["create.bundle", "create.launched", "create.connected", "create.created"] {
        let mut told = node.watch();
        set(step);
        let error = manager.create(cx(), "a", options("")).await.unwrap_err();
        assert!(error.chain().contains(step), "{}", error.chain());
        fail::remove(step);
        assert!(manager.ids(cx()).await.is_empty());
        let _ = std::fs::remove_dir_all(node.path().join("s"));
        node.assert_clean().await;
        running(&manager, "a", "").await;
        end(&manager, "a").await;
        let exits = told.rest().iter().filter(|topic| *topic == "/tasks/exit").count();
        assert_eq!(exits, 1, "{step}: nobody has seen the first task");
        node.assert_clean().await;
    }
}

async fn start() {
    let node = Node::new().await;
    let manager = node.manager().await;
    manager.create(cx(), "a", options("")).await.unwrap();
    for (step, after) in [("start.begin", Status::Created), ("start.started", Status::Running)] {
        set(step);
        manager.start(cx(), "a", "").await.unwrap_err();
        fail::remove(step);
        assert_eq!(manager.state(cx(), "a", "").await.unwrap().status, after);
    }
    end(&manager, "a").await;
    node.assert_clean().await;
}

async fn delete() {
    let node = Node::new().await;
    let mut manager = node.manager().await;
    for (step, class) in [
        ("delete.begin", None),
        ("delete.deleted", Some(Class::NotFound)),
        ("delete.shutdown", Some(Class::NotFound)),
    ] {
        for restart in [false, true] {
            let mut told = node.watch();
            running(&manager, "a", "").await;
            manager.kill(cx(), "a", "", 15, false).await.unwrap();
            manager.wait(cx(), "a", "").await.unwrap();
            set(step);
            manager.delete(cx(), "a", "").await.unwrap_err();
            fail::remove(step);
            if restart {
                drop(manager);
                manager = node.manager().await;
            }
            match (manager.delete(cx(), "a", "").await, class) {
                (Ok(exit), _) => assert_eq!(exit.status, 143, "{step}"),
                (Err(error), Some(class)) => assert_eq!(error.class(), class, "{step}: {error}"),
                (Err(error), None) => panic!("{step}: {}", error.chain()),
            }
            // What a restart finds of a task that was deleted is cleared up behind the start.
            until("the id is free", || !node.bundle("a").exists()).await;
            while manager.create(cx(), "a", options("")).await.is_err() {
                tokio::task::yield_now().await;
            }
            manager.delete(cx(), "a", "").await.unwrap();
            node.assert_clean().await;
            told.until("/tasks/delete").await;
            let exits = told.rest().iter().filter(|topic| *topic == "/tasks/exit").count();
            assert_eq!(exits, 1, "{step}, restart: {restart}: {:?}", told.topics());
        }
    }
}

async fn restore() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "a", "").await;
    drop(manager);
    for step in ["restore.begin", "restore.connected"] {
        set(step);
        assert!(node.try_manager().await.is_err());
        fail::remove(step);
    }
    let manager = node.manager().await;
    assert_eq!(manager.state(cx(), "a", "").await.unwrap().status, Status::Running);
    end(&manager, "a").await;
    node.assert_clean().await;
}
