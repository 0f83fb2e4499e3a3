//! The caller's part of making a container.
//!
//! The child is cloned as early as possible and builds its file system while the caller makes the control groups. What
//! has been made is taken away again in the reverse order if anything fails.

use crate::caps::Sets;
use crate::cgroup::{self, Cgroup, Properties, Scope};
use crate::child::init::{self, Init};
use crate::child::message::{Order, Report, await_report, order, order_grouped};
use crate::child::{Launch, scheduling};
use crate::container::{Blueprint, Container};
use crate::error::{Context, Error, Result};
use crate::hooks::{self, OciState};
use crate::namespaces::Namespaces;
use crate::options::{CreateOptions, OomScore, Stdio};
use crate::resctrl;
use crate::rootfs;
use crate::seccomp::Filter;
use crate::spec::{MAX_CONFIG, NamespaceKind, Process, Spec};
use crate::state::{self, State};
use crate::sys::process::{self, Clone};
use crate::sys::socket::{self, Channel};
use crate::sys::{errno, file};
use crate::user_namespace;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What must go if creation fails.
#[derive(Default)]
struct Undo {
    state_dir: Option<PathBuf>,
    cgroup: Option<Cgroup>,
    scope: Option<Scope>,
    process: Option<OwnedFd>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The first error is what the caller hears of; here all is tried, and what fails was told by that error.
        if let Some(pidfd) = &self.process {
            let _ = process::pidfd_signal(pidfd, libc::SIGKILL);
            let _ = process::reap(pidfd);
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill_and_wait();
            let _ = self.scope.as_ref().map(Scope::stop);
            let _ = cgroup.remove();
        }
        if let Some(dir) = &self.state_dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

fn read_config(options: &CreateOptions<'_>) -> Result<Spec> {
    state::check_id(options.id)?;
    if !options.bundle.is_absolute() {
        return Err(Error::Spec(format!("bundle {} is not an absolute path", options.bundle.display())));
    }
    match options.spec {
        Some(json) => Spec::parse(json),
        None => {
            let path = options.bundle.join("config.json");
            let data = file::open(&path, libc::O_RDONLY, 0)
                .and_then(|fd| file::read_all(fd, MAX_CONFIG))
                .at("read", &path)?;
            Spec::parse(&data)
        }
    }
}

/// Everything that can be said to be wrong without making anything.
fn check(spec: &Spec, process: &Process) -> Result<()> {
    for mount in &spec.mounts {
        rootfs::Options::parse(mount)?;
    }
    cgroup::check_device_rules(&spec.linux.resources.devices)?;
    scheduling::check_rlimits(&process.rlimits)?;
    if !spec.linux.net_devices.is_empty() {
        return Err(Error::Unsupported(
            "netDevices are not supported by the embedded runtime; use runc".into(),
        ));
    }
    check_labels(&process.apparmor_profile, &process.selinux_label)?;
    if !spec.linux.mount_label.is_empty() && !selinux_enabled() {
        return Err(Error::Unsupported("a mountLabel is configured, but SELinux is not enabled here".into()));
    }
    Ok(())
}

fn selinux_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels need the kernel's security module; running without the confinement that was asked for is no choice.
pub(crate) fn check_labels(apparmor: &str, selinux: &str) -> Result<()> {
    if !apparmor.is_empty() {
        let enabled =
            std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.starts_with(b"Y"));
        if !enabled {
            return Err(Error::Unsupported(
                "apparmor is not enabled on this host, but a profile is configured".into(),
            ));
        }
    }
    if !selinux.is_empty() && !selinux_enabled() {
        return Err(Error::Unsupported(
            "selinux label is specified in config, but selinux is disabled or not supported".into(),
        ));
    }
    Ok(())
}

/// A process that asks for a terminal must get one, and the other way round.
pub(crate) fn check_stdio(process: &Process, stdio: &Stdio) -> Result<()> {
    let offered = matches!(stdio, Stdio::Terminal | Stdio::ConsoleSocket(_));
    match (process.terminal, offered) {
        (true, false) => Err(Error::Spec("the process asks for a terminal, but none is provided".into())),
        (false, true) => {
            Err(Error::Spec("a terminal is provided, but the process does not ask for one".into()))
        }
        _ => Ok(()),
    }
}

fn root_directory(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let configured = spec.root.as_ref().map_or("rootfs", |r| r.path.as_str());
    let path = bundle.join(configured);
    let fd = file::open(&path, libc::O_PATH | libc::O_NOFOLLOW, 0).at("open rootfs", &path)?;
    if file::fstat(&fd).at("stat rootfs", &path)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(Error::Spec(format!("rootfs {} is not a directory (or is a symlink)", path.display())));
    }
    Ok(path)
}

