//! Where control groups are: which directories hold the figures of a container or a pod, in both versions, whoever made
//! them.
//!
//! Nothing here makes or changes a group.

use std::path::Path;

use super::files::Reader;
use crate::spec;

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Longest path of a group below its hierarchy.
const LONGEST: usize = 3072;

/// Of version 1: each has a hierarchy of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Cpuacct,
    Cpu,
    Memory,
    Pids,
    Blkio,
}

const NAMES: [&str; 5] = ["cpuacct", "cpu", "memory", "pids", "blkio"];

/// A group: its path below the mount of its hierarchy, with the slash at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// The same in every hierarchy.
    One(Box<str>),
    /// Of version 1, another in each hierarchy, in the order of [`Controller`]; empty where it is in none.
    Split(Box<[Box<str>; 5]>),
}

/// The machine's control groups.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    pub root: String,
    pub v2: bool,
}

impl Hierarchy {
    pub fn of(host: &spec::Host) -> Self {
        Self { root: MOUNT.into(), v2: host.cgroup_v2 }
    }

    /// Turns to a group's directory of a controller. Whether it can be in there.
    pub fn enter(&self, reader: &mut Reader, group: &Group, controller: Controller) -> bool {
        let path = match group {
            Group::One(path) => path,
            Group::Split(paths) => &paths[controller as usize],
        };
        if path.is_empty() {
            return false;
        }
        if self.v2 {
            reader.enter(&[&self.root], path);
        } else {
            reader.enter(&[&self.root, "/", NAMES[controller as usize]], path);
        }
        true
    }

    /// Whether there is such a group.
    pub fn has(&self, group: &Group) -> bool {
        let mut reader = Reader::default();
        let tried: &[_] = if self.v2 {
            &[Controller::Cpu]
        } else {
            &[Controller::Cpuacct, Controller::Memory, Controller::Pids]
        };
        tried
            .iter()
            .any(|controller| self.enter(&mut reader, group, *controller) && reader.directory().is_dir())
    }

    /// The group of a container by what its specification calls it and, where there is none of that name, by where its
    /// process is.
    pub fn find(&self, named: &str, pid: u32) -> Option<Group> {
        let by_name = spelled(named).map(Group::One).filter(|group| self.has(group));
        by_name.or_else(|| {
            let mut reader = Reader::default();
            reader.enter(&["/proc"], &pid.to_string());
            let group = self.member(reader.text("cgroup").filter(|_| pid != 0)?)?;
            self.has(&group).then_some(group)
        })
    }

    /// The group that a pod's containers are to be below, as the kubelet names it.
    pub fn parent(&self, named: &str) -> Option<Group> {
        let literal = below(named).map(Group::One).filter(|group| self.has(group));
        literal.or_else(|| {
            let last = named.rsplit('/').find(|part| !part.is_empty())?;
            let slice = Group::One(slice(last)?.into());
            self.has(&slice).then_some(slice)
        })
    }

    /// Reads `/proc/<pid>/cgroup`: lines of `id:controllers:path`. Never the root: its figures are the machine's.
    pub fn member(&self, text: &str) -> Option<Group> {
        let lines = text.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?, parts.next()?, below(parts.next()?)?))
        });
        if self.v2 {
            return lines
                .filter(|(_, controllers, _)| controllers.is_empty())
                .map(|(.., path)| Group::One(path))
                .next();
        }
        let mut paths = <[Box<str>; 5]>::default();
        for (_, controllers, path) in lines {
            for (at, name) in NAMES.iter().enumerate() {
                if controllers.split(',').any(|controller| controller == *name) {
                    paths[at] = path.clone();
                }
            }
        }
        paths.iter().any(|path| !path.is_empty()).then(|| Group::Split(Box::new(paths)))
    }
}

/// The path that a specification's `cgroupsPath` stands for: itself, or systemd's `slice:prefix:name`.
fn spelled(named: &str) -> Option<Box<str>> {
    let parts: Vec<_> = named.split(':').collect();
    match parts[..] {
        [slice_name, prefix, name] if !named.starts_with('/') && !name.is_empty() => {
            let parent = slice(if slice_name.is_empty() { "system.slice" } else { slice_name })?;
            let unit =
                if name.ends_with(".slice") { name.to_owned() } else { format!("{prefix}-{name}.scope") };
            below(&format!("{parent}/{unit}"))
        }
        _ => below(named),
    }
}

/// The path of a slice: the names before its dashes are those of the slices around it.
fn slice(name: &str) -> Option<String> {
    if name == "-.slice" {
        return Some(String::new());
    }
    let stem = name.strip_suffix(".slice")?;
    if stem.is_empty() || stem.contains('/') || stem.split('-').any(str::is_empty) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("/{}.slice", &stem[..end])).collect())
}

/// A path that stays below where it begins and is not that itself, with one slash before each name.
fn below(path: &str) -> Option<Box<str>> {
    if path.len() > LONGEST || path.contains('\0') {
        return None;
    }
    let mut made = String::with_capacity(path.len() + 1);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if matches!(part, "." | "..") {
            return None;
        }
        made.push('/');
        made.push_str(part);
    }
    (!made.is_empty()).then(|| made.into())
}

/// Processes of a group and of those below it, as far as `most` goes. Whether those are all.
pub fn processes(hierarchy: &Hierarchy, reader: &mut Reader, group: &Group, most: usize) -> (Vec<u32>, bool) {
    let mut found = Vec::new();
    // Whichever hierarchy the runtime has put it in for certain.
    let tried = [Controller::Pids, Controller::Memory, Controller::Cpuacct];
    let top = tried.iter().find_map(|controller| {
        let there = hierarchy.enter(reader, group, *controller) && reader.directory().is_dir();
        there.then(|| reader.directory())
    });
    let Some(top) = top else { return (found, false) };
    let mut waiting = vec![top];
    let mut groups = 0;
    while let Some(dir) = waiting.pop() {
        groups += 1;
        let Some(path) = dir.to_str() else { return (found, false) };
        if groups > most {
            return (found, false);
        }
        reader.enter(&["/"], path);
        let text = reader.text("cgroup.procs").unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
        if found.len() > most {
            found.truncate(most);
            return (found, false);
        }
        waiting.extend(groups_in(&dir, most));
    }
    (found, true)
}

fn groups_in(dir: &Path, most: usize) -> Vec<std::path::PathBuf> {
    // Two links are a directory without others in it: the kernel counts them for its control groups.
    use std::os::unix::fs::MetadataExt;
    if dir.metadata().is_ok_and(|about| about.nlink() == 2) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.path()).take(most + 1).collect()
}
