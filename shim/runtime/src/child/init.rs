//! The first process of a container.

use super::message::{Order, await_order, join_groups, report};
use super::terminal::Terminal;
use super::{
    Launch, become_program, detach, finish, join_keyring, place_stdio, settle, stdio_fds, write_proc,
};
use crate::error::{Context, Error, Result};
use crate::hooks::{self, OciState};
use crate::namespaces::Namespaces;
use crate::options::Stdio;
use crate::rootfs;
use crate::spec::{NamespaceKind, Spec};
use crate::sys::process::{self, Clone};
use crate::sys::socket::Channel;
use crate::sys::{check, file};
use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// All that the child needs; prepared by the caller.
pub struct Init<'a> {
    pub spec: &'a Spec,
    pub id: &'a str,
    pub namespaces: &'a Namespaces,
    pub rootfs: rootfs::Plan<'a>,
    pub stdio: &'a Stdio,
    pub no_pivot_root: bool,
    pub launch: Launch<'a>,
    pub channel: &'a Channel,
}

/// The child's side of the clone.
pub fn run(mut init: Init<'_>) -> ! {
    let channel = init.channel;
    finish(channel, start(&mut init))
}

fn start(init: &mut Init<'_>) -> Result<Infallible> {
    let mut keep = vec![init.channel.raw()];
    keep.extend(stdio_fds(init.stdio));
    keep.extend(init.namespaces.raw_fds());
    keep.extend(init.rootfs.sources.raw_fds());
    let proc = detach(&mut keep)?;
    place_stdio(init.stdio)?;
    init.namespaces.join()?;
    if !init.namespaces.staged() {
        return main(init, proc);
    }
    // SAFETY: this process has one thread: it was made by a clone.
    match unsafe { process::clone3(init.namespaces.made, None, true) }.op("clone3")? {
        Clone::Child => main(init, proc),
        Clone::Parent { pidfd, .. } => {
            report(init.channel, b'P', &[pidfd.as_raw_fd()])?;
            process::exit_now(0)
        }
    }
}

fn main(init: &mut Init<'_>, proc: OwnedFd) -> Result<Infallible> {
    let (spec, channel) = (init.spec, init.channel);
    if init.namespaces.staged() || init.namespaces.makes_user() {
        await_order(channel, Order::Mapped)?;
        // Root of the user namespace from here on: files are made and found with its rights.
        process::set_gid(0).op("become root of the user namespace")?;
        process::set_uid(0).op("become root of the user namespace")?;
        // The kernel let go of it with the change of identity, and of nothing else that matters.
        process::prctl(libc::PR_SET_DUMPABLE, 0, 0).op("become undumpable")?;
    }
    process::setsid().op("setsid")?;
    if let Some(name) = &init.launch.keyring {
        join_keyring(name)?;
    }
    file::umask(0);
    if init.namespaces.make_time {
        // In a user namespace only a dumpable process may open this file of its own.
        let dumpable = libc::c_ulong::from(init.namespaces.makes_user() || init.namespaces.staged());
        process::prctl(libc::PR_SET_DUMPABLE, dumpable, 0).op("set dumpable")?;
        enter_time_namespace(spec, &proc)?;
        process::prctl(libc::PR_SET_DUMPABLE, 0, 0).op("become undumpable")?;
    }
    if spec.linux.makes(NamespaceKind::Network) {
        raise_loopback()?;
    }
    let make_cgroup = init.namespaces.make_cgroup;
    let mut grouped = || {
        join_groups(channel)?;
        if make_cgroup { process::unshare(libc::CLONE_NEWCGROUP).op("make cgroup namespace") } else { Ok(()) }
    };
    let (root, pending) = rootfs::build(&mut init.rootfs, &mut grouped)?;
    if !spec.hooks.prestart.is_empty() || !spec.hooks.create_runtime.is_empty() {
        report(channel, b'H', &[])?;
        await_order(channel, Order::Hooked)?;
    }
    run_hooks(init, &spec.hooks.create_container, "creating")?;
    rootfs::enter(spec, &root, init.rootfs.rootfs, init.no_pivot_root)?;
    drop(root);
    make_cwd(&init.launch.process.cwd)?;
    let terminal = take_terminal(init)?;
    identify(spec, &proc)?;
    rootfs::finish(spec, pending)?;
    if let Some(personality) = &spec.linux.personality {
        super::scheduling::set_personality(personality)?;
    }
    if let Some(policy) = &spec.linux.memory_policy {
        super::scheduling::set_memory_policy(policy)?;
    }
    let program = settle(&init.launch, &proc, channel)?;
    drop(proc);
    match terminal {
        Some(master) => report(channel, b'R', &[master.as_raw_fd()])?,
        None => report(channel, b'R', &[])?,
    }
    await_order(channel, Order::Start)?;
    run_hooks(init, &spec.hooks.start_container, "created")?;
    Err(become_program(&init.launch, program, channel))
}

