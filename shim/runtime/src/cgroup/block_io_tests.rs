//! Block I/O as both versions write it, into pipes in place of control files: a pipe keeps every single write.

use super::v1::Groups;
use super::v2::Group;
use super::{v1_limits, v2_limits};
use crate::spec::Resources;
use crate::sys::file;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

const ALL: &str = r#"{"blockIO": {
    "weight": 80, "weightDevice": [{"major": 8, "minor": 0, "weight": 50}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 8, "minor": 16, "rate": 0}],
    "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2000}],
    "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 40}]}}"#;

/// A group whose control files are pipes of these names.
struct Pipes {
    dir: tempfile::TempDir,
    open: Vec<(&'static str, OwnedFd)>,
}

impl Pipes {
    fn new(names: &[&'static str]) -> Pipes {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &&'static str| {
            let path = dir.path().join(name);
            let c = CString::new(path.to_str().unwrap()).unwrap();
            // SAFETY: the path is NUL-terminated and outlives the call.
            assert_eq!(unsafe { libc::mkfifo(c.as_ptr(), 0o600) }, 0);
            (*name, file::open(&path, libc::O_RDWR | libc::O_NONBLOCK, 0).unwrap())
        };
        let open = names.iter().map(make).collect();
        Pipes { dir, open }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What has been written to each, one write after the other, empty ones left out.
    fn written(&self) -> Vec<(&'static str, String)> {
        let read = |fd: &OwnedFd| {
            let mut buffer = [0; 4096];
            let length = file::read(fd, &mut buffer).unwrap_or(0);
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let all = self.open.iter().map(|(name, fd)| (*name, read(fd)));
        all.filter(|(_, text)| !text.is_empty()).collect()
    }
}

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

fn on_v1(pipes: &Pipes, json: &str) -> crate::error::Result<()> {
    let groups = serde_json::json!([{"controllers": ["blkio"], "path": pipes.path()}]);
    let groups: Groups = serde_json::from_value(groups).unwrap();
    v1_limits::set(&groups, &resources(json))
}

fn on_v2(pipes: &Pipes, json: &str) -> crate::error::Result<()> {
    v2_limits::set(&Group::plan(Path::new("/"), pipes.path()).dir(), &resources(json))
}

const THROTTLES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

#[test]
fn version_1_has_a_file_for_each() {
    for (weight, device) in
        [("blkio.weight", "blkio.weight_device"), ("blkio.bfq.weight", "blkio.bfq.weight_device")]
    {
        let pipes = Pipes::new(&[&[weight, device][..], &THROTTLES].concat());
        on_v1(&pipes, ALL).unwrap();
        let expected = [
            (weight, "80"),
            (device, "8:0 50"),
            (THROTTLES[0], "8:0 10008:16 0"),
            (THROTTLES[1], "8:0 2000"),
            (THROTTLES[2], "8:0 30"),
            (THROTTLES[3], "8:0 40"),
        ];
        assert_eq!(pipes.written(), expected.map(|(name, text)| (name, text.to_owned())));
    }
}

#[test]
fn version_2_has_one_file_for_throttles() {
    let io_max = "8:0 rbps=10008:16 rbps=max8:0 wbps=20008:0 riops=308:0 wiops=40".to_owned();
    let pipes = Pipes::new(&["io.weight", "io.max"]);
    on_v2(&pipes, ALL).unwrap();
    assert_eq!(pipes.written(), [("io.weight", "7088:0 405".to_owned()), ("io.max", io_max.clone())]);
    // bfq's own weights are those of version 1, and it comes first where both are there.
    let pipes = Pipes::new(&["io.bfq.weight", "io.weight", "io.max"]);
    on_v2(&pipes, ALL).unwrap();
    assert_eq!(pipes.written(), [("io.bfq.weight", "808:0 50".to_owned()), ("io.max", io_max)]);
}

#[test]
fn a_kernel_without_weights_says_so() {
    for json in [
        r#"{"blockIO": {"weight": 80}}"#,
        r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 50}]}}"#,
    ] {
        let pipes = Pipes::new(&THROTTLES);
        let error = on_v1(&pipes, json).unwrap_err().report();
        assert!(error.contains("blkio.bfq.weight") && error.contains("bfq"), "{error}");
        let error = on_v2(&Pipes::new(&["io.max"]), json).unwrap_err().report();
        assert!(error.contains("io.bfq.weight") && error.contains("scheduler"), "{error}");
    }
    // Whoever asks for none needs none.
    let nothing = r#"{"blockIO": {"weight": 0}}"#;
    on_v1(&Pipes::new(&THROTTLES), nothing).unwrap();
    on_v2(&Pipes::new(&["io.max"]), nothing).unwrap();
}
