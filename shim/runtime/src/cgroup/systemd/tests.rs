//! Against a systemd of our own on a socket.

use super::wire::{CALL, ERROR, FIXED, Header, RETURN, Reader, SIGNAL};
use super::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

/// What systemd says to one call, after its answer or before.
enum Say {
    /// Answers with an object's path.
    Job(&'static str),
    Nothing,
    Error(&'static str),
    /// `JobRemoved`: job, unit, result.
    Ended(&'static str, &'static str, &'static str),
    Raw(Vec<u8>),
}

struct Systemd {
    dir: tempfile::TempDir,
    thread: JoinHandle<Vec<(String, Vec<u8>)>>,
}

fn text_body(text: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.text(text);
    body.0
}

fn read_message(stream: &mut UnixStream) -> Option<(Header, Vec<u8>)> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).ok()?;
    let (fields, body) = Header::lengths(&fixed).unwrap();
    let (mut fields, mut body) = (vec![0; fields], vec![0; body]);
    stream.read_exact(&mut fields).unwrap();
    stream.read_exact(&mut body).unwrap();
    Some((Header::parse(&fixed, &fields).unwrap(), body))
}

fn signal(job: &str, unit: &str, result: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.number(1);
    [job, unit, result].iter().for_each(|text| body.text(text));
    let header = Header {
        kind: SIGNAL,
        serial: 99,
        path: "/org/freedesktop/systemd1".into(),
        interface: "org.freedesktop.systemd1.Manager".into(),
        member: "JobRemoved".into(),
        signature: "uoss".into(),
        ..Header::default()
    };
    header.message(&body.0)
}

fn serve(mut stream: UnixStream, greeting: &str, script: Vec<Vec<Say>>) -> Vec<(String, Vec<u8>)> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"\0AUTH EXTERNAL 3"), "{line:?}");
    stream.write_all(greeting.as_bytes()).unwrap();
    if !greeting.starts_with("OK") {
        return Vec::new();
    }
    let mut begin = [0; 7];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"BEGIN\r\n");
    let mut calls = Vec::new();
    for says in script {
        let Some((call, body)) = read_message(&mut stream) else { return calls };
        assert_eq!(call.kind, CALL);
        let answer = Header { serial: 1, reply_to: call.serial, ..Header::default() };
        calls.push((call.member, body));
        for say in says {
            let bytes = match say {
                Say::Job(path) => {
                    Header { kind: RETURN, signature: "o".into(), ..answer.clone() }.message(&text_body(path))
                }
                Say::Nothing => Header { kind: RETURN, ..answer.clone() }.message(&[]),
                Say::Error(name) => {
                    Header { kind: ERROR, error: name.into(), signature: "s".into(), ..answer.clone() }
                        .message(&text_body("says no"))
                }
                Say::Ended(job, unit, result) => signal(job, unit, result),
                Say::Raw(bytes) => bytes,
            };
            if stream.write_all(&bytes).is_err() {
                return calls;
            }
        }
    }
    // Until the other side goes.
    let _ = stream.read(&mut [0]);
    calls
}

impl Systemd {
    /// Answers calls in the order of the script, on the socket of that name.
    fn on(name: &str, greeting: &'static str, script: Vec<Vec<Say>>) -> Systemd {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(name)).unwrap();
        let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0, greeting, script));
        Systemd { dir, thread }
    }

    fn new(script: Vec<Vec<Say>>) -> Systemd {
        Systemd::on("private", "OK 0123\r\n", script)
    }

    fn with<T>(&self, work: impl FnOnce(&Addresses<'_>) -> T) -> T {
        let (private, bus) = (self.dir.path().join("private"), self.dir.path().join("bus"));
        work(&Addresses { private: &private, bus: &bus })
    }

    fn calls(self) -> Vec<(String, Vec<u8>)> {
        self.thread.join().unwrap()
    }

    fn names(self) -> Vec<String> {
        self.calls().into_iter().map(|(name, _)| name).collect()
    }
}

const UNIT: &str = "cri-containerd-c.scope";

fn scope() -> Scope {
    Scope::parse("a-b.slice:cri-containerd:c", "id").unwrap()
}

fn start(systemd: &Systemd) -> Result<()> {
    start_with(systemd, &[])
}

