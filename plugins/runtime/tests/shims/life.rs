//! The life of tasks whose shims behave.

use windlass_core::task::{ExecOptions, Status, Tasks};
use windlass_core::{Any, Class};

use crate::harness::*;

pub const CASES: &[Case] = &[
    ("life::a_task_from_create_to_delete", || run(whole_life())),
    ("life::execs_have_a_life_of_their_own", || run(execs())),
    ("life::answers_of_every_age_are_understood", || run(answers())),
    ("life::one_shim_serves_a_group", || run(group())),
    ("life::a_sandboxs_shim_serves_its_tasks", || run(sandbox())),
    ("life::names_are_checked_and_taken_once", || run(names())),
    ("life::fifty_at_once", || run(many())),
    ("life::nothing_grows", || run(flat())),
    ("life::the_cost_of_a_cycle", || run(cost())),
];

async fn whole_life() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let mut told = node.watch();
    let pid = manager.create(cx(), "a", options("")).await.unwrap();
    let state = manager.state(cx(), "a", "").await.unwrap();
    assert_eq!((state.pid, state.status), (pid, Status::Created));
    assert_eq!(manager.start(cx(), "a", "").await.unwrap(), pid);
    let twice = manager.start(cx(), "a", "").await.unwrap_err();
    assert_eq!(twice.class(), Class::FailedPrecondition, "{twice}");
    let early = manager.delete(cx(), "a", "").await.unwrap_err();
    assert_eq!(early.class(), Class::FailedPrecondition, "{early}");
    assert_eq!(manager.list(cx()).await.unwrap()[0].status, Status::Running);
    assert_eq!(manager.ids(cx()).await, ["a"]);
    assert_eq!(manager.pids(cx(), "a").await.unwrap()[0].pid, pid);
    let wait = manager.wait(cx(), "a", "");
    let kill = manager.kill(cx(), "a", "", 15, false);
    let (exit, killed) = tokio::join!(wait, kill);
    killed.unwrap();
    assert_eq!(exit.unwrap().status, 143);
    assert_eq!(manager.wait(cx(), "a", "").await.unwrap().status, 143);
    let late = manager.kill(cx(), "a", "", 15, false).await.unwrap_err();
    assert_eq!((late.class(), late.message()), (Class::NotFound, "process already finished"));
    assert_eq!(manager.delete(cx(), "a", "").await.unwrap().status, 143);
    let gone = manager.delete(cx(), "a", "").await.unwrap_err();
    assert_eq!((gone.class(), gone.message()), (Class::NotFound, "task a not found"));
    let topics = told.until("/tasks/delete").await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    node.assert_clean().await;
    assert_eq!(told.rest().len(), 4);
}

async fn execs() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "a", "").await;
    for bad in ["", "a/b", "..", "-x"] {
        let error = manager.exec(cx(), "a", bad, ExecOptions::default()).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{bad}");
    }
    for round in 0..2 {
        manager.exec(cx(), "a", "e", ExecOptions::default()).await.unwrap();
        manager.start(cx(), "a", "e").await.unwrap();
        let (exit, killed) =
            tokio::join!(manager.wait(cx(), "a", "e"), manager.kill(cx(), "a", "e", 1 + round, false));
        killed.unwrap();
        assert_eq!(exit.unwrap().status, 129 + round);
        assert_eq!(manager.delete(cx(), "a", "e").await.unwrap().status, 129 + round);
        assert_eq!(manager.state(cx(), "a", "e").await.unwrap_err().class(), Class::NotFound);
    }
    // An exec may be named like its task.
    manager.exec(cx(), "a", "a", ExecOptions::default()).await.unwrap();
    manager.start(cx(), "a", "a").await.unwrap();
    manager.kill(cx(), "a", "a", 2, false).await.unwrap();
    assert_eq!(manager.wait(cx(), "a", "a").await.unwrap().status, 130);
    assert_eq!(manager.state(cx(), "a", "").await.unwrap().status, Status::Running);
    end(&manager, "a").await;
    node.assert_clean().await;
}

async fn answers() {
    let node = Node::new().await;
    let manager = node.manager().await;
    for mode in ["start-bare", "start-json", "only-v2"] {
        running(&manager, mode, mode).await;
        end(&manager, mode).await;
    }
    let info = manager.runtime_info(&options("").runtime).await.unwrap();
    assert_eq!(info.name, "fake");
    node.assert_clean().await;
}

async fn group() {
    let node = Node::new().await;
    let manager = node.manager().await;
    for id in ["a", "b", "c"] {
        running(&manager, id, "group-x").await;
    }
    assert_eq!(node.shims().len(), 1);
    for id in ["a", "b", "c"] {
        end(&manager, id).await;
    }
    node.assert_clean().await;
}

