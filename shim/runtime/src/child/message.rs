//! What caller and child say to each other over their socket pair: one letter, sometimes with descriptors or a text.

use crate::error::{Context, Error, Result};
use crate::sys::file;
use crate::sys::socket::{Channel, MAX_MESSAGE};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// From the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// The id maps are written.
    Mapped = b'm',
    /// The control groups are made. On v1 the `tasks` files of all of them come along.
    Grouped = b'g',
    /// The caller's hooks have run.
    Hooked = b'h',
    /// Run the program.
    Start = b's',
    /// The notification descriptor has been passed on.
    Notified = b'n',
}

/// From the child.
#[derive(Debug)]
pub enum Report {
    /// The real child of an intermediate one, by its pidfd.
    Process(OwnedFd),
    /// Time for the caller's hooks.
    Hooks,
    /// At the start barrier; with the terminal's master, if there is one.
    Ready(Option<OwnedFd>),
    /// The seccomp notification descriptor.
    Notify(OwnedFd),
    /// It failed; the child is ending.
    Failed(Error),
    /// The socket is closed: the program runs, or the child died.
    Gone,
}

pub fn order(channel: &Channel, order: Order) -> Result<()> {
    send(channel, order, &[])
}

/// A child that has gone away has said why before.
fn send(channel: &Channel, order: Order, fds: &[RawFd]) -> Result<()> {
    match channel.send(&[order as u8], fds) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => loop {
            match await_report(channel)? {
                Report::Failed(error) => return Err(error),
                Report::Gone => {
                    return Err(Error::State("the process died while it was being set up".into()));
                }
                _ => {}
            }
        },
        other => other.op("send to child"),
    }
}

/// The order to go into the control groups.
pub fn order_grouped(channel: &Channel, tasks: &[OwnedFd]) -> Result<()> {
    let fds: Vec<RawFd> = tasks.iter().map(|fd| fd.as_raw_fd()).collect();
    send(channel, Order::Grouped, &fds)
}

/// Waits for that order and carries it out.
///
/// A process that moves itself, thread by thread, takes no lock on v1; moved by somebody else it takes one that waits for
/// every CPU to pass a quiescent state, which is milliseconds on a busy machine.
pub fn join_groups(channel: &Channel) -> Result<()> {
    for tasks in await_order(channel, Order::Grouped)? {
        file::write(&tasks, b"0").op("join cgroup")?;
    }
    Ok(())
}

/// Waits for one order, which must be the next to come. The caller's death ends the child.
pub fn await_order(channel: &Channel, want: Order) -> Result<Vec<OwnedFd>> {
    let (data, fds) = channel.receive().op("receive from caller")?;
    if data.first() == Some(&(want as u8)) {
        return Ok(fds);
    }
    Err(Error::State("the caller has gone away".into()))
}

pub fn report(channel: &Channel, letter: u8, fds: &[RawFd]) -> Result<()> {
    channel.send(&[letter], fds).op("send to caller")
}

/// Tells what went wrong, in full.
pub fn report_failure(channel: &Channel, error: &Error) {
    let mut data = vec![b'E'];
    data.extend(error.errno().unwrap_or(0).to_le_bytes());
    data.extend(error.report().bytes());
    data.truncate(MAX_MESSAGE);
    // The caller may be gone; nobody else could be told.
    let _ = channel.send(&data, &[]);
}

/// The next report of the child.
pub fn await_report(channel: &Channel) -> Result<Report> {
    let (data, fds) = match channel.receive() {
        // A peer that died with our messages unread resets the connection, which is told once, before what it said last.
        Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => channel.receive(),
        other => other,
    }
    .op("receive from child")?;
    let mut fds = fds.into_iter();
    let malformed = || Error::State("malformed message from child".into());
    match data.first() {
        None => Ok(Report::Gone),
        Some(b'P') => fds.next().map(Report::Process).ok_or_else(malformed),
        Some(b'H') => Ok(Report::Hooks),
        Some(b'R') => Ok(Report::Ready(fds.next())),
        Some(b'N') => fds.next().map(Report::Notify).ok_or_else(malformed),
        Some(b'E') if data.len() >= 5 => {
            let errno = i32::from_le_bytes([data[1], data[2], data[3], data[4]]);
            let message = String::from_utf8_lossy(&data[5..]).into_owned();
            Ok(Report::Failed(Error::Init { message, errno: (errno != 0).then_some(errno) }))
        }
        Some(_) => Err(malformed()),
    }
}
