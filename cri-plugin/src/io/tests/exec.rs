//! Execs: copied to a client, and gathered.

use std::io::Read;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::super::{AttachStreams, Collected, Ended, ExecIo};
use super::*;

async fn exec(rig: &Rig, stdin: bool) -> ExecIo {
    ExecIo::create(&rig.state(), "c1", "e1", false, stdin, true, true).await.unwrap()
}

#[tokio::test]
async fn gathers_up_to_a_limit_and_reads_on() {
    let rig = Rig::new();
    let exec = exec(&rig, false).await;
    let mut shim = Shim::open(&exec.io());
    let collector = exec.collect(1 << 20);
    blocking(move || {
        shim.err().say("error");
        shim.stdout.say(vec![b'a'; 1_000_000]);
        // The fifo holds far less than this: it ends only if it is read on.
        shim.stdout.say(vec![b'b'; 9_000_000]);
        shim.err().say(" end");
    })
    .await;
    let Collected { stdout, stderr, complete } = collector.finish(None).await;
    assert!(complete);
    assert_eq!((stdout.len(), stdout[999_999], stdout[1_000_000]), (1 << 20, b'a', b'b'));
    assert_eq!(stderr, b"error end");
    until("the fifos have gone", || !rig.state().join("c1/exec/e1").exists()).await;
}

#[tokio::test]
async fn gathers_only_for_so_long_where_a_child_holds_the_streams() {
    let rig = Rig::new();
    let exec = exec(&rig, false).await;
    let mut shim = Shim::open(&exec.io());
    let collector = exec.collect(100);
    shim.stdout.say("said");
    let found = collector.finish(Some(Duration::from_millis(200))).await;
    assert_eq!(found, Collected { stdout: b"said".into(), stderr: Vec::new(), complete: false });
}

#[tokio::test]
async fn an_end_is_not_seen_before_the_process_came() {
    let rig = Rig::new();
    let exec = exec(&rig, false).await;
    let names = exec.io();
    let collector = exec.collect(100);
    let finish = tokio::spawn(collector.finish(None));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!finish.is_finished());
    let mut shim = Shim::open(&names);
    shim.stdout.say("late");
    drop(shim);
    assert_eq!(finish.await.unwrap().stdout, b"late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_to_a_client_and_closes_the_input() {
    let rig = Rig::new();
    let mut exec = exec(&rig, true).await;
    let names = exec.io();
    let mut shim = Shim::open(&names);
    let (sent, closed) = tokio::sync::oneshot::channel();
    let close: CloseStdin = Box::new(|| {
        Box::pin(async {
            sent.send(()).unwrap();
            Ok(())
        })
    });
    let ((stdin, mut stdin_end), (out, mut out_end), (err, mut err_end)) =
        (duplex(64), duplex(64), duplex(64));
    let streams = AttachStreams {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(out)),
        stderr: Some(Box::new(err)),
    };
    let copy = tokio::spawn(async move { exec.copy(streams, close).await });
    // `cat`, by another reader of the fifo.
    let cat = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        File::open(&names.stdin).unwrap().read_to_end(&mut text).unwrap();
        shim.stdout.say(&text);
        shim.err().say("done");
    });
    stdin_end.write_all(&[b'x'; 100_000]).await.unwrap();
    drop(stdin_end);
    closed.await.unwrap();
    let (mut out, mut err) = (Vec::new(), String::new());
    tokio::try_join!(out_end.read_to_end(&mut out), err_end.read_to_string(&mut err)).unwrap();
    assert_eq!((out, err.as_str()), (vec![b'x'; 100_000], "done"));
    assert_eq!(copy.await.unwrap().unwrap(), Ended::Streams);
    cat.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_when_the_client_has_gone() {
    let rig = Rig::new();
    let mut exec = exec(&rig, false).await;
    let mut shim = Shim::open(&exec.io());
    let (out, end) = duplex(64);
    drop(end);
    let streams = AttachStreams { stdout: Some(Box::new(out)), ..Default::default() };
    let say = tokio::task::spawn_blocking(move || {
        shim.stdout.say(vec![b'x'; 1_000_000]);
        shim.err().say(vec![b'x'; 1_000_000]);
    });
    assert_eq!(exec.copy(streams, never()).await.unwrap(), Ended::Client);
    exec.discard().await;
    say.await.unwrap();
}

#[tokio::test]
async fn a_terminals_input_that_ends_is_the_clients_end() {
    let rig = Rig::new();
    let mut exec = ExecIo::create(&rig.state(), "c1", "e1", true, true, true, true).await.unwrap();
    assert_eq!(exec.io().stderr, "");
    let _shim = (Shim::open(&exec.io()), Pipe::open(&exec.io().stdin));
    let streams = AttachStreams { stdin: Some(Box::new(tokio::io::empty())), ..Default::default() };
    assert_eq!(exec.copy(streams, never()).await.unwrap(), Ended::Client);
}