fn state_directory(root: &Path, id: &str) -> Result<PathBuf> {
    if let Err(e) = file::mkdir(root, 0o700)
        && errno(&e) != libc::EEXIST
    {
        std::fs::create_dir_all(root).at("create", root)?;
    }
    let dir = root.join(id);
    match file::mkdir(&dir, 0o711) {
        Err(e) if errno(&e) == libc::EEXIST => Err(Error::AlreadyExists(id.to_string())),
        other => other.at("create", &dir).map(|()| dir),
    }
}

pub fn create(mut options: CreateOptions<'_>) -> Result<Container> {
    let mut spec = read_config(&options)?;
    let Some(process) = spec.process.take() else { return Err(Error::Spec("process is missing".into())) };
    check(&spec, &process)?;
    check_stdio(&process, &options.stdio)?;
    let filter = spec.linux.seccomp.as_ref().map(Filter::compile).transpose()?.flatten();
    let (capabilities, unknown) = Sets::of(process.capabilities.as_ref());
    let mut warnings: Vec<String> =
        unknown.into_iter().map(|n| format!("capability {n} is unknown and left out")).collect();
    let rootfs = root_directory(&spec, options.bundle)?;
    let namespaces = Namespaces::plan(&spec.linux)?;
    let Groups { cgroup, scope, properties, resctrl } = Groups::plan(&spec, &options)?;
    let sources = rootfs::open_sources(&spec, options.bundle, namespaces.joined_user())?;
    let mut undo = Undo::default();
    undo.state_dir = Some(state_directory(options.root, options.id)?);
    // Before the groups are among what would be undone: undoing kills what is in them.
    cgroup.check_unused()?;
    // systemd makes a scope only for processes that are there already.
    let early = cgroup.unified() && scope.is_none();
    let target = if early {
        undo.cgroup = Some(cgroup.clone());
        cgroup.create()?;
        cgroup.clone_target()?
    } else {
        None
    };
    let (channel, theirs) = socket::pair().op("socketpair")?;
    // SAFETY: the crate's contract: the caller is single-threaded.
    let cloned = unsafe { namespaces.clone(target.as_ref().map(|fd| fd.as_fd())) }?;
    let Clone::Parent { pid, pidfd } = cloned else {
        drop(channel);
        std::mem::forget(undo);
        let launch = Launch {
            process: &process,
            capabilities,
            seccomp: filter.as_ref(),
            no_new_privileges: process.no_new_privileges,
            apparmor: &process.apparmor_profile,
            selinux: &process.selinux_label,
            keyring: (!options.no_new_keyring).then(|| format!("_ses.{}", options.id)),
        };
        let rootfs = rootfs::Plan {
            spec: &spec,
            bundle: options.bundle,
            rootfs: &rootfs,
            cgroup: &cgroup,
            sources,
            user_namespace: spec.linux.namespace(NamespaceKind::User).is_some(),
        };
        init::run(Init {
            spec: &spec,
            id: options.id,
            namespaces: &namespaces,
            rootfs,
            stdio: &options.stdio,
            no_pivot_root: options.no_pivot_root,
            launch,
            channel: &theirs,
        });
    };
    drop(theirs);
    drop(sources);
    undo.process = Some(pidfd);
    let pid = adopt(&spec, &namespaces, &channel, &mut undo, pid)?;
    if !early {
        make_groups(&cgroup, scope.as_ref().map(|scope| (scope, properties)), pid, &spec, &mut undo)?;
    }
    cgroup.set(&spec.linux.resources, true)?;
    resctrl.iter().try_for_each(|group| group.join(pid))?;
    // While the child is still root: another user's limits need CAP_SYS_RESOURCE, which a host may lack.
    scheduling::set_rlimits(pid, &process.rlimits)?;
    order_grouped(&channel, &cgroup.entries()?)?;
    if let Some(score) = process.oom_score_adj {
        warnings.extend(hooks::set_oom_score(pid, score, options.oom_score == OomScore::Clamp)?);
    }
    let master = wait_until_ready(&spec, &options, filter.as_ref(), &channel, pid)?;
    let terminal = hand_out(master, &mut options.stdio)?;
    let state = State {
        version: State::VERSION,
        oci_version: spec.oci_version.clone(),
        id: options.id.to_string(),
        bundle: options.bundle.to_path_buf(),
        pid,
        start_time: state::start_time(pid).unwrap_or(0),
        cgroup,
        scope,
        resctrl,
        annotations: std::mem::take(&mut spec.annotations),
        poststop: std::mem::take(&mut spec.hooks.poststop),
    };
    let dir = undo.state_dir.clone().unwrap_or_default();
    state.save(&dir)?;
    undo.state_dir = None;
    undo.cgroup = None;
    undo.scope = None;
    let pidfd = undo.process.take();
    let blueprint = Blueprint::new(&spec, process, filter);
    Ok(Container::created(state, dir, pidfd, channel, terminal, warnings, blueprint))
}

/// Where the container's processes will be. Nothing of it is made yet, but resctrl's group, which somebody else keeps.
struct Groups {
    cgroup: Cgroup,
    scope: Option<Scope>,
    /// What annotations say of the scope.
    properties: Properties,
    resctrl: Option<resctrl::Group>,
}