async fn sandbox() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "pod", "").await;
    let mut inner = options("");
    inner.sandbox_id = "pod".into();
    manager.create(cx(), "inner", inner.clone()).await.unwrap();
    assert_eq!(node.shims().len(), 1);
    let mut other = options("");
    (other.sandbox_id, other.address) =
        ("pod".into(), format!("ttrpc+unix://{}/s/{}-pod", node.path().display(), namespace()));
    manager.create(cx(), "other", other).await.unwrap();
    assert_eq!(node.shims().len(), 1);
    let mut failing = options("create-hang");
    failing.sandbox_id = "pod".into();
    assert_eq!(manager.list(cx()).await.unwrap().len(), 3);
    for id in ["inner", "other"] {
        manager.delete(cx(), id, "").await.unwrap();
    }
    end(&manager, "pod").await;
    node.assert_clean().await;

    // The last of them ends the shim, also if it is not the one that the shim was started for.
    running(&manager, "pod", "").await;
    manager.create(cx(), "inner", inner).await.unwrap();
    end(&manager, "pod").await;
    assert_eq!(node.shims().len(), 1);
    manager.delete(cx(), "inner", "").await.unwrap();
    node.assert_clean().await;
}

async fn names() {
    let node = Node::new().await;
    let manager = node.manager().await;
    for bad in ["", "..", "a/b", ".a", "a b"] {
        let error = manager.create(cx(), bad, options("")).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{bad:?}: {error}");
    }
    let (one, two) =
        tokio::join!(manager.create(cx(), "a", options("")), manager.create(cx(), "a", options("")));
    let error = one.and(two).unwrap_err();
    assert_eq!((error.class(), error.message()), (Class::AlreadyExists, "task a: already exists"));
    assert_eq!(
        manager.state(&windlass_core::Context::new("other"), "a", "").await.unwrap_err().class(),
        Class::NotFound
    );
    let mut unknown = options("");
    unknown.runtime.name = "io.containerd.nobody.v1".into();
    let error = manager.create(cx(), "b", unknown).await.unwrap_err();
    assert!(error.chain().contains("containerd-shim-nobody-v1"), "{}", error.chain());
    // More than a frame takes: said, and nothing else suffers.
    let big = Any { type_url: "x".into(), value: vec![0; 5 << 20].into() };
    let error = manager.update(cx(), "a", big, Default::default()).await.unwrap_err();
    assert_eq!(error.class(), Class::ResourceExhausted);
    manager.delete(cx(), "a", "").await.unwrap();
    node.assert_clean().await;
}

async fn many() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let begun = std::time::Instant::now();
    let cycle = |n: usize| {
        let manager = &manager;
        async move {
            let id = format!("t{n}");
            running(manager, &id, "").await;
            end(manager, &id).await;
        }
    };
    futures::future::join_all((0..50).map(cycle)).await;
    println!("50 cycles at once: {:.0?}", begun.elapsed());
    node.assert_clean().await;
}

/// Descriptors and memory of this process, the manager in it, stay what they are.
async fn flat() {
    let node = Node::new().await;
    let manager = node.manager().await;
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let size = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        let rss: i64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
        (std::fs::read_dir("/proc/self/fd").unwrap().count(), rss)
    };
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for n in 0..rounds {
            let id = format!("t{n}");
            running(&manager, &id, "").await;
            manager.exec(cx(), &id, "e", ExecOptions::default()).await.unwrap();
            manager.start(cx(), &id, "e").await.unwrap();
            end(&manager, &id).await;
        }
        node.assert_clean().await;
        // Connections of shims that have ended are closed a moment later.
        if let Some((base, _)) = sizes.first() {
            let base: usize = *base;
            until("descriptors are what they were", || size().0 <= base).await;
        }
        sizes.push(size());
    }
    println!("descriptors and kilobytes after each {rounds} cycles: {sizes:?}");
    let (first, last) = (sizes[1], sizes[3]);
    assert!(last.1 < first.1 + 512, "{sizes:?}");
}

/// Prints what a cycle costs the daemon itself; the shims are other processes.
async fn cost() {
    let node = Node::new().await;
    let manager = node.manager().await;
    running(&manager, "warm", "").await;
    end(&manager, "warm").await;
    let before = rusage();
    let begun = std::time::Instant::now();
    const ROUNDS: u32 = 50;
    for n in 0..ROUNDS {
        let id = format!("t{n}");
        running(&manager, &id, "").await;
        end(&manager, &id).await;
    }
    let (wall, cpu) = (begun.elapsed() / ROUNDS, (rusage() - before) / ROUNDS);
    println!("a cycle: {wall:.2?}, of which the daemon computes {cpu:.2?} (with this test's event server)");
    node.assert_clean().await;
}

/// Processor time of this process.
pub fn rusage() -> std::time::Duration {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::new(clock.tv_sec as u64, clock.tv_nsec as u32)
}
