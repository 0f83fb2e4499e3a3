//! Bundles and their runs.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use windlass_oci_runtime::{Child, Container, CreateOptions, Error, ExecOptions, Stdio};

pub type Test = (&'static str, fn());

/// A bundle in a directory of its own, with a specification like the one that `runc spec` writes.
pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub spec: Value,
    pub id: String,
    pub no_pivot_root: bool,
    pub clamp: bool,
    /// What is taken for the mount of resctrl.
    pub resctrl: Option<PathBuf>,
}

pub struct Output {
    /// As a shell would give it: 128 and the signal for a killed process.
    pub code: i32,
    pub out: String,
    pub err: String,
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .expect("a static busybox is installed")
}

impl Bundle {
    pub fn new() -> Bundle {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let rootfs = dir.path().join("rootfs");
        for d in ["bin", "etc", "proc", "sys", "dev", "tmp", "usr"] {
            fs::create_dir_all(rootfs.join(d)).unwrap();
        }
        fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
        let applets = [
            "sh", "true", "false", "ls", "cat", "echo", "id", "mount", "sleep", "env", "stat", "stty",
            "readlink", "wc", "mkdir", "touch", "head", "tail", "mknod", "grep", "hostname", "ps", "kill",
            "pwd", "rm", "tty", "dd", "ip", "chmod", "umount", "date", "test", "printf",
        ];
        for a in applets {
            symlink("busybox", rootfs.join("bin").join(a)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
        )
        .unwrap();
        let id = format!("windlass-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
                "env": ["PATH=/bin:/usr/bin", "TERM=xterm"],
                "capabilities": {
                    "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"],
                    "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"],
                    "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]
                },
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
                "noNewPrivileges": true
            },
            "root": {"path": "rootfs"},
            "hostname": "testhost",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        });
        Bundle { dir, spec, id, no_pivot_root: false, clamp: false, resctrl: None }
    }

    pub fn sh(script: &str) -> Bundle {
        let mut bundle = Bundle::new();
        bundle.args(&["sh", "-c", script]);
        bundle
    }

    pub fn args(&mut self, args: &[&str]) -> &mut Bundle {
        self.spec["process"]["args"] = json!(args);
        self
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn mount(&mut self, mount: Value) -> &mut Bundle {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Bundle {
        let list = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        list.push(match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
        self
    }

    pub fn without_namespace(&mut self, kind: &str) -> &mut Bundle {
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != kind);
        self
    }

    /// A new user namespace whose root is 100000 outside; the rootfs is given to it.
    pub fn user_namespace(&mut self) -> &mut Bundle {
        self.namespace("user", None);
        let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        for entry in ["", "bin", "etc", "proc", "sys", "dev", "tmp", "usr", "bin/busybox", "etc/passwd"] {
            std::os::unix::fs::chown(self.rootfs().join(entry), Some(100000), Some(100000)).unwrap();
        }
        self
    }

    pub fn create(&self, stdio: Stdio) -> Result<Container, Error> {
        let json = serde_json::to_vec(&self.spec).unwrap();
        let root = self.state_root();
        let mut options = CreateOptions::new(&self.id, self.dir.path(), &root);
        options.spec = Some(&json);
        options.stdio = stdio;
        options.no_pivot_root = self.no_pivot_root;
        if let Some(mount) = &self.resctrl {
            options.resctrl = mount;
        }
        if self.clamp {
            options.oom_score = windlass_oci_runtime::OomScore::Clamp;
        }
        Container::create(options)
    }

    /// Creates, starts, reads all output, waits and deletes.
    pub fn run(&self) -> Output {
        self.try_run().unwrap_or_else(|e| panic!("{}", e.report()))
    }

    pub fn try_run(&self) -> Result<Output, Error> {
        let (stdio, out, err) = pipes();
        let mut container = self.create(stdio)?;
        let started = container.start();
        let output = match started {
            Ok(()) => Output { out: read(out), err: read(err), code: wait(&container.pidfd().unwrap()) },
            Err(error) => {
                container.delete(true)?;
                self.assert_clean();
                return Err(error);
            }
        };
        container.delete(false)?;
        self.assert_clean();
        Ok(output)
    }

    /// The error that creation ends with; nothing may be left of it.
    pub fn refused(&self) -> String {
        let before = mounts();
        let error = self.create(Stdio::Null).expect_err("creation is refused").report();
        self.assert_clean();
        assert_mounts(&before);
        error
    }

    pub fn groups(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        if let Ok(entries) = fs::read_dir("/sys/fs/cgroup") {
            found.extend(entries.flatten().map(|e| e.path().join(&self.id)).filter(|p| p.exists()));
        }
        let unified = Path::new("/sys/fs/cgroup").join(&self.id);
        if unified.exists() {
            found.push(unified);
        }
        found
    }

    pub fn assert_clean(&self) {
        assert_eq!(self.groups(), Vec::<PathBuf>::new(), "groups are left");
        assert!(!self.state_root().join(&self.id).exists(), "state is left");
        // SAFETY: the status may be null.
        let zombie = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        assert!(zombie <= 0, "process {zombie} is left");
    }
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds: [RawFd; 2] = [0; 2];
    // SAFETY: `fds` is valid for writing; the kernel gives us both descriptors.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

pub fn pipes() -> (Stdio, OwnedFd, OwnedFd) {
    let ((out, stdout), (err, stderr)) = (pipe(), pipe());
    (Stdio::Fds { stdin: None, stdout: Some(stdout), stderr: Some(stderr) }, out, err)
}

pub fn read(fd: OwnedFd) -> String {
    let mut text = Vec::new();
    // A terminal whose other end is closed says EIO.
    let _ = File::from(fd).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads one line, byte by byte, so that nothing of the next is taken.
pub fn line(file: &mut File) -> String {
    let mut text = String::new();
    let mut byte = [0u8];
    while file.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    text
}

pub fn wait(pidfd: &impl AsRawFd) -> i32 {
    // SAFETY: `info` is valid for writing, zero is a valid siginfo_t.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result = libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, &mut info, libc::WEXITED);
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        if info.si_code == libc::CLD_EXITED { info.si_status() } else { 128 + info.si_status() }
    }
}

/// A container that sleeps until it is killed; deleted at the end.
pub struct Running {
    pub bundle: Bundle,
    pub container: Container,
}

impl Running {
    pub fn new(mut bundle: Bundle) -> Running {
        if bundle.spec["process"]["args"] == json!(["true"]) {
            bundle.args(&["sleep", "1000"]);
        }
        let mut container = bundle.create(Stdio::Null).unwrap_or_else(|e| panic!("{}", e.report()));
        container.start().unwrap();
        Running { bundle, container }
    }

    pub fn exec_child(&mut self, process: &Value, stdio: Stdio) -> Result<Child, Error> {
        let json = serde_json::to_vec(process).unwrap();
        let mut options = ExecOptions::new(&json);
        options.stdio = stdio;
        self.container.exec(options)
    }

    pub fn process(&self, script: &str) -> Value {
        let mut process = self.bundle.spec["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        process
    }

    pub fn exec(&mut self, script: &str) -> Output {
        let process = self.process(script);
        self.exec_process(&process)
    }

    pub fn exec_process(&mut self, process: &Value) -> Output {
        let (stdio, out, err) = pipes();
        let child = self.exec_child(process, stdio).unwrap_or_else(|e| panic!("{}", e.report()));
        Output { out: read(out), err: read(err), code: wait(&child.pidfd) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.container.delete(true)
            && !std::thread::panicking()
        {
            panic!("{}", error.report());
        }
        if !std::thread::panicking() {
            self.bundle.assert_clean();
        }
    }
}

/// At least this version.
pub fn kernel_is(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).filter_map(|p| p.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(major), Some(minor))
}

/// The mount table of this process, which no test may change.
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Fails with the lines that are new. (Those of others may go, with the directories that they lie on.)
pub fn assert_mounts(before: &str) {
    let after = mounts();
    let new: Vec<&str> = after.lines().filter(|l| !before.lines().any(|b| b == *l)).collect();
    assert!(new.is_empty(), "new: {new:?}");
}

pub fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
