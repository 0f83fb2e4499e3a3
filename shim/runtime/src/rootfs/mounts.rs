//! One mount of the configuration after the other.

use super::{Kind, Options, Pending, Plan, Root, clean, copy_up, groups};
use crate::error::{Context, Error, Result};
use crate::spec::{Mount, NamespaceKind, Spec};
use crate::sys::mount::{self, Attr, FsContext, MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY};
use crate::sys::{errno, file};
use crate::user_namespace;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Files of `/proc` that may be covered: those that tools like lxcfs replace.
const PROC_FILES: [&str; 12] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
    "net/dev",
    "1/stat",
];

/// Detached bind sources by the place of their mount in the configuration.
#[derive(Debug, Default)]
pub struct Sources(Vec<Option<OwnedFd>>);

impl Sources {
    pub fn raw_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.0.iter().flatten().map(|fd| fd.as_raw_fd())
    }

    fn take(&mut self, at: usize) -> Option<OwnedFd> {
        self.0.get_mut(at).and_then(Option::take)
    }
}

fn source_path(mount: &Mount, bundle: &Path) -> PathBuf {
    bundle.join(&mount.source)
}

/// Opens, on the host's side, what the child could not: sources of binds into a user namespace, where the mapped root
/// may not pass the directories above, and sources whose ids are mapped.
pub fn open_sources(spec: &Spec, bundle: &Path, joined: Option<BorrowedFd<'_>>) -> Result<Sources> {
    let own_user = spec.linux.namespace(NamespaceKind::User).is_some();
    let mut sources = Sources::default();
    for mount in &spec.mounts {
        let options = Options::parse(mount)?;
        if !options.bind || !(own_user || options.idmap.is_some()) {
            sources.0.push(None);
            continue;
        }
        let path = source_path(mount, bundle);
        let tree = mount::clone_tree(file::cwd(), &path, options.recursive).at("open mount source", &path)?;
        if let Some(recursive) = options.idmap {
            map_ids(spec, mount, &tree, recursive, joined)?;
        }
        set_attributes(&tree, &options, &path)?;
        // As all that the child finds in its copy of the host's mounts.
        let (kind, recursive) = super::propagation(spec)?;
        if kind != libc::MS_SHARED {
            let attr = Attr { propagation: kind, ..Attr::default() };
            mount::set_attr(&tree, attr, recursive).at("set propagation of", &path)?;
        }
        sources.0.push(Some(tree));
    }
    Ok(sources)
}

fn map_ids(
    spec: &Spec,
    mount: &Mount,
    tree: &OwnedFd,
    recursive: bool,
    joined: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let own;
    let namespace = if !mount.uid_mappings.is_empty() {
        own = user_namespace::with_mappings(&mount.uid_mappings, &mount.gid_mappings)?;
        own.as_raw_fd()
    } else if let Some(joined) = joined {
        joined.as_raw_fd()
    } else if !spec.linux.uid_mappings.is_empty() {
        own = user_namespace::with_mappings(&spec.linux.uid_mappings, &spec.linux.gid_mappings)?;
        own.as_raw_fd()
    } else {
        return Err(Error::Spec(format!(
            "mount {}: idmap without mappings or user namespace",
            mount.destination
        )));
    };
    let attr = Attr { set: MOUNT_ATTR_IDMAP, userns: namespace as u64, ..Attr::default() };
    mount::set_attr(tree, attr, recursive).at("map ids of mount", &mount.source)
}

fn set_attributes(tree: &OwnedFd, options: &Options, path: &Path) -> Result<()> {
    mount::set_attr(tree, options.attr, false).at("set attributes of mount", path)?;
    mount::set_attr(tree, options.recursive_attr, true).at("set attributes of mount", path)
}

pub fn add(plan: &mut Plan<'_>, root: &Root, at: usize, mount: &Mount, pending: &mut Pending) -> Result<()> {
    let options = Options::parse(mount)?;
    if clean(&mount.destination).as_os_str().is_empty() {
        return Err(Error::Unsupported("mounting over the container's / is not supported".into()));
    }
    if options.bind {
        return bind(plan, root, at, mount, &options);
    }
    match mount.fstype.as_str() {
        "" | "none" => Err(Error::Spec(format!("mount {} has neither a type nor bind", mount.destination))),
        "cgroup" => groups::mount(plan, root, mount, &options),
        "cgroup2" => groups::mount_v2(plan, root, mount, &options),
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "ramfs" => {
            fresh(plan, root, mount, &options, pending)
        }
        _ => other(root, mount, &options),
    }
}

fn bind(plan: &mut Plan<'_>, root: &Root, at: usize, mount: &Mount, options: &Options) -> Result<()> {
    let path = source_path(mount, plan.bundle);
    let opened = plan.sources.take(at);
    let prepared = opened.is_some();
    let tree = match opened {
        Some(tree) => tree,
        None => mount::clone_tree(file::cwd(), &path, options.recursive).at("open mount source", &path)?,
    };
    let directory =
        file::fstat(&tree).at("stat mount source", &path)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let target = root.ensure(&mount.destination, if directory { Kind::Dir } else { Kind::File })?;
    check_proc(mount, &target, Some(&tree))?;
    if !prepared {
        set_attributes(&tree, options, &path)?;
    }
    mount::attach(&tree, &target).at("mount", &mount.destination)?;
    set_propagation(&tree, mount, options)
}

