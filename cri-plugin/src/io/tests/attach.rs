//! Attached clients: several, slow ones, ones that vanish; and the container's input.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use windlass_core::Class;

use super::super::AttachStreams;
use super::*;

fn outputs(out: DuplexStream, err: Option<DuplexStream>) -> AttachStreams {
    AttachStreams { stdin: None, stdout: Some(Box::new(out)), stderr: err.map(|err| Box::new(err) as _) }
}

async fn seated(io: &ContainerIo, count: usize) {
    until("clients are attached", || io.attached() == count).await;
}

#[tokio::test]
async fn clients_see_what_comes_and_the_end() {
    let rig = Rig::new();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    shim.stdout.say("before\n");
    until("a line", || rig.seen().len() == 1).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let ((out, mut out_end), (err, mut err_end)) = (duplex(64), duplex(64));
        let io = Arc::clone(&io);
        let attach = tokio::spawn(async move { io.attach(outputs(out, Some(err)), never()).await });
        let read = tokio::spawn(async move {
            let (mut out, mut err) = (String::new(), String::new());
            tokio::try_join!(out_end.read_to_string(&mut out), err_end.read_to_string(&mut err)).unwrap();
            (out, err)
        });
        clients.push((attach, read));
    }
    seated(&io, 6).await;
    shim.stdout.say("half");
    shim.err().say("err\n");
    until("a line", || rig.seen().len() == 2).await;
    shim.stdout.say(" whole\r\n");
    drop(shim);
    for (attach, read) in clients {
        attach.await.unwrap().unwrap();
        assert_eq!(read.await.unwrap(), ("half whole\r\n".into(), "err\n".into()));
    }
    // To one that has ended.
    io.attach(outputs(duplex(1).0, None), never()).await.unwrap();
    io.attach(AttachStreams::default(), never()).await.unwrap();
    assert_eq!(io.attached(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_vanished_clients_hold_nobody_up() {
    let rig = Rig::new();
    let io = rig.create().await;
    let shim = Shim::open(&io.io());
    let attach = |out: DuplexStream| {
        let io = Arc::clone(&io);
        tokio::spawn(async move { io.attach(outputs(out, None), never()).await })
    };
    let ((slow, _never_read), (vanished, gone), (good, mut good_end)) =
        (duplex(64), duplex(64), duplex(4096));
    let (slow, vanished, good) = (attach(slow), attach(vanished), attach(good));
    seated(&io, 3).await;
    drop(gone);
    let read = tokio::spawn(async move {
        let mut text = Vec::new();
        good_end.read_to_end(&mut text).await.map(|_| text)
    });
    const LINES: usize = 400_000;
    let begun = std::time::Instant::now();
    blocking(move || {
        let lines: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
        let mut shim = shim;
        shim.stdout.say(&lines);
    })
    .await;
    assert!(io.wait(LONG).await);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "clients held the log up for {took:?}");
    assert_eq!(rig.lines().len(), LINES);
    assert_eq!(slow.await.unwrap().unwrap_err().class(), Class::Unavailable);
    assert_eq!(vanished.await.unwrap().unwrap_err().class(), Class::Unavailable);
    good.await.unwrap().unwrap();
    assert_eq!(
        read.await.unwrap().unwrap(),
        (0..LINES).map(|n| format!("line {n}\n")).collect::<String>().as_bytes()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminals_user_may_be_slow() {
    let rig = Rig { terminal: true, ..Rig::new() };
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    let (out, mut end) = duplex(1 << 10);
    let client = {
        let io = Arc::clone(&io);
        tokio::spawn(async move { io.attach(outputs(out, None), never()).await })
    };
    seated(&io, 1).await;
    let say = tokio::task::spawn_blocking(move || shim.stdout.say(vec![b'\n'; 1_000_000]));
    // 3 s of one full queue and a small piece now and then are more than a stream's client would be given.
    let mut count = 0;
    let mut buffer = vec![0; 1 << 10];
    for _ in 0..300 {
        count += end.read(&mut buffer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(count < 400_000);
    let mut rest = Vec::new();
    count += end.read_to_end(&mut rest).await.unwrap();
    client.await.unwrap().unwrap();
    say.await.unwrap();
    assert_eq!(count, 1_000_000);
}

/// Counts how often the input was closed; it closes what the shim holds.
fn closer(closed: &Arc<AtomicUsize>) -> CloseStdin {
    let closed = Arc::clone(closed);
    Box::new(move || {
        Box::pin(async move {
            closed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    })
}

fn input(stdin: DuplexStream) -> AttachStreams {
    AttachStreams { stdin: Some(Box::new(stdin)), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_once_ends_the_containers_input_with_the_first_client() {
    let rig = Rig { stdin_once: true, ..Rig::new() };
    let io = rig.create().await;
    let names = io.io();
    let shim = Shim::open(&names);
    let closed = Arc::new(AtomicUsize::new(0));
    let (stdin, mut client) = duplex(64);
    let attached = {
        let (io, close) = (Arc::clone(&io), closer(&closed));
        tokio::spawn(async move { io.attach(input(stdin), close).await })
    };
    client.write_all(b"early ").await.unwrap();
    // The reader comes late, as a shim may.
    let path = names.stdin.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    client.write_all(b"and late").await.unwrap();
    drop(client);
    assert_eq!(read.await.unwrap(), "early and late");
    until("the input is closed", || closed.load(Ordering::SeqCst) == 1).await;
    until("the fifo has gone", || !Path::new(&names.stdin).exists()).await;
    assert!(!attached.is_finished(), "outputs go on");
    drop(shim);
    attached.await.unwrap().unwrap();
    assert_eq!(closed.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_once_holds_where_the_call_is_dropped() {
    let rig = Rig { stdin_once: true, ..Rig::new() };
    let io = rig.create().await;
    let _shim = Shim::open(&io.io());
    let reader = Pipe::open(&io.io().stdin);
    let closed = Arc::new(AtomicUsize::new(0));
    let (stdin, mut client) = duplex(64);
    let attached = {
        let (io, close) = (Arc::clone(&io), closer(&closed));
        tokio::spawn(async move { io.attach(input(stdin), close).await })
    };
    client.write_all(b"x").await.unwrap();
    until("the client is attached", || rustix::io::read(&reader._read, &mut [0; 1][..]) == Ok(1)).await;
    attached.abort();
    until("the input is closed", || closed.load(Ordering::SeqCst) == 1).await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otherwise_the_end_of_input_is_the_clients_only() {
    for (terminal, stdin_once) in [(false, false), (true, false), (true, true)] {
        let rig = Rig { terminal, stdin_once, ..Rig::new() };
        let io = rig.create().await;
        let _shim = Shim::open(&io.io());
        let mut held = Pipe::open(&io.io().stdin);
        for word in ["first ", "second"] {
            let (stdin, mut client) = duplex(64);
            client.write_all(word.as_bytes()).await.unwrap();
            drop(client);
            let (out, _end) = duplex(64);
            let streams = AttachStreams { stdout: Some(Box::new(out)), ..input(stdin) };
            io.attach(streams, never()).await.unwrap();
        }
        held.say("!");
        let text = blocking(move || {
            let mut text = [0; 13];
            File::from(held._read).read_exact(&mut text).unwrap();
            text
        })
        .await;
        assert_eq!(&text, b"first second!");
    }
}