fn run_hooks(init: &Init<'_>, list: &[crate::spec::Hook], status: &str) -> Result<()> {
    let state = OciState {
        oci_version: &init.spec.oci_version,
        id: init.id,
        status,
        pid: std::process::id(),
        bundle: init.rootfs.bundle,
        annotations: &init.spec.annotations,
    };
    hooks::run(list, &state)
}

/// As root, inside: whatever the path resolves to there is the container's own.
fn make_cwd(cwd: &str) -> Result<()> {
    match file::fstatat(file::cwd(), cwd, 0) {
        Ok(_) => Ok(()),
        Err(_) => {
            let root = rootfs::Root::open(Path::new("/"))?;
            root.ensure(cwd, rootfs::Kind::Dir).map(drop)
        }
    }
}

fn take_terminal(init: &Init<'_>) -> Result<Option<OwnedFd>> {
    if !init.launch.process.terminal {
        return Ok(None);
    }
    let terminal = Terminal::open(init.launch.process.console_size)?;
    terminal.mount_console()?;
    terminal.take(init.launch.process.user.uid).map(Some)
}

/// Names and kernel settings of the namespaces.
fn identify(spec: &Spec, proc: &OwnedFd) -> Result<()> {
    if !spec.hostname.is_empty() {
        process::set_hostname(&spec.hostname).op("set hostname")?;
    }
    if !spec.domainname.is_empty() {
        process::set_domainname(&spec.domainname).op("set domainname")?;
    }
    for (name, value) in &spec.linux.sysctl {
        let path: String = crate::spec::sysctl_dots(name)
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect();
        write_proc(proc, &format!("sys/{path}"), value)?;
    }
    Ok(())
}

/// A new network namespace has a loopback interface that is down.
fn raise_loopback() -> Result<()> {
    // SAFETY: takes no pointers.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into() })
            .op("open socket for loopback")?;
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let result = check(unsafe { libc::ioctl(socket as i32, libc::SIOCSIFFLAGS as _, &request).into() });
    // SAFETY: the descriptor was opened above and is used by nobody else.
    unsafe { libc::close(socket as i32) };
    result.op("bring loopback up").map(drop)
}

/// Offsets can be set only while nobody is inside, so the namespace is made, set, and then entered.
fn enter_time_namespace(spec: &Spec, proc: &OwnedFd) -> Result<()> {
    process::unshare(process::CLONE_NEWTIME).op("make time namespace")?;
    for (clock, offset) in &spec.linux.time_offsets {
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Error::Spec(format!("timeOffsets.{clock}: nanosecs is not below a second")));
        }
        write_proc(proc, "self/timens_offsets", &format!("{clock} {} {}", offset.secs, offset.nanosecs))?;
    }
    let path = "self/ns/time_for_children";
    let fd = file::openat(proc, path, libc::O_RDONLY, 0).at("open", path)?;
    process::setns(&fd, process::CLONE_NEWTIME).op("join time namespace")
}