/// Nothing may lie inside `/proc` but the known files, and only a proc file system on `/proc` itself.
fn check_proc(mount: &Mount, target: &OwnedFd, tree: Option<&OwnedFd>) -> Result<()> {
    let destination = clean(&mount.destination);
    if destination == Path::new("proc") {
        let magic = tree.map(file::fs_magic).transpose().at("stat mount source", &mount.source)?;
        if magic.is_some_and(|m| m != PROC_SUPER_MAGIC) {
            return Err(Error::Spec(format!(
                "{} cannot be mounted on /proc: it is not of type proc",
                mount.source
            )));
        }
        return Ok(());
    }
    if file::fs_magic(target).at("stat mount target", &mount.destination)? != PROC_SUPER_MAGIC {
        return Ok(());
    }
    match destination.strip_prefix("proc") {
        Ok(inside) if PROC_FILES.iter().any(|f| inside == Path::new(f)) => Ok(()),
        _ => Err(Error::Spec(format!("{} cannot be mounted because it is inside /proc", mount.destination))),
    }
}

fn set_propagation(at: &OwnedFd, mount: &Mount, options: &Options) -> Result<()> {
    for &(propagation, recursive) in &options.propagation {
        let attr = Attr { propagation, ..Attr::default() };
        mount::set_attr(at, attr, recursive).at("set propagation of", &mount.destination)?;
    }
    Ok(())
}

/// A new instance of a kernel file system, configured option by option and attached when complete.
fn fresh(
    plan: &Plan<'_>,
    root: &Root,
    mount: &Mount,
    options: &Options,
    pending: &mut Pending,
) -> Result<()> {
    let destination = &mount.destination;
    let target = match mount.fstype.as_str() {
        "proc" | "sysfs" => root.ensure_plain_dir(destination)?,
        _ => root.ensure(destination, Kind::Dir)?,
    };
    if mount.fstype != "proc" {
        check_proc(mount, &target, None)?;
        if clean(destination) == Path::new("proc") {
            return Err(Error::Spec("only a proc file system can be mounted on /proc".into()));
        }
    }
    let mut attributes = options.attr.set;
    // Others may be mounted into it, and devices made in it, before it is closed.
    let later = options.read_only() && (mount.fstype == "tmpfs" || clean(destination) == Path::new("dev"));
    if later {
        attributes &= !MOUNT_ATTR_RDONLY;
    }
    let detached = create(plan.spec, mount, options, attributes)?;
    mount::set_attr(&detached, options.recursive_attr, true).at("set attributes of mount", destination)?;
    if options.copy_up {
        copy_up::copy(&target, &detached).at("copy up", destination)?;
    }
    mount::attach(&detached, &target).at("mount", destination)?;
    set_propagation(&detached, mount, options)?;
    if later {
        pending.read_only.push((detached, destination.clone()));
    }
    Ok(())
}

fn create(spec: &Spec, mount: &Mount, options: &Options, attributes: u64) -> Result<OwnedFd> {
    let context = FsContext::open(&mount.fstype).at("open file system", &mount.fstype)?;
    let configure = || -> std::io::Result<OwnedFd> {
        let source = if mount.source.is_empty() { &mount.fstype } else { &mount.source };
        context.string("source", source)?;
        for flag in &options.superblock {
            context.option(flag)?;
        }
        for option in options.data.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
            context.option(option)?;
        }
        if !spec.linux.mount_label.is_empty() && mount.fstype != "proc" && mount.fstype != "sysfs" {
            context.string("context", &spec.linux.mount_label)?;
        }
        context.create()?;
        context.mount(attributes)
    };
    configure().map_err(|source| match context.message() {
        Some(message) if !message.is_empty() => {
            Error::Mount { path: mount.destination.clone().into(), message, source }
        }
        _ => Error::Path { op: "mount", path: mount.destination.clone().into(), source },
    })
}

/// Any other file system, by the old call.
fn other(root: &Root, mount: &Mount, options: &Options) -> Result<()> {
    let destination = &mount.destination;
    let target = root.ensure(destination, Kind::Dir)?;
    check_proc(mount, &target, None)?;
    if clean(destination) == Path::new("proc") {
        return Err(Error::Spec("only a proc file system can be mounted on /proc".into()));
    }
    let data = options.data.join(",");
    mount::mount(
        Some(Path::new(&mount.source)),
        &file::proc_path(&target),
        Some(&mount.fstype),
        options.ms_flags(),
        (!data.is_empty()).then_some(data.as_str()),
    )
    .at("mount", destination)?;
    let top = root.resolve(destination).at("open", destination)?;
    mount::set_attr(&top, options.recursive_attr, true).at("set attributes of mount", destination)?;
    set_propagation(&top, mount, options)
}

/// True for errors that say "not in this user namespace".
pub fn forbidden(error: &Error) -> bool {
    matches!(error, Error::Path { source, .. } | Error::Mount { source, .. }
        if matches!(errno(source), libc::EPERM | libc::EBUSY))
}

/// A fresh mount of a control group file system, for `groups`.
pub fn create_plain(spec: &Spec, mount: &Mount, options: &Options) -> Result<OwnedFd> {
    create(spec, mount, options, options.attr.set)
}
