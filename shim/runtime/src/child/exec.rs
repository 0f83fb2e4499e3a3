//! A process that is added to a running container.

use super::message::{Order, await_order, join_groups, report};
use super::terminal::Terminal;
use super::{
    Launch, become_program, detach, finish, join_keyring, place_stdio, scheduling, settle, stdio_fds,
};
use crate::error::{Context, Result};
use crate::options::Stdio;
use crate::sys::socket::Channel;
use crate::sys::{file, process};
use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd};

/// All that the child needs; prepared by the caller.
pub struct Exec<'a> {
    /// Of the container's init, whose namespaces are joined.
    pub init: BorrowedFd<'a>,
    /// `CLONE_NEW*` of those; the pid namespace is the caller's part.
    pub namespaces: i32,
    pub stdio: &'a Stdio,
    pub launch: Launch<'a>,
    pub channel: &'a Channel,
}

/// The child's side of the clone.
pub fn run(exec: Exec<'_>) -> ! {
    finish(exec.channel, main(&exec))
}

fn main(exec: &Exec<'_>) -> Result<Infallible> {
    let mut keep = vec![exec.channel.raw(), exec.init.as_raw_fd()];
    keep.extend(stdio_fds(exec.stdio));
    let proc = detach(&mut keep)?;
    place_stdio(exec.stdio)?;
    let process = exec.launch.process;
    let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
    scheduling::set_affinity(&affinity.initial)?;
    // A cgroup namespace cannot be joined from outside the group as seen from the container; first the group, then it.
    join_groups(exec.channel)?;
    process::setns(exec.init, exec.namespaces).op("join the container's namespaces")?;
    if exec.namespaces & libc::CLONE_NEWUSER != 0 {
        process::set_gid(0).op("become root of the user namespace")?;
        process::set_uid(0).op("become root of the user namespace")?;
        process::prctl(libc::PR_SET_DUMPABLE, 0, 0).op("become undumpable")?;
    }
    process::setsid().op("setsid")?;
    if let Some(name) = &exec.launch.keyring {
        join_keyring(name)?;
    }
    scheduling::set_affinity(&affinity.finally)?;
    file::umask(0);
    let terminal = if process.terminal {
        Some(Terminal::open(process.console_size)?.take(process.user.uid)?)
    } else {
        None
    };
    let program = settle(&exec.launch, &proc, exec.channel)?;
    drop(proc);
    match terminal {
        Some(master) => report(exec.channel, b'R', &[master.as_raw_fd()])?,
        None => report(exec.channel, b'R', &[])?,
    }
    await_order(exec.channel, Order::Start)?;
    Err(become_program(&exec.launch, program, exec.channel))
}
