//! What runs in the new process, from the clone until it becomes the container's program.
//!
//! It is a fork of the caller, so it starts with the caller's memory, descriptors and executable. What keeps the
//! container from reaching back through it (CVE-2019-5736, CVE-2024-21626 and their like):
//! - the first thing it does is to become undumpable, so that its `/proc/<pid>/exe`, `fd` and `mem` are closed to
//!   everybody who lacks `CAP_SYS_PTRACE` in the host's user namespace, and to close every descriptor that it does not
//!   need; `execve` then closes the rest (all are close-on-exec, and it is said once more just before);
//! - it refuses to `execve` the caller's own executable, to which an image could point by a symlink to, or a script for
//!   `/proc/self/exe`. Should a running container win the race between that look and `execve`, it finds the file busy
//!   for writing as long as any shim runs; a caller that wants to be safe even after that runs from a read-only mount;
//! - the working directory is checked to lie below the container's root;
//! - files of `/proc` are opened through a handle of the host's own procfs that was taken before the container's file
//!   system was entered, never by a name that the image could have covered.

pub mod exec;
pub mod init;
pub mod message;
pub mod program;
pub mod scheduling;
pub mod terminal;

use crate::caps::Sets;
use crate::error::{Context, Error, Result};
use crate::options::Stdio;
use crate::seccomp::Filter;
use crate::spec::Process;
use crate::sys::socket::Channel;
use crate::sys::{errno, file, process};
use message::{Order, await_order, report};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The program and how it is run: common to init and to processes that are added.
pub struct Launch<'a> {
    pub process: &'a Process,
    pub capabilities: Sets,
    pub seccomp: Option<&'a Filter>,
    pub no_new_privileges: bool,
    pub apparmor: &'a str,
    pub selinux: &'a str,
    /// Name of the session keyring to be in.
    pub keyring: Option<String>,
}

/// The first steps: cut off from the caller but for `keep`. Gives the handle of the host's procfs.
fn detach(keep: &mut Vec<RawFd>) -> Result<OwnedFd> {
    process::prctl(libc::PR_SET_DUMPABLE, 0, 0).op("become undumpable")?;
    process::reset_signals();
    let proc = file::open("/proc", libc::O_PATH | libc::O_DIRECTORY, 0).at("open", "/proc")?;
    if file::fs_magic(&proc).at("stat", "/proc")? != PROC_SUPER_MAGIC {
        return Err(Error::Unsupported("/proc of the host is not a proc file system".into()));
    }
    keep.push(proc.as_raw_fd());
    file::close_all_but(keep).op("close descriptors")?;
    Ok(proc)
}

/// Puts the standard streams in place. A terminal takes theirs later; until then they are nobody's.
fn place_stdio(stdio: &Stdio) -> Result<()> {
    let null = file::open("/dev/null", libc::O_RDWR, 0).at("open", "/dev/null")?;
    let (stdin, stdout, stderr) = match stdio {
        Stdio::Fds { stdin, stdout, stderr } => (stdin.as_ref(), stdout.as_ref(), stderr.as_ref()),
        Stdio::Null | Stdio::Terminal | Stdio::ConsoleSocket(_) => (None, None, None),
    };
    // Copies first: a stream may come with a number that another is to have.
    let copy = |fd: Option<&OwnedFd>| file::dup_from(fd.unwrap_or(&null), 3);
    let copies = [copy(stdin), copy(stdout), copy(stderr)];
    for (target, copy) in copies.into_iter().enumerate() {
        file::dup_onto(copy.op("set up stdio")?, target as RawFd).op("set up stdio")?;
    }
    Ok(())
}

/// Descriptors of the streams, which must survive until `place_stdio`.
fn stdio_fds(stdio: &Stdio) -> impl Iterator<Item = RawFd> + '_ {
    let list: [Option<&OwnedFd>; 3] = match stdio {
        Stdio::Fds { stdin, stdout, stderr } => [stdin.as_ref(), stdout.as_ref(), stderr.as_ref()],
        _ => [None, None, None],
    };
    list.into_iter().flatten().map(|fd| fd.as_raw_fd())
}

