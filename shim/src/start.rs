//! The `start` subcommand: finds or makes the shim of a container's group and tells its address.
//!
//! The new shim is a fork of this process, which has one thread and has done nothing but read its input; there is no
//! second `exec`. The parent answers and leaves at once; connections wait in the socket's backlog until the child serves.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::args::Args;
use crate::bootstrap::Request;
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::log;
use crate::serve;
use crate::socket::{self, Bound};
use crate::spec::Spec;

/// A request is a handful of strings and options.
const INPUT_LIMIT: u64 = 10 << 20;

pub fn run(args: &Args) -> Result<()> {
    // Whatever leaked into us must not reach containers.
    // SAFETY: nothing of ours is open yet but the standard streams.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let mut input = Vec::new();
    std::io::stdin().lock().take(INPUT_LIMIT).read_to_end(&mut input).op("read stdin")?;
    let request = Request::read(args, &input)?;
    drop(input);
    if request.id.is_empty() {
        return Err(Error::invalid("shim id cannot be empty"));
    }
    let group = match Spec::read(Path::new("")) {
        Ok(spec) => spec.group().unwrap_or(&request.id).to_owned(),
        // A sandbox may have no specification of its own.
        Err(Error::Path { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            request.id.clone()
        }
        Err(error) => return Err(error),
    };
    let path = socket::path(&request.socket_dir, &request.address, &request.namespace, &group);
    let answer = request.answer(&path)?;
    match socket::bind(&path)? {
        Bound::Existing => tell(&path, None, &answer),
        Bound::New(listener) => {
            if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
                sched_core()?;
            }
            let score = oom_score();
            let Some(child) = fork()? else { serve(request, &path, listener, score) };
            drop(listener);
            let told = adopt(&request, child).and_then(|()| tell(&path, Some(child), &answer));
            if told.is_err() {
                // Nobody will ever connect.
                if let Some(pid) = Pid::from_raw(child as i32) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                let _ = fs::remove_file(&path);
            }
            told
        }
    }
}

/// Puts the shim where the options want it.
fn adopt(request: &Request, child: u32) -> Result<()> {
    let group = &request.options.shim_cgroup;
    if group.is_empty() {
        return Ok(());
    }
    Cgroup::at(group)
        .join(child)
        .map_err(|error| Error::unknown(format!("failed to join cgroup {group}: {error}")))
}

/// Leaves the files that tools look for in the bundle, and answers the daemon.
fn tell(path: &Path, child: Option<u32>, answer: &[u8]) -> Result<()> {
    fs::write("address", format!("unix://{}", path.display())).at("write", "address")?;
    if let Some(child) = child {
        fs::write("shim.pid", child.to_string()).at("write", "shim.pid")?;
    }
    let mut out = std::io::stdout().lock();
    out.write_all(answer).and_then(|()| out.flush()).op("write stdout")
}

/// `None` in the child.
fn fork() -> Result<Option<u32>> {
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid.unsigned_abs())),
        _ => Err(std::io::Error::last_os_error()).op("fork"),
    }
}

fn serve(request: Request, path: &Path, listener: OwnedFd, score: Option<i32>) -> ! {
    let result = detach(score).and_then(|()| serve::run(request, path, listener));
    // After this nobody is told anything; the socket must not outlive the shim.
    let _ = fs::remove_file(path);
    match result {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            log::error!("shim ends: {error}");
            std::process::exit(1)
        }
    }
}

/// Cuts every tie to the daemon. The standard streams come first: the daemon reads ours to their end.
fn detach(score: Option<i32>) -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).op("replace stdin")?;
    rustix::stdio::dup2_stdout(&null).op("replace stdout")?;
    // Both ways, so that the daemon's end may go and come; a bundle without the fifo has no log.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = rustix::fs::open("log", flags, Mode::empty());
    rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&null)).op("replace stderr")?;
    rustix::process::setsid().op("make session")?;
    rustix::process::set_child_subreaper(Pid::from_raw(1)).op("become subreaper")?;
    if let Some(score) = score
        && let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        log::warning!("set OOM score of shim to {score}: {error}");
    }
    Ok(())
}

/// One above the daemon's, so that the kernel takes the shim first; `None` if that is what it is.
fn oom_score() -> Option<i32> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    let wanted = (read(&format!("/proc/{parent}/oom_score_adj"))? + 1).min(1000);
    (read("/proc/self/oom_score_adj") != Some(wanted)).then_some(wanted)
}

/// Gives the shim a core scheduling cookie of its own, which its containers inherit.
fn sched_core() -> Result<()> {
    const PIDTYPE_PGID: libc::c_ulong = 2;
    // SAFETY: plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, PIDTYPE_PGID, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).op("enable core scheduling") }
}
