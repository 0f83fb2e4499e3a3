//! Buffers, turns, windows and ends of streams, without any protocol.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use std::task::Waker;

use super::state::SEND_LIMIT;
use super::*;

/// Writes frames as words.
#[derive(Default)]
struct Words(Vec<String>);

impl Encoder for Words {
    fn control(&mut self, control: Control, out: &mut Vec<u8>) {
        self.say(format!("{control:?}"), out);
    }

    fn data(&mut self, stream: u32, payload: &[u8], end: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(payload);
        self.say(format!("{stream}: {}{}", payload.len(), if end { " end" } else { "" }), out);
    }

    fn credit(&mut self, stream: u32, bytes: u32, out: &mut Vec<u8>) {
        self.say(format!("credit {stream}: {bytes}"), out);
    }

    fn goodbye(&mut self, why: Goodbye, out: &mut Vec<u8>) {
        self.say(format!("goodbye {why:?}"), out);
    }
}

impl Words {
    fn say(&mut self, word: String, out: &mut Vec<u8>) {
        self.0.push(word);
        out.push(b'.');
    }
}

/// All that is to be sent now.
fn said(mux: &Mux) -> Vec<String> {
    let mut words = Words::default();
    while mux.fill(&mut words, &mut Vec::new()) == Fill::Some {}
    words.0
}

fn opened(mux: &Mux, id: u32) -> bool {
    mux.open(id, HashMap::new(), false, false)
}

#[tokio::test]
async fn streams_take_turns_and_answers_go_first() {
    let mux = Mux::new(10);
    let (_r1, mut one) = mux.channel(1);
    let (_r3, mut three) = mux.channel(3);
    one.write_all(&vec![1; SEND_LIMIT]).await.unwrap();
    three.write_all(b"x").await.unwrap();
    three.shutdown().await.unwrap();
    mux.send(Control::Reply(3));
    assert_eq!(said(&mux), ["Reply(3)", "1: 32768", "3: 1 end", "1: 32768"]);
    assert!(three.write_all(b"y").await.is_err(), "after its end");
}

#[tokio::test]
async fn a_full_writer_waits_for_the_client() {
    let mux = Mux::new(10);
    let (_read, mut write) = mux.channel(1);
    write.write_all(&vec![1; SEND_LIMIT]).await.unwrap();
    let mut more = by_hand(write.write_all(b"more"));
    assert!(more.poll().is_none(), "the buffer is full");
    said(&mux);
    assert!(more.poll().is_some_and(|r| r.is_ok()));
}

#[tokio::test]
async fn many_writers_hold_little_each() {
    let mux = Mux::new(10);
    let mut halves: Vec<_> = (0..2000).map(|id| mux.channel(id)).collect();
    let mut held = 0;
    for (_, write) in &mut halves {
        if let Some(Ok(written)) = by_hand(write.write(&[1; SEND_LIMIT])).poll() {
            held += written;
        }
    }
    assert!((4 << 20..=8 << 20).contains(&held), "{held}");
}

#[tokio::test]
async fn a_full_reader_stops_the_connection_until_it_is_read() {
    let mux = Mux::new(10);
    let (mut read, _write) = mux.channel(1);
    let (idle, _write2) = mux.channel(3);
    mux.received(1, &vec![7; STREAM_LIMIT]);
    let mut room = by_hand(mux.room(1));
    assert!(room.poll().is_none());
    assert!(by_hand(mux.room(3)).poll().is_some(), "another stream goes on");
    read.read_exact(&mut vec![0; STREAM_LIMIT]).await.unwrap();
    assert!(room.poll().is_some());
    assert_eq!(mux.lock().buffered, 0);

    mux.received(1, &vec![7; STREAM_LIMIT]);
    let mut room = by_hand(mux.room(1));
    assert!(room.poll().is_none());
    drop(read);
    assert!(room.poll().is_some(), "what nobody reads does not wait");
    mux.received(1, b"x");
    assert_eq!(mux.lock().buffered, 0);
    drop(idle);
}

#[tokio::test]
async fn all_streams_together_are_bounded() {
    let mux = Mux::new(100);
    let halves: Vec<_> = (0..20).map(|id| mux.channel(id)).collect();
    for id in 0..20 {
        if by_hand(mux.room(id)).poll().is_some() {
            mux.received(id, &vec![7; STREAM_LIMIT - 1]);
        }
    }
    assert!(mux.lock().buffered <= TOTAL_LIMIT + STREAM_LIMIT);
    drop(halves);
    assert_eq!(mux.lock().buffered, 0);
}

#[tokio::test]
async fn windows_are_honoured_once_the_peer_counts_them() {
    let mux = Mux::new(10);
    let (_read, mut write) = mux.channel(1);
    write.write_all(&vec![1; SEND_LIMIT]).await.unwrap();
    assert_eq!(said(&mux), ["1: 32768", "1: 32768"]);
    write.write_all(b"more").await.unwrap();
    assert_eq!(said(&mux), ["1: 4"], "a client that counts no windows is not waited for");
    // The window was 64 KiB; four bytes more were sent.
    assert!(mux.enlarge(1, 6));
    write.write_all(b"and more").await.unwrap();
    assert_eq!(said(&mux), ["1: 2"]);
    assert!(mux.enlarge(1, 100));
    assert_eq!(said(&mux), ["1: 6"]);
    mux.set_window(0);
    write.write_all(b"zero").await.unwrap();
    assert_eq!(said(&mux), [""; 0]);
    mux.set_window(1 << 20);
    assert_eq!(said(&mux), ["1: 4"]);
    assert!(!mux.enlarge(1, i32::MAX as u32), "a window has 31 bits");
}