/// Joins the container's session keyring, made if need be, and lets processes that come later find it.
fn join_keyring(name: &str) -> Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    const POSSESSOR_ALL_USER_VIEW_READ_SEARCH: libc::c_uint = 0x3f1b_0000;
    match process::new_session_keyring(name) {
        Ok(id) => {
            // SAFETY: takes no pointers. Without the permission only later processes would miss the keyring.
            unsafe {
                libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, id, POSSESSOR_ALL_USER_VIEW_READ_SEARCH)
            };
            Ok(())
        }
        Err(e) if errno(&e) == libc::ENOSYS => Ok(()),
        Err(e) => Err(e).op("join session keyring"),
    }
}

fn write_proc(proc: &OwnedFd, name: &str, value: &str) -> Result<()> {
    file::write_file_at(proc, name, value.as_bytes()).at("write", PathBuf::from("/proc").join(name))
}

/// Takes on the identity of the process. Afterwards this is an ordinary process of the container.
fn settle(launch: &Launch<'_>, proc: &OwnedFd, channel: &Channel) -> Result<(PathBuf, Vec<OsString>)> {
    let process = launch.process;
    if let Some(scheduler) = &process.scheduler {
        scheduling::set_scheduler(scheduler)?;
    }
    if let Some(priority) = &process.io_priority {
        scheduling::set_io_priority(priority)?;
    }
    file::umask(process.user.umask.unwrap_or(0o022));
    if launch.no_new_privileges {
        process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).op("set no_new_privs")?;
    }
    label(launch, proc)?;
    program::own_stdio(process.user.uid)?;
    // Without no_new_privs the filter takes rights that are about to go.
    if !launch.no_new_privileges {
        load_filter(launch, channel)?;
    }
    launch.capabilities.before_identity()?;
    // The directory may be open to root alone, or to the user alone.
    let entered = program::enter_cwd(&process.cwd);
    set_identity(process)?;
    match entered {
        Err(Error::Path { source, .. })
            if errno(&source) == libc::EACCES || errno(&source) == libc::EPERM =>
        {
            program::enter_cwd(&process.cwd)?;
        }
        other => other?,
    }
    launch.capabilities.after_identity()?;
    let program = program::find(&process.args[0], &process.env)?;
    program::refuse_own_executable(proc, &program)?;
    Ok((program, program::with_home(&process.env, process.user.uid)))
}

fn label(launch: &Launch<'_>, proc: &OwnedFd) -> Result<()> {
    if !launch.apparmor.is_empty() {
        let value = format!("exec {}", launch.apparmor);
        if write_proc(proc, "self/attr/apparmor/exec", &value).is_err() {
            write_proc(proc, "self/attr/exec", &value)?;
        }
    }
    if !launch.selinux.is_empty() {
        write_proc(proc, "self/attr/exec", launch.selinux)?;
    }
    Ok(())
}

fn set_identity(process: &Process) -> Result<()> {
    let user = &process.user;
    match process::set_groups(&user.additional_gids) {
        // A user namespace that forbids it, joined by path; nothing is lost when nothing is asked for.
        Err(e) if errno(&e) == libc::EPERM && user.additional_gids.is_empty() => {}
        other => other.op("set additional groups")?,
    }
    process::set_gid(user.gid).at("set group", user.gid.to_string())?;
    process::set_uid(user.uid).at("set user", user.uid.to_string())
}

fn load_filter(launch: &Launch<'_>, channel: &Channel) -> Result<()> {
    let Some(filter) = launch.seccomp else { return Ok(()) };
    if let Some(listener) = filter.load()? {
        report(channel, b'N', &[listener.as_raw_fd()])?;
        await_order(channel, Order::Notified)?;
    }
    Ok(())
}

/// The last step; returns only with the reason why there is no program.
fn become_program(launch: &Launch<'_>, program: (PathBuf, Vec<OsString>), channel: &Channel) -> Error {
    if let Err(error) = file::cloexec_from(3).op("close descriptors") {
        return error;
    }
    if launch.no_new_privileges
        && let Err(error) = load_filter(launch, channel)
    {
        return error;
    }
    program::exec(&program.0, &launch.process.args, program.1)
}

/// Runs a child to its end.
fn finish(channel: &Channel, result: Result<std::convert::Infallible>) -> ! {
    let Err(error) = result;
    message::report_failure(channel, &error);
    process::exit_now(255)
}
