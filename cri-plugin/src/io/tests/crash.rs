//! The daemon's death at any moment, and what is found afterwards.

use std::process::{Child, Command, Stdio};

use windlass_core::Class;

use super::*;

#[tokio::test]
async fn whoever_reattaches_goes_on_at_the_byte() {
    let rig = Rig { limit: 10, ..Rig::new() };
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    shim.stdout.say("one\nhal");
    shim.err().say("error without its en");
    until("what is whole", || rig.seen().len() == 2).await;
    io.detach().await;
    drop(io);
    shim.stdout.say("f\ntwo\nthr");
    shim.err().say("d\n");
    let io = rig.reattach().await;
    until("the rest", || rig.seen().len() == 6).await;
    io.detach().await;
    drop(io);
    // The shim has gone: what had been read is all there will be.
    drop(shim);
    let io = rig.reattach().await;
    assert!(io.wait(LONG).await);
    let found = rig.lines();
    let of = |stream: &str| found.iter().filter(|line| line.starts_with(stream)).cloned().collect::<Vec<_>>();
    assert_eq!(of("stdout"), ["stdout F one", "stdout F half", "stdout F two", "stdout P thr"]);
    assert_eq!(of("stderr"), ["stderr P error with", "stderr P out its en", "stderr F d"]);
    // Once more finds nothing to add.
    drop(io);
    assert!(rig.reattach().await.wait(LONG).await);
    assert_eq!(rig.lines(), found);
}

#[tokio::test]
async fn output_of_a_container_that_ended_meanwhile_still_comes() {
    let rig = Rig::new();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    io.detach().await;
    drop(io);
    shim.stdout.say("last words\n");
    // As the shim does at the end: no read end of its own any more, a write end until somebody reads.
    let Shim { stdout: Pipe { _read, write }, stderr } = shim;
    drop((_read, stderr));
    let io = rig.reattach().await;
    drop(write);
    assert!(io.wait(LONG).await);
    assert_eq!(rig.lines(), ["stdout F last words"]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let rig = Rig::new();
    let found = ContainerIo::reattach(&rig.state(), "c1", false, false, false, Some(&rig.log), -1).await;
    assert_eq!(found.err().unwrap().class(), Class::NotFound);
    let found = ContainerIo::reattach(&rig.state(), "c1", false, false, false, None, -1).await;
    assert_eq!(found.err().unwrap().class(), Class::NotFound);
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_after_a_restart_does_not_stop_the_container() {
    let rig = Rig::new();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    io.detach().await;
    drop(io);
    std::fs::remove_dir_all(rig.log.parent().unwrap()).unwrap();
    std::fs::write(rig.log.parent().unwrap(), "in the way").unwrap();
    let io = rig.reattach().await;
    let mut shim = blocking(move || {
        shim.stdout.say(vec![b'\n'; 300_000]);
        shim
    })
    .await;
    std::fs::remove_file(rig.log.parent().unwrap()).unwrap();
    io.reopen_log().await.unwrap();
    shim.stdout.say("here again\n");
    until("the log goes on", || rig.seen().last().is_some_and(|line| line == "stdout F here again")).await;
}

#[tokio::test]
async fn a_child_that_holds_the_streams_does_not_hold_the_end() {
    let rig = Rig::new();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    shim.stdout.say("said\nhalf");
    assert!(!io.wait(Duration::from_millis(20)).await);
    io.close().await;
    assert!(io.wait(Duration::ZERO).await);
    assert_eq!(rig.lines(), ["stdout F said", "stdout P half"]);
    drop(shim);
}

const CHILD: &str = "WINDLASS_TEST_IO_CHILD";

/// Not a test: the daemon of the test below, which is killed.
#[tokio::test]
async fn daemon_to_be_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = PathBuf::from(dir);
    let log = dir.join("logs/0.log");
    let io = ContainerIo::reattach(&dir.join("io"), "c1", false, true, false, Some(&log), 50).await.unwrap();
    std::fs::write(dir.join("ready"), "").unwrap();
    io.wait(Duration::MAX).await;
}

fn daemon(rig: &Rig) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::crash::daemon_to_be_killed"])
        .env(CHILD, rig.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_while_it_copies_loses_and_repeats_nothing() {
    let rig = Rig { limit: 50, ..Rig::new() };
    rig.create().await.detach().await;
    let io = format!("{}/c1", rig.state().display());
    let name = |name: &str| format!("{io}/{name}");
    let shim = task::Io { stdout: name("stdout"), stderr: name("stderr"), ..Default::default() };
    let Shim { mut stdout, stderr } = Shim::open(&shim);
    let mut stderr = stderr.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = Arc::clone(&stop);
    // Lines of all lengths, some over the limit, written in pieces that are no lines, as fast as they are taken.
    let out = tokio::task::spawn_blocking(move || {
        let mut n = 0u64;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let text: String =
                (n..n + 500).map(|n| format!("{n} {}\n", "x".repeat((n % 90) as usize))).collect();
            text.as_bytes().chunks(1009).for_each(|piece| stdout.say(piece));
            n += 500;
        }
        (n, stdout)
    });
    let done = Arc::clone(&stop);
    let err = tokio::task::spawn_blocking(move || {
        let mut n = 0u64;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            stderr.say(format!("{n}\n"));
            n += 1;
        }
        (n, stderr)
    });
    for round in 0..40u64 {
        let mut child = daemon(&rig);
        until("the daemon is up", || rig.dir.path().join("ready").exists()).await;
        std::fs::remove_file(rig.dir.path().join("ready")).unwrap();
        tokio::time::sleep(Duration::from_micros(round * 1_313 % 9_000)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let io = rig.reattach().await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let ((out, stdout), (err, stderr)) = (out.await.unwrap(), err.await.unwrap());
    drop((stdout, stderr));
    assert!(io.wait(LONG).await);
    let (mut texts, mut written) = ([String::new(), String::new()], 0);
    for line in rig.lines() {
        let text = &mut texts[usize::from(line.starts_with("stderr"))];
        text.push_str(&line[9..]);
        if &line[7..8] == "F" {
            text.push('\n');
        }
        written += 1;
    }
    assert!(written > 1000, "only {written} lines were copied");
    let expected: String = (0..out).map(|n| format!("{n} {}\n", "x".repeat((n % 90) as usize))).collect();
    assert!(texts[0] == expected, "stdout differs at byte {:?}", differ(&texts[0], &expected));
    let expected: String = (0..err).map(|n| format!("{n}\n")).collect();
    assert!(texts[1] == expected, "stderr differs at byte {:?}", differ(&texts[1], &expected));
    eprintln!("{written} lines of the log over 40 kills");
}

fn differ(a: &str, b: &str) -> Option<(usize, usize, usize)> {
    a.bytes().zip(b.bytes()).position(|(a, b)| a != b).map(|at| (at, a.len(), b.len()))
}