impl Groups {
    fn plan(spec: &Spec, options: &CreateOptions<'_>) -> Result<Groups> {
        let path = &spec.linux.cgroups_path;
        let scope = options.systemd_cgroup.then(|| Scope::plan(path, options.id)).transpose()?;
        let cgroup = Cgroup::plan(path, options.id, scope.as_ref())?;
        let properties = match &scope {
            Some(_) => Properties::of(&spec.annotations)?,
            None => Properties::default(),
        };
        let rdt = spec.linux.intel_rdt.as_ref();
        let resctrl = rdt.map(|rdt| resctrl::Group::find(options.resctrl, rdt)).transpose()?;
        Ok(Groups { cgroup, scope, properties, resctrl })
    }
}

/// Makes the groups for a process that is there.
fn make_groups(
    cgroup: &Cgroup,
    scope: Option<(&Scope, Properties)>,
    pid: u32,
    spec: &Spec,
    undo: &mut Undo,
) -> Result<()> {
    if let Some((scope, properties)) = scope {
        // Before that the unit may be another's; if it fails, what there is of it ends with the process.
        scope.start(pid, &spec.linux.resources, properties, cgroup.unified())?;
        undo.scope = Some(scope.clone());
    }
    undo.cgroup = Some(cgroup.clone());
    if undo.scope.is_some() && cgroup.unified() && !cgroup.pids()?.contains(&pid) {
        let path = cgroup.directories().into_iter().next().map(|(_, path)| path).unwrap_or_default();
        return Err(Error::State(format!(
            "systemd cgroup driver: systemd has not put process {pid} into {}; it and this process may see different \
             trees",
            path.display()
        )));
    }
    cgroup.create()
}

/// Gets hold of the real first process, and writes its id maps. Gives its number.
fn adopt(spec: &Spec, namespaces: &Namespaces, channel: &Channel, undo: &mut Undo, pid: u32) -> Result<u32> {
    let mut pid = pid;
    if namespaces.staged() {
        match await_report(channel)? {
            Report::Process(real) => {
                if let Some(stage) = undo.process.replace(real) {
                    process::reap(stage).op("reap intermediate process")?;
                }
                pid = undo.process.as_ref().map_or(Ok(0), number)?;
            }
            Report::Failed(error) => return Err(error),
            _ => return Err(Error::State("the container's intermediate process died".into())),
        }
    }
    if namespaces.makes_user() {
        user_namespace::write_maps(pid, &spec.linux.uid_mappings, &spec.linux.gid_mappings)?;
    }
    if namespaces.makes_user() || namespaces.staged() {
        order(channel, Order::Mapped)?;
    }
    Ok(pid)
}

/// The number of the process that a pidfd stands for.
fn number(pidfd: &OwnedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| Error::State("the container's process is not in this pid namespace".into()))
}

fn wait_until_ready(
    spec: &Spec,
    options: &CreateOptions<'_>,
    filter: Option<&Filter>,
    channel: &Channel,
    pid: u32,
) -> Result<Option<OwnedFd>> {
    let state = OciState {
        oci_version: &spec.oci_version,
        id: options.id,
        status: "creating",
        pid,
        bundle: options.bundle,
        annotations: &spec.annotations,
    };
    loop {
        match await_report(channel)? {
            Report::Ready(master) => return Ok(master),
            Report::Hooks => {
                hooks::run(&spec.hooks.prestart, &state)?;
                hooks::run(&spec.hooks.create_runtime, &state)?;
                order(channel, Order::Hooked)?;
            }
            Report::Notify(fd) => notify(filter, &state, &fd, channel)?,
            Report::Failed(error) => return Err(error),
            Report::Gone => {
                return Err(Error::State(
                    "the container's first process died while it was being set up".into(),
                ));
            }
            Report::Process(_) => return Err(Error::State("unexpected message from child".into())),
        }
    }
}

/// Passes the notification descriptor on, then lets the child go on.
pub(crate) fn notify(
    filter: Option<&Filter>,
    state: &OciState<'_>,
    fd: &OwnedFd,
    channel: &Channel,
) -> Result<()> {
    if let Some((path, metadata)) = filter.and_then(|f| f.listener.as_ref()) {
        hooks::notify_seccomp_agent(path, metadata, state, fd.as_raw_fd())?;
    }
    order(channel, Order::Notified)
}

/// Gives the terminal's master to whom it belongs: the console socket, or the caller.
pub(crate) fn hand_out(master: Option<OwnedFd>, stdio: &mut Stdio) -> Result<Option<OwnedFd>> {
    match (master, stdio) {
        (Some(master), Stdio::ConsoleSocket(socket)) => {
            hooks::send_console(socket, master.as_raw_fd()).map(|()| None)
        }
        (master, _) => Ok(master),
    }
}
