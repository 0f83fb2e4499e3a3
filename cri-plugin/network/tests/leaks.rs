//! Many namespaces one after the other: no thread, process, descriptor or mount is left, and each costs little. Alone in
//! its process, since it counts. Needs root.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use windlass_network::namespaces::{self, IdMap, Mapping, Wanted};

const ROUNDS: usize = 60;

/// Descriptors, threads and children of this process, and namespaces of its threads that are not its own.
fn counts() -> [usize; 4] {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let tasks: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    let children = tasks.iter().map(|task| {
        let children = std::fs::read_to_string(task.join("children")).unwrap_or_default();
        children.split_whitespace().count()
    });
    let strangers =
        tasks.iter().filter(|task| std::fs::read_link(task.join("ns/net")).is_ok_and(|net| net != own));
    [count("/proc/self/fd"), tasks.len(), children.sum(), strangers.count()]
}

async fn round(dir: &std::path::Path, user: Option<Mapping>) -> (Duration, Duration) {
    let wanted = Wanted { net: true, ipc: true, uts: true, user, hostname: Some("x"), ..Wanted::default() };
    let begun = Instant::now();
    let held = namespaces::create(dir, wanted).await.unwrap();
    let made = begun.elapsed();
    let stream = namespaces::connect(&held.net(), 1, Duration::from_secs(5)).await;
    assert!(stream.is_err());
    let begun = Instant::now();
    namespaces::remove(dir).await.unwrap();
    (made, begun.elapsed())
}

/// Waits for threads, and what they have to clear away, to be gone: that takes a moment after their word has come.
async fn settled(before: [usize; 4], dir: &std::path::Path) {
    let begun = Instant::now();
    while counts() != before || dir.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{before:?} became {:?}", counts());
        tokio::task::yield_now().await;
    }
}

/// Polls a future some times and drops it; false if it was done by then.
fn abandon(future: impl Future, polls: usize) -> bool {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    (0..polls).all(|_| future.as_mut().poll(&mut context).is_pending())
}

#[test]
fn nothing_is_left_and_it_is_quick() {
    // One idle thread, which stays: it is counted.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).thread_keep_alive(Duration::from_secs(3600));
    let runtime = runtime.build().unwrap();
    runtime.block_on(all_of_it());
}

async fn all_of_it() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("ns");
    let range = IdMap { container: 0, host: 200_000, size: 65_536 };
    let mapping = Mapping { uids: vec![range], gids: vec![range] };
    for user in [None, Some(mapping)] {
        round(&dir, user.clone()).await;
        let before = counts();
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(round(&dir, user.clone()).await);
        }
        times.sort();
        let (make, remove) = times[ROUNDS / 2];
        println!("user namespace: {}: create {make:?}, remove {remove:?} (median)", user.is_some());
        assert!(make < Duration::from_millis(20), "{make:?}");
        settled(before, &dir).await;
        // A caller that goes away at once leaves nothing either, however far the work has come by then.
        for polls in 1..ROUNDS {
            let wanted = Wanted { net: true, uts: true, user: user.clone(), ..Wanted::default() };
            if !abandon(namespaces::create(&dir, wanted), polls * polls * 20) {
                namespaces::remove(&dir).await.unwrap();
            }
            settled(before, &dir).await;
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(scratch.path().to_str().unwrap()));
}
