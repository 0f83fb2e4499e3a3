//! From standard input into a fifo, on a thread of its own. A process that does not read must not keep us from seeing
//! the keys to leave: what it has not taken yet waits in a bounded buffer.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;

use super::{Event, Keys};

/// Most bytes that wait for the process.
const PENDING: usize = 64 * 1024;
const CTRL_C: u8 = 3;

/// Copies until input ends, the process closes its end, or the keys to leave are typed.
pub fn copy(path: &str, keys: Option<Keys>, events: &UnboundedSender<Event>) {
    // Blocks until the shim has its end.
    let Ok(fifo) = File::options().write(true).open(path) else { return };
    if let Ok(flags) = rustix::fs::fcntl_getfl(&fifo) {
        // Without it a full fifo would block the thread: slower to notice keys, and no worse.
        let _ = rustix::fs::fcntl_setfl(&fifo, flags | rustix::fs::OFlags::NONBLOCK);
    }
    let ended = pump(std::io::stdin().as_fd(), fifo.as_fd(), keys, events);
    drop(fifo);
    if ended {
        let _ = events.send(Event::InputEnded);
    }
}

/// Whether input came to its end, and all of it was passed on.
fn pump(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut keys: Option<Keys>,
    events: &UnboundedSender<Event>,
) -> bool {
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    let mut open = true;
    loop {
        if !open && pending.is_empty() {
            return true;
        }
        let wants = |yes: bool, flags: PollFlags| if yes { flags } else { PollFlags::empty() };
        let reading = open && pending.len() < PENDING;
        let mut fds = [
            PollFd::from_borrowed_fd(to, wants(!pending.is_empty(), PollFlags::OUT)),
            PollFd::from_borrowed_fd(from, wants(reading, PollFlags::IN)),
        ];
        // A standard input that is not polled would report its end again and again.
        let count = if reading { 2 } else { 1 };
        match poll(&mut fds[..count], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        let (out, input) = (fds[0].revents(), fds[1].revents());
        if out.intersects(PollFlags::OUT) {
            match rustix::io::write(to, &pending) {
                Ok(count) => drop(pending.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        } else if out.intersects(PollFlags::ERR | PollFlags::NVAL) {
            return false;
        }
        if reading && !input.is_empty() {
            match rustix::io::read(from, &mut buffer) {
                Ok(0) => open = false,
                Ok(count) => {
                    let typed = &buffer[..count];
                    match &mut keys {
                        Some(keys) => {
                            if typed.contains(&CTRL_C) {
                                let _ = events.send(Event::Interrupt);
                            }
                            if keys.take(typed, &mut pending) {
                                let _ = events.send(Event::Detach);
                                return false;
                            }
                        }
                        None => pending.extend_from_slice(typed),
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // A terminal that has gone, and its person.
                Err(_) if keys.is_some() => {
                    let _ = events.send(Event::OutputGone);
                    return false;
                }
                Err(_) => open = false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn all_of_the_input_arrives() {
        let (mut person, input) = std::os::unix::net::UnixStream::pair().unwrap();
        let (output, mut process) = std::os::unix::net::UnixStream::pair().unwrap();
        output.set_nonblocking(true).unwrap();
        let (events, _told) = unbounded_channel();
        let pump = std::thread::spawn(move || pump(input.as_fd(), output.as_fd(), None, &events));
        let writer = std::thread::spawn(move || person.write_all(&vec![7; 1 << 20]).unwrap());
        let mut got = Vec::new();
        process.read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        assert!(pump.join().unwrap());
        assert_eq!(got.len(), 1 << 20);
    }

    #[test]
    fn keys_are_seen_though_the_process_does_not_read() {
        let (mut person, input) = std::os::unix::net::UnixStream::pair().unwrap();
        let (output, _process) = std::os::unix::net::UnixStream::pair().unwrap();
        output.set_nonblocking(true).unwrap();
        let (events, mut told) = unbounded_channel();
        let pump =
            std::thread::spawn(move || pump(input.as_fd(), output.as_fd(), Some(Keys::default()), &events));
        person.write_all(b"abc\x03").unwrap();
        person.write_all(b"\x10\x11").unwrap();
        assert!(!pump.join().unwrap());
        assert_eq!(told.try_recv(), Ok(Event::Interrupt));
        assert_eq!(told.try_recv(), Ok(Event::Detach));
    }

    #[test]
    fn a_process_that_closes_its_end_ends_the_copy() {
        let (_person, input) = std::os::unix::net::UnixStream::pair().unwrap();
        let (process, output) = rustix::pipe::pipe().unwrap();
        drop(process);
        let (events, _told) = unbounded_channel();
        assert!(!pump(input.as_fd(), output.as_fd(), None, &events));
    }
}