#[tokio::test]
async fn the_sessions_window_is_honoured() {
    let mux = Mux::new(10);
    let (_read, mut write) = mux.channel(1);
    assert!(mux.enlarge(0, 1));
    write.write_all(&vec![1; SEND_LIMIT]).await.unwrap();
    said(&mux);
    write.write_all(b"abc").await.unwrap();
    assert_eq!(said(&mux), ["1: 1"]);
    assert!(mux.enlarge(0, 10));
    assert_eq!(said(&mux), ["1: 2"]);
    assert!(!mux.enlarge(0, i32::MAX as u32));
}

#[tokio::test]
async fn what_is_read_is_given_back() {
    let mux = Mux::new(10);
    let (mut read, _write) = mux.channel(1);
    mux.received(1, &[7; 40_000]);
    assert_eq!(said(&mux), ["credit 0: 40000"]);
    read.read_exact(&mut [0; 30_000]).await.unwrap();
    assert_eq!(said(&mux), [""; 0], "not for every byte");
    read.read_exact(&mut [0; 10_000]).await.unwrap();
    assert_eq!(said(&mux), ["credit 1: 40000"]);
}

#[tokio::test]
async fn streams_are_forgotten_when_both_ends_have_done() {
    let mux = Mux::new(2);
    assert!(opened(&mux, 1) && opened(&mux, 3));
    assert!(!opened(&mux, 5), "too many");
    let one = mux.accept().await.unwrap();
    drop(one);
    assert_eq!(said(&mux), ["1: 0 end"]);
    assert!(!opened(&mux, 5), "the client has not ended its side");
    mux.ended(1);
    assert!(opened(&mux, 5));
    let mut three = mux.accept().await.unwrap();
    mux.received(3, b"last");
    mux.was_reset(3);
    let mut text = String::new();
    three.read.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last", "what came before the reset is there");
    assert!(three.write.write_all(b"x").await.is_err());
    assert!(!opened(&mux, 7));
    drop(three);
    assert!(opened(&mux, 7));
}

#[tokio::test]
async fn the_end_lets_output_go_and_tells_everyone() {
    let mux = Mux::new(10);
    let (mut read, mut write) = mux.channel(1);
    write.write_all(b"last words").await.unwrap();
    mux.received(1, b"unread");
    mux.finish(Goodbye::Done);
    assert!(write.write_all(b"x").await.is_err());
    assert_eq!(read.read(&mut [0; 9]).await.unwrap(), 0);
    assert!(mux.accept().await.is_none());
    assert!(!opened(&mux, 3));
    let mut words = Words::default();
    assert_eq!(mux.fill(&mut words, &mut Vec::new()), Fill::Last);
    assert_eq!(words.0, ["1: 10 end", "goodbye Done"]);
    assert_eq!(mux.fill(&mut words, &mut Vec::new()), Fill::None);
}

#[tokio::test]
async fn a_broken_connection_tells_everyone() {
    let mux = Mux::new(10);
    let (mut read, mut write) = mux.channel(1);
    assert!(opened(&mux, 3), "one that nobody has accepted");
    mux.received(1, b"unread");
    write.write_all(&vec![1; SEND_LIMIT]).await.unwrap();
    let mut stuck = by_hand(write.write_all(b"x"));
    assert!(stuck.poll().is_none());
    mux.close();
    assert!(stuck.poll().is_some_and(|r| r.is_err()));
    let mut text = String::new();
    read.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "unread");
    assert!(mux.gone().is_cancelled());
    assert!(mux.accept().await.is_none());
    assert_eq!(said(&mux), [""; 0]);
}

#[tokio::test]
async fn idleness_is_measured_from_the_last_movement() {
    let mux = Mux::new(10);
    let (limit, pause) = (Duration::from_millis(100), Duration::from_millis(60));
    let begin = Instant::now();
    let moves = async {
        tokio::time::sleep(pause).await;
        mux.touch();
    };
    tokio::join!(moves, mux.idle(limit));
    assert!(begin.elapsed() >= pause + limit - Duration::from_millis(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn answers_wait_for_the_writer() {
    let mux = Mux::new(10);
    for _ in 0..CONTROL_LIMIT {
        mux.answer(Control::Pong(Bytes::new())).await;
    }
    let mut more = by_hand(mux.answer(Control::Pong(Bytes::new())));
    assert!(more.poll().is_none());
    assert_eq!(said(&mux).len(), CONTROL_LIMIT);
    assert!(more.poll().is_some());
}

/// A future that is polled by hand.
fn by_hand<F: Future>(future: F) -> Polled<F> {
    Polled(Box::pin(future))
}

struct Polled<F>(std::pin::Pin<Box<F>>);

impl<F: Future> Polled<F> {
    fn poll(&mut self) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(Waker::noop());
        match self.0.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
