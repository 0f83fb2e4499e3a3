//! What a caller says when it creates a container or runs another process in one.

use std::os::fd::OwnedFd;
use std::path::Path;

/// Where a process reads and writes.
#[derive(Debug)]
pub enum Stdio {
    /// All three are `/dev/null`.
    Null,
    /// The three descriptors; one that is absent is `/dev/null`.
    Fds { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd> },
    /// A terminal made inside the container; its master is handed out by [`crate::Container::take_terminal`] or
    /// [`crate::Child::terminal`]. The process must ask for a terminal, and a process that asks must get one.
    Terminal,
    /// Like `Terminal`, but the master is sent over this connected unix socket (`SCM_RIGHTS`), as runc's
    /// `--console-socket` does it.
    ConsoleSocket(OwnedFd),
}

/// What to do when the kernel forbids the wanted `oomScoreAdj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OomScore {
    /// Creation fails.
    #[default]
    Strict,
    /// The nearest permitted value is used, and a warning says so.
    Clamp,
}

/// Parameters of [`crate::Container::create`].
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Name of the container: `[A-Za-z0-9_+.-]{1,1024}`, not `.` or `..`.
    pub id: &'a str,
    /// The bundle: an absolute path of a directory.
    pub bundle: &'a Path,
    /// The configuration as JSON; `None` reads `config.json` of the bundle.
    pub spec: Option<&'a [u8]>,
    /// Directory under which `<id>/state.json` is kept; made when absent (0700).
    pub root: &'a Path,
    pub stdio: Stdio,
    /// Use `MS_MOVE` and `chroot` (for a root file system on the initramfs).
    pub no_pivot_root: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// `cgroupsPath` has systemd's form `slice:prefix:name`, and systemd makes the group.
    pub systemd_cgroup: bool,
    pub oom_score: OomScore,
    /// Where resctrl is mounted, if it is.
    pub resctrl: &'a Path,
}

impl<'a> CreateOptions<'a> {
    /// Options with null IO and defaults for all else.
    pub fn new(id: &'a str, bundle: &'a Path, root: &'a Path) -> Self {
        CreateOptions {
            id,
            bundle,
            spec: None,
            root,
            stdio: Stdio::Null,
            no_pivot_root: false,
            no_new_keyring: false,
            systemd_cgroup: false,
            oom_score: OomScore::Strict,
            resctrl: Path::new(crate::resctrl::MOUNT),
        }
    }
}

/// Parameters of [`crate::Container::exec`].
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// The process as JSON: the OCI `process` object.
    pub process: &'a [u8],
    pub stdio: Stdio,
    pub no_new_keyring: bool,
    pub oom_score: OomScore,
}

impl<'a> ExecOptions<'a> {
    pub fn new(process: &'a [u8]) -> Self {
        ExecOptions { process, stdio: Stdio::Null, no_new_keyring: false, oom_score: OomScore::Strict }
    }
}