fn start_with(systemd: &Systemd, annotations: &[(&str, &str)]) -> Result<()> {
    let resources: Resources = serde_json::from_str(r#"{"memory":{"limit":4096}}"#).unwrap();
    let annotations = annotations.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    let more = Properties::of(&annotations.collect())?;
    systemd.with(|at| scope().start_at(at, 42, &resources, more, true))
}

#[test]
fn paths() {
    assert_eq!(scope().path(), Path::new("a.slice/a-b.slice/cri-containerd-c.scope"));
    let path = |configured| Scope::parse(configured, "id").map(|scope| scope.path());
    assert_eq!(path("").unwrap(), Path::new("system.slice/runc-id.scope"));
    assert_eq!(path(":p:n").unwrap(), Path::new("system.slice/p-n.scope"));
    assert_eq!(path("-.slice:p:n").unwrap(), Path::new("p-n.scope"));
    for wrong in [
        "/a/b",
        "a:b",
        "a:b:c:d",
        "a.slice:b:",
        "a:b:c",
        "a/b.slice:b:c",
        "..:b:c",
        ".slice:b:c",
        "a--b.slice:b:c",
        "-a.slice:b:c",
        "a.slice:b:c/../d",
        "a.slice:b:c.slice",
        "a.slice:b:c\n",
        "a.slice:b:ä",
    ] {
        assert!(path(wrong).is_err(), "{wrong:?}");
    }
    assert!(path(&format!("a.slice:b:{}", "c".repeat(250))).is_err());
}

#[test]
fn a_scope_is_made() {
    let systemd = Systemd::new(vec![vec![
        // News of others, and of other kinds, and its own before the answer.
        Say::Ended("/job/1", "other.scope", "failed"),
        Say::Raw(
            Header { kind: SIGNAL, serial: 5, member: "UnitNew".into(), ..Header::default() }
                .message(&[0; 70_000]),
        ),
        Say::Ended("/job/7", UNIT, "done"),
        Say::Job("/job/7"),
    ]]);
    start(&systemd).unwrap();
    let (name, body) = systemd.calls().remove(0);
    assert_eq!(name, "StartTransientUnit");
    let mut reader = Reader::new(&body);
    assert_eq!((reader.text(), reader.text()), (Some(UNIT), Some("replace")));
    for word in ["PIDs", "Delegate", "DefaultDependencies", "a-b.slice", "MemoryMax", "TasksAccounting"] {
        assert!(body.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
    }
}

#[test]
fn annotations_name_more_properties() {
    let done = || vec![Say::Job("/job/1"), Say::Ended("/job/1", UNIT, "done")];
    let systemd = Systemd::new(vec![done()]);
    let annotations = [
        ("org.systemd.property.TimeoutStopSec", "7"),
        ("org.systemd.property.After", "['x.service']"),
        ("org.systemd.property.MemoryMax", "uint64 1"),
        ("org.example.property.CollectMode", "'never'"),
    ];
    start_with(&systemd, &annotations).unwrap();
    let (_, body) = systemd.calls().remove(0);
    let at = |word: &str| body.windows(word.len()).rposition(|w| w == word.as_bytes());
    assert!(at("TimeoutStopUSec").is_some() && at("x.service").is_some());
    assert!(at("TimeoutStopSec").is_none() && at("never").is_none());
    // The container's own limit comes last, and the last one counts.
    let limit = [&b"MemoryMax\0"[..], &b"\x01t\0"[..]].concat();
    let last = body.windows(limit.len()).rposition(|w| w == limit).unwrap();
    let value = (last + limit.len()).next_multiple_of(8);
    assert_eq!(body[value..value + 8], 4096u64.to_ne_bytes());
    // What is wrong is told before systemd is asked.
    let nobody = Systemd::new(vec![]);
    let error = start_with(&nobody, &[("org.systemd.property.After", "x.service")]).unwrap_err();
    assert!(
        error.report().contains("annotation org.systemd.property.After=x.service: "),
        "{}",
        error.report()
    );
}

#[test]
fn a_job_that_fails_is_told() {
    let systemd = Systemd::new(vec![
        vec![Say::Job("/job/7"), Say::Ended("/job/8", UNIT, "done"), Say::Ended("/job/7", UNIT, "timeout")],
        vec![Say::Nothing],
    ]);
    let error = start(&systemd).unwrap_err();
    assert_eq!(error.report(), format!("systemd cgroup driver: start {UNIT}: its job ended as \"timeout\""));
    assert_eq!(systemd.names(), ["StartTransientUnit", "ResetFailedUnit"]);
}

#[test]
fn what_failed_before_is_forgotten() {
    let done = || vec![Say::Job("/job/1"), Say::Ended("/job/1", UNIT, "done")];
    let systemd = Systemd::new(vec![vec![Say::Error(EXISTS)], vec![Say::Nothing], done()]);
    start(&systemd).unwrap();
    assert_eq!(systemd.names(), ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);
    let systemd =
        Systemd::new(vec![vec![Say::Error(EXISTS)], vec![Say::Error(ABSENT)], vec![Say::Error(EXISTS)]]);
    let error = start(&systemd).unwrap_err();
    assert_eq!(error.report(), format!("systemd cgroup driver: start {UNIT}: says no ({EXISTS})"));
}

#[test]
fn limits_change() {
    let systemd = Systemd::new(vec![vec![Say::Nothing], vec![Say::Nothing]]);
    let resources: Resources = serde_json::from_str(r#"{"pids":{"limit":9}}"#).unwrap();
    systemd.with(|at| scope().update_at(at, &resources, true)).unwrap();
    assert_eq!(systemd.names(), ["SetUnitProperties", "Ping"]);
    // Nothing that systemd knows of: it is not asked.
    let nowhere = Addresses { private: Path::new("/nowhere"), bus: Path::new("/nowhere") };
    scope().update_at(&nowhere, &Resources::default(), true).unwrap();
}

#[test]
fn a_scope_ends() {
    let systemd = Systemd::new(vec![vec![Say::Error(ABSENT)]]);
    systemd.with(|at| scope().stop_at(at)).unwrap();
    assert_eq!(systemd.names(), ["StopUnit"]);
    let systemd = Systemd::new(vec![
        vec![Say::Job("/job/1"), Say::Ended("/job/1", UNIT, "done")],
        vec![Say::Error(ABSENT)],
    ]);
    systemd.with(|at| scope().stop_at(at)).unwrap();
    assert_eq!(systemd.names(), ["StopUnit", "ResetFailedUnit"]);
}

#[test]
fn the_bus_takes_the_socket_s_place() {
    let script = [vec![Say::Job(":1.5")], vec![Say::Nothing], vec![Say::Nothing], vec![Say::Error(ABSENT)]];
    let systemd = Systemd::on("bus", "OK 0123\r\n", script.into());
    systemd.with(|at| scope().stop_at(at)).unwrap();
    assert_eq!(systemd.names(), ["Hello", "AddMatch", "Subscribe", "StopUnit"]);
}

#[test]
fn strange_answers() {
    let refused = Systemd::on("private", "REJECTED EXTERNAL\r\n", vec![]);
    let error = start(&refused).unwrap_err();
    assert!(
        error.report().ends_with("it does not let this user in: \"REJECTED EXTERNAL\""),
        "{}",
        error.report()
    );
    let endless: &'static str = "OK ".repeat(300).leak();
    let error = start(&Systemd::on("private", endless, vec![])).unwrap_err();
    assert!(error.report().contains("malformed"), "{}", error.report());
    for bytes in [vec![0xff; 64], [&b"l\x02\0\x01\xff\xff\xff\xff"[..], &[0xff; 64]].concat()] {
        let error = start(&Systemd::new(vec![vec![Say::Raw(bytes)]])).unwrap_err();
        assert!(error.report().contains("malformed"), "{}", error.report());
    }
    // An answer that names no job.
    let error = start(&Systemd::new(vec![vec![Say::Nothing]])).unwrap_err();
    assert!(error.report().contains("no job"), "{}", error.report());
}

#[test]
fn nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (private, bus) = (dir.path().join("private"), dir.path().join("bus"));
    let at = Addresses { private: &private, bus: &bus };
    assert!(!at.any());
    let error = scope().stop_at(&at).unwrap_err();
    assert!(error.report().contains("connect to"), "{}", error.report());
    // Somebody listens and says nothing; then nobody even accepts.
    let listener = UnixListener::bind(&private).unwrap();
    let limit = Duration::from_millis(50);
    let error = Bus::connect(&at, UNIT, limit).unwrap_err();
    assert!(matches!(error, BusError::Timeout(_)), "{error:?}");
    let mut queued = Vec::new();
    let error = loop {
        match crate::sys::socket::connect_within(&private, limit) {
            Ok(stream) => queued.push(stream),
            Err(error) => break error,
        }
        assert!(queued.len() < 5000);
    };
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    drop(listener);
}
