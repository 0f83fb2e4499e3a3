//! A connection to systemd: calls, and the end of its jobs. Every wait has a limit.
//!
//! The private socket comes first: systemd answers there itself, whether or not a bus is up. Where it is not (inside a
//! container that was given the bus alone, for instance) the system bus passes the same messages on.

use super::wire::{self, Header, Reader, Writer};
use crate::sys::socket;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is kept of a message's body: errors and the news of jobs are far shorter, all else is passed over.
const MAX_KEPT: usize = 16 << 10;
const MAX_LINE: usize = 512;

const PATH: &str = "/org/freedesktop/systemd1";
const NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("exchange messages")]
    Io(#[source] io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{message} ({name})")]
    Refused { name: String, message: String },
    #[error("its answer is malformed: {0}")]
    Malformed(&'static str),
    #[error("it does not let this user in: {0:?}")]
    Identity(String),
    #[error("its job ended as {0:?}")]
    Job(String),
}

/// Where systemd listens.
#[derive(Debug)]
pub struct Addresses<'a> {
    pub private: &'a Path,
    pub bus: &'a Path,
}

impl Addresses<'_> {
    pub fn any(&self) -> bool {
        self.private.exists() || self.bus.exists()
    }
}

#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    limit: Duration,
    deadline: Instant,
    /// Not systemd itself, but a bus that it is on.
    shared: bool,
    serial: u32,
    /// Whose jobs are of interest.
    unit: String,
    /// Those that have ended: path and result.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects, within `limit`, and is ready for calls about one unit, all within `limit` from now.
    pub fn connect(addresses: &Addresses<'_>, unit: &str, limit: Duration) -> Result<Bus, BusError> {
        let dial = |path: &Path| {
            socket::connect_within(path, limit)
                .map(UnixStream::from)
                .map_err(|source| BusError::Connect { path: path.to_owned(), source })
        };
        let (stream, shared) = match dial(addresses.private) {
            Ok(stream) => (stream, false),
            Err(error) => match dial(addresses.bus) {
                Ok(stream) => (stream, true),
                // Of the two the first says more, unless there is only the second.
                Err(second) if !addresses.private.exists() && addresses.bus.exists() => return Err(second),
                Err(_) => return Err(error),
            },
        };
        let deadline = Instant::now() + limit;
        let mut bus =
            Bus { stream, limit, deadline, shared, serial: 0, unit: unit.to_owned(), ended: Vec::new() };
        bus.identify()?;
        if shared {
            bus.say("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", &[])?;
            let rule = format!(
                "type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"
            );
            bus.say("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", &[&rule])?;
            bus.say(PATH, MANAGER, "Subscribe", &[])?;
        }
        Ok(bus)
    }

    /// SASL's EXTERNAL: the kernel tells the other side who this is.
    fn identify(&mut self) -> Result<(), BusError> {
        // SAFETY: takes no pointers and cannot fail.
        let uid = unsafe { libc::geteuid() }.to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
            if line.len() > MAX_LINE {
                return Err(BusError::Malformed("a line without end"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(BusError::Identity(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        self.send(b"BEGIN\r\n")
    }

    fn say(&mut self, path: &str, interface: &str, member: &str, texts: &[&str]) -> Result<(), BusError> {
        let mut body = Writer::default();
        texts.iter().for_each(|text| body.text(text));
        self.call_at(path, interface, member, &"s".repeat(texts.len()), &body).map(drop)
    }

    /// A call of systemd's manager. Gives the body of the answer, the beginning of a very long one.
    pub fn call(&mut self, member: &str, signature: &str, body: &Writer) -> Result<Vec<u8>, BusError> {
        self.call_at(PATH, MANAGER, member, signature, body)
    }

    /// Returns when systemd has done what earlier calls made it put off: it goes through its queues before each message.
    pub fn settle(&mut self) -> Result<(), BusError> {
        self.say(PATH, "org.freedesktop.DBus.Peer", "Ping", &[])
    }

    fn call_at(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<Vec<u8>, BusError> {
        self.serial += 1;
        let daemon = path == "/org/freedesktop/DBus";
        let destination = if daemon { "org.freedesktop.DBus" } else { NAME };
        let header = Header {
            kind: wire::CALL,
            serial: self.serial,
            path: path.into(),
            interface: interface.into(),
            member: member.into(),
            destination: if self.shared { destination.into() } else { String::new() },
            signature: signature.into(),
            ..Header::default()
        };
        self.send(&header.message(&body.0))?;
        loop {
            let (header, body) = self.receive()?;
            match header.kind {
                wire::RETURN if header.reply_to == self.serial => return Ok(body),
                wire::ERROR if header.reply_to == self.serial => {
                    let told = header.signature.starts_with('s').then(|| Reader::new(&body).text()).flatten();
                    let message = told.unwrap_or("no reason given").chars().take(1000).collect();
                    return Err(BusError::Refused { name: header.error, message });
                }
                _ => {}
            }
        }
    }

    /// Waits for the end of a job that an answer's body names. Its result, `done` when all went well.
    pub fn job(&mut self, answer: &[u8]) -> Result<String, BusError> {
        let job = Reader::new(answer).text().ok_or(BusError::Malformed("no job in an answer"))?;
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            self.receive()?;
        }
    }

    /// The next message. News of the unit's jobs are put by: they may come before the call is answered that made them.
    fn receive(&mut self) -> Result<(Header, Vec<u8>), BusError> {
        let mut fixed = [0; wire::FIXED];
        self.fill(&mut fixed)?;
        let (fields, length) = Header::lengths(&fixed).map_err(BusError::Malformed)?;
        let mut data = vec![0; fields];
        self.fill(&mut data)?;
        let header = Header::parse(&fixed, &data).map_err(BusError::Malformed)?;
        let mut body = vec![0; length.min(MAX_KEPT)];
        self.fill(&mut body)?;
        let mut rest = length - body.len();
        while rest > 0 {
            let mut scrap = [0; 4096];
            let count = rest.min(scrap.len());
            self.fill(&mut scrap[..count])?;
            rest -= count;
        }
        let about_job =
            header.kind == wire::SIGNAL && header.member == "JobRemoved" && header.signature == "uoss";
        if about_job && header.interface == MANAGER {
            let mut reader = Reader::new(&body);
            let parts = (reader.number(), reader.text(), reader.text(), reader.text());
            let (Some(_), Some(job), Some(unit), Some(result)) = parts else {
                return Err(BusError::Malformed("JobRemoved"));
            };
            // One unit has few jobs in the time of a call; who sends more has made them up.
            if unit == self.unit && self.ended.len() < 16 {
                self.ended.push((job.to_owned(), result.to_owned()));
            }
        }
        Ok((header, body))
    }

    fn left(&self) -> Result<Duration, BusError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(BusError::Timeout(self.limit)) } else { Ok(left) }
    }

    fn failed(&self, error: io::Error) -> BusError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => BusError::Timeout(self.limit),
            _ => BusError::Io(error),
        }
    }

    fn send(&mut self, mut data: &[u8]) -> Result<(), BusError> {
        while !data.is_empty() {
            let left = self.left()?;
            self.stream.set_write_timeout(Some(left)).map_err(BusError::Io)?;
            match self.stream.write(data) {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, mut data: &mut [u8]) -> Result<(), BusError> {
        while !data.is_empty() {
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left)).map_err(BusError::Io)?;
            match self.stream.read(data) {
                Ok(0) => return Err(BusError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(count) => data = &mut data[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }
}
