//! Netlink, as far as the networks of pods need it: requests are built, sent, and their answers read.
//!
//! One module for both families that are spoken here: [`route`] for links, addresses and routes, [`nft`] for rules. These
//! functions block, for as long as the kernel waits for locks of its own; an answer is not waited for longer than
//! [`LIMIT`]. A socket stays in the network namespace that it was
//! made in, whatever thread uses it.

pub mod nft;
pub mod route;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel answers at once, unless it waits for a lock of its own.
const LIMIT: Duration = Duration::from_secs(20);
/// The kernel fills at most this much at a time.
const BUFFER: usize = 64 << 10;
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// In an attribute's type: it holds attributes.
const NESTED: u16 = 1 << 15;
/// In a message's flags: what it tells of has changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// How often a list is asked for that changes while it is read.
const TRIES: usize = 10;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// A message to the kernel: nlmsghdr, the family's own header, attributes.
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Text with the nought at its end that the kernel wants.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute of attributes.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.push(kind | NESTED, &[]);
        let mut filled = fill(self);
        let length = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Bytes that are no attribute, where a family has a header within attributes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn flag(&mut self, flags: u16) {
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
    }

    fn seal(&mut self, sequence: u32) {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A message from the kernel.
#[derive(Debug)]
pub struct Message {
    /// After nlmsghdr: the family's header, then attributes.
    body: Vec<u8>,
}

impl Message {
    pub fn header<const N: usize>(&self) -> Option<[u8; N]> {
        self.body.get(..N)?.try_into().ok()
    }

    /// The attribute of a type, behind a header of `header` bytes.
    pub fn attribute(&self, header: usize, kind: u16) -> Option<&[u8]> {
        find(self.body.get(header..)?, kind)
    }
}

/// The attribute of a type among others.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while bytes.len() >= ATTRIBUTE {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let own = u16::from_ne_bytes([bytes[2], bytes[3]]) & !(NESTED | NESTED >> 1);
        let value = bytes.get(ATTRIBUTE..length)?;
        if own == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A connection with one of the kernel's families.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(LIMIT))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Has something done.
    pub fn ask(&mut self, request: Request) -> Result<(), Errno> {
        self.fetch(request).map(drop)
    }

    /// Asks for something and gathers what is told.
    pub fn fetch(&mut self, mut request: Request) -> Result<Vec<Message>, Errno> {
        request.flag(ACK);
        self.sequence += 1;
        request.seal(self.sequence);
        rustix::net::send(&self.fd, &request.bytes, SendFlags::empty())?;
        self.gather(self.sequence, self.sequence)
    }

    /// Asks for a list, again where it has changed while it was read.
    pub fn dump(&mut self, request: impl Fn() -> Request) -> Result<Vec<Message>, Errno> {
        for _ in 1..TRIES {
            match self.fetch(request()) {
                Err(Errno::INTR) => {}
                outcome => return outcome,
            }
        }
        self.fetch(request())
    }

    /// Sends several messages at once, which the family takes as a whole; the last but one is to be acknowledged.
    fn batch(&mut self, mut requests: Vec<Request>) -> Result<(), Errno> {
        let first = self.sequence + 1;
        let acknowledged = requests.len().saturating_sub(2);
        let mut bytes = Vec::new();
        for (i, request) in requests.iter_mut().enumerate() {
            self.sequence += 1;
            if i == acknowledged {
                request.flag(ACK);
            }
            request.seal(self.sequence);
            bytes.extend_from_slice(&request.bytes);
        }
        rustix::net::send(&self.fd, &bytes, SendFlags::empty())?;
        self.gather(first, first + acknowledged as u32).map(drop)
    }

    /// Reads until the message of sequence `last` is acknowledged, or one since `first` is refused. `EINTR` is a list that
    /// has changed meanwhile; it is read to its end all the same, as the socket takes no other request before.
    fn gather(&mut self, first: u32, last: u32) -> Result<Vec<Message>, Errno> {
        let mut told = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, whole) = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::TRUNC)?;
            if whole > length {
                return Err(Errno::MSGSIZE);
            }
            let mut rest = &buffer[..length];
            while let Some((message, after)) = split(rest) {
                rest = after;
                // What was asked for earlier and was not waited for.
                if !(first..=last).contains(&message.sequence) {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => match message.code() {
                        0 if message.sequence == last && interrupted => return Err(Errno::INTR),
                        0 if message.sequence == last => return Ok(told),
                        0 => {}
                        code => return Err(Errno::from_raw_os_error(code.saturating_neg())),
                    },
                    _ => told.push(Message { body: message.body.to_vec() }),
                }
            }
        }
    }
}

struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Part<'_> {
    /// Minus the error, or nought.
    fn code(&self) -> i32 {
        self.body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes)
    }
}

/// The first message of several, and the rest.
fn split(bytes: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let four = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = four(0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let part = Part {
        kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
        flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
        sequence: four(8)?,
        body,
    };
    Some((part, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_layout_of_the_kernel() {
        let mut request =
            Request::new(16, CREATE, &[7; 4]).text(3, "ab").nested(18, |r| r.attribute(1, &[1, 2, 3, 4]));
        request.seal(9);
        let mut expected = Vec::new();
        for number in [40_u32, 0, 9, 0] {
            expected.extend_from_slice(&number.to_ne_bytes());
        }
        expected[4..6].copy_from_slice(&16_u16.to_ne_bytes());
        expected[6..8].copy_from_slice(&(CREATE | REQUEST).to_ne_bytes());
        expected.extend_from_slice(&[7; 4]);
        for (length, kind, value) in
            [(7_u16, 3_u16, &b"ab\0\0"[..]), (12, 18 | NESTED, &[]), (8, 1, &[1, 2, 3, 4])]
        {
            expected.extend_from_slice(&length.to_ne_bytes());
            expected.extend_from_slice(&kind.to_ne_bytes());
            expected.extend_from_slice(value);
        }
        assert_eq!(request.bytes, expected);
    }

    #[test]
    fn attributes_are_found_and_garbage_is_not_read_beyond() {
        let request = Request::new(0, 0, &[]).attribute(1, b"one").attribute(2 | NESTED, b"two");
        let bytes = &request.bytes[HEADER..];
        assert_eq!(find(bytes, 1), Some(&b"one"[..]));
        assert_eq!(find(bytes, 2), Some(&b"two"[..]));
        assert_eq!(find(bytes, 3), None);
        assert_eq!(find(&bytes[..6], 1), None, "cut off");
        assert_eq!(find(&[0, 0, 1, 0, 0, 0, 1, 0], 1), None, "shorter than its header");
        assert!(split(&[8, 0, 0, 0]).is_none());
        assert!(split(&[200; 32]).is_none());
    }

    #[test]
    fn an_error_of_the_kernel_is_told() {
        let mut socket = Socket::open(None).unwrap();
        let header = route::link_header(i32::MAX, 0, 0);
        assert_eq!(socket.ask(Request::new(libc::RTM_GETLINK, 0, &header)), Err(Errno::NODEV));
        let found = socket.fetch(Request::new(libc::RTM_GETLINK, 0, &route::link_header(1, 0, 0))).unwrap();
        assert_eq!(found.len(), 1, "loopback");
    }
}
