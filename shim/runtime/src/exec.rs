//! The caller's part of adding a process to a container.

use crate::cgroup::Cgroup;
use crate::child::exec::{self, Exec};
use crate::child::message::{Order, Report, await_report, order, order_grouped};
use crate::child::{Launch, scheduling};
use crate::container::{Child, Container};
use crate::create::{check_labels, check_stdio, hand_out, notify};
use crate::error::{Context, Error, Result};
use crate::hooks::set_oom_score;
use crate::namespaces::clone_in_pid_namespace;
use crate::options::{ExecOptions, OomScore};
use crate::spec::Process;
use crate::sys::process::{self, Clone};
use crate::sys::socket::{self, Channel};
use crate::sys::{errno, file};
use std::os::fd::{AsFd, OwnedFd};

/// Kills and reaps the process unless all went well.
struct Undo(Option<OwnedFd>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            // The error that led here is what the caller hears of.
            let _ = process::pidfd_signal(pidfd, libc::SIGKILL);
            let _ = process::reap(pidfd);
        }
    }
}

pub fn exec(container: &mut Container, mut options: ExecOptions<'_>) -> Result<Child> {
    let process = Process::parse(options.process)?;
    check_stdio(&process, &options.stdio)?;
    scheduling::check_rlimits(&process.rlimits)?;
    check_labels(&process.apparmor_profile, &process.selinux_label)?;
    container.blueprint()?;
    let (capabilities, unknown) = container.capabilities(&process);
    let mut warnings: Vec<String> =
        unknown.into_iter().map(|n| format!("capability {n} is unknown and left out")).collect();
    let keyring = (!options.no_new_keyring).then(|| format!("_ses.{}", container.id()));
    let pid_of_init = container.pid();
    let blueprint = container.blueprint.as_ref().ok_or(Error::Finished)?;
    let init = container.pidfd().ok_or(Error::Finished)?;
    let launch = Launch {
        process: &process,
        capabilities,
        seccomp: blueprint.filter.as_ref(),
        no_new_privileges: process.no_new_privileges
            || process.capabilities.is_none() && blueprint.no_new_privileges,
        apparmor: or(&process.apparmor_profile, &blueprint.apparmor),
        selinux: or(&process.selinux_label, &blueprint.selinux),
        keyring,
    };
    let cgroup = &container.state.cgroup;
    let pid_namespace = blueprint.own_pid_namespace.then_some(init);
    let (channel, theirs) = socket::pair().op("socketpair")?;
    let Clone::Parent { pid, pidfd } = clone_into(cgroup, pid_namespace, pid_of_init)? else {
        drop(channel);
        exec::run(Exec {
            init,
            namespaces: blueprint.namespaces,
            stdio: &options.stdio,
            launch,
            channel: &theirs,
        });
    };
    drop(theirs);
    let mut undo = Undo(Some(pidfd));
    container.state.resctrl.iter().try_for_each(|group| group.join(pid))?;
    // While the child is still root, as at creation.
    let limits = if process.rlimits.is_empty() { &blueprint.rlimits } else { &process.rlimits };
    scheduling::set_rlimits(pid, limits)?;
    order_grouped(&channel, &cgroup.entries()?)?;
    if let Some(score) = process.oom_score_adj {
        warnings.extend(set_oom_score(pid, score, options.oom_score == OomScore::Clamp)?);
    }
    let master = follow(container, &channel, true)?;
    order(&channel, Order::Start)?;
    follow(container, &channel, false)?;
    let terminal = hand_out(master, &mut options.stdio)?;
    let pidfd = undo.0.take().ok_or(Error::Finished)?;
    Ok(Child { pid, pidfd, terminal, warnings })
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

/// The new process, on v2 already in the container's group.
fn clone_into(
    cgroup: &Cgroup,
    pid_namespace: Option<std::os::fd::BorrowedFd<'_>>,
    init: u32,
) -> Result<Clone> {
    let Some(target) = cgroup.clone_target()? else {
        // SAFETY: the crate's contract: the caller is single-threaded.
        return unsafe { clone_in_pid_namespace(pid_namespace, 0, None) };
    };
    // SAFETY: as above.
    match unsafe { clone_in_pid_namespace(pid_namespace, 0, Some(target.as_fd())) } {
        // The container has made groups of its own below; processes live only in the lowest. Init's is as good as any.
        Err(Error::Sys { source, .. }) if matches!(errno(&source), libc::EBUSY | libc::EOPNOTSUPP) => {
            let path = format!("/proc/{init}/cgroup");
            let text = file::open(&path, libc::O_RDONLY, 0)
                .and_then(|fd| file::read_all(fd, 1 << 16))
                .at("read", &path)?;
            let text = String::from_utf8_lossy(&text);
            let own = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
            let root = crate::cgroup::hierarchies()?.v2.clone().unwrap_or_default();
            let path = root.join(own.trim_start_matches('/'));
            let target = file::open(&path, libc::O_RDONLY | libc::O_DIRECTORY, 0).at("open cgroup", &path)?;
            // SAFETY: as above.
            unsafe { clone_in_pid_namespace(pid_namespace, 0, Some(target.as_fd())) }
        }
        cloned => cloned,
    }
}

/// Listens until the process is ready, or until it has become its program.
fn follow(container: &Container, channel: &Channel, until_ready: bool) -> Result<Option<OwnedFd>> {
    loop {
        match await_report(channel)? {
            Report::Ready(master) if until_ready => return Ok(master),
            Report::Gone if until_ready => {
                return Err(Error::State("the process died while it was being set up".into()));
            }
            Report::Gone => return Ok(None),
            Report::Failed(error) => return Err(error),
            Report::Notify(fd) => {
                let filter = container.blueprint.as_ref().and_then(|b| b.filter.as_ref());
                notify(filter, &container.oci_state("running"), &fd, channel)?;
            }
            _ => return Err(Error::State("unexpected message from child".into())),
        }
    }
}
