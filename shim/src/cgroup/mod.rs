//! The control group that a process is in, whichever runtime put it there: its processes, its figures, its OOM kills.
//!
//! Nothing here makes, changes or removes a group; that is the runtime's.

mod oom;
mod stats_v1;
mod stats_v2;

use std::fs;
use std::path::{Path, PathBuf};

pub use oom::{News, OomEvents};

use crate::error::{Context, Error, Result};

const MOUNT: &str = "/sys/fs/cgroup";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// Directory below each controller's own hierarchy.
    V1(Vec<(String, PathBuf)>),
    V2(PathBuf),
}

/// Whether the machine has the unified hierarchy alone.
pub fn unified() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(MOUNT).is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

impl Cgroup {
    pub fn of(pid: u32) -> Result<Cgroup> {
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).at("read", &path)?;
        Self::parse(&text, unified()).ok_or_else(|| Error::not_found(format!("no cgroup in {path}")))
    }

    /// The group of that path, as `ShimCgroup` names it.
    pub fn at(path: &str) -> Cgroup {
        let path = path.trim_start_matches('/');
        if unified() {
            return Cgroup::V2(Path::new(MOUNT).join(path));
        }
        let Ok(entries) = fs::read_dir(MOUNT) else { return Cgroup::V1(Vec::new()) };
        let groups = entries
            .flatten()
            .filter(|entry| entry.file_name() != "unified")
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().join(path)))
            .filter(|(_, dir)| dir.is_dir());
        Cgroup::V1(groups.collect())
    }

    /// Reads `/proc/<pid>/cgroup`: lines of `id:controllers:path`.
    fn parse(text: &str, unified: bool) -> Option<Cgroup> {
        let mut groups = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                if unified {
                    return Some(Cgroup::V2(Path::new(MOUNT).join(path)));
                }
                continue;
            }
            for controller in controllers.split(',') {
                let name = controller.strip_prefix("name=").unwrap_or(controller);
                groups.push((name.to_owned(), Path::new(MOUNT).join(name).join(path)));
            }
        }
        (!groups.is_empty()).then_some(Cgroup::V1(groups))
    }

    fn controller(&self, name: &str) -> Option<&Path> {
        match self {
            Cgroup::V1(groups) => {
                groups.iter().find(|(known, _)| known == name).map(|(_, path)| path.as_path())
            }
            Cgroup::V2(path) => Some(path),
        }
    }

    /// Puts a process into the group.
    pub fn join(&self, pid: u32) -> Result<()> {
        let dirs: Vec<&Path> = match self {
            Cgroup::V1(groups) => groups.iter().map(|(_, dir)| dir.as_path()).collect(),
            Cgroup::V2(dir) => vec![dir],
        };
        if dirs.is_empty() {
            return Err(Error::not_found("no such cgroup"));
        }
        for dir in dirs {
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.to_string()).at("join cgroup", file)?;
        }
        Ok(())
    }

    /// Processes of the group and of those below it. A group that is gone has none.
    pub fn pids(&self) -> Vec<u32> {
        // The hierarchy in which a runtime puts processes for certain; others may be the machine's root.
        let dir = ["devices", "pids", "memory", "systemd"].iter().find_map(|name| self.controller(name));
        let mut pids = Vec::new();
        if let Some(dir) = dir {
            walk(dir, 0, &mut |dir| {
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            });
        }
        pids
    }

    /// The figures as (type, encoded message), as containerd's metrics have them.
    pub fn stats(&self) -> Result<(&'static str, Vec<u8>)> {
        match self {
            Cgroup::V1(_) => Ok(("io.containerd.cgroups.v1.Metrics", stats_v1::read(self))),
            Cgroup::V2(dir) if dir.is_dir() => Ok(("io.containerd.cgroups.v2.Metrics", stats_v2::read(dir))),
            Cgroup::V2(_) => Err(Error::not_found("cgroup does not exist")),
        }
    }
}

fn walk(dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    visit(dir);
    // Containers may make groups as deep as they like; nobody nests runtimes this deep.
    if depth == 16 {
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth + 1, visit);
        }
    }
}

/// A number in a file of its own; `max` is the largest there is, and a file that cannot be read is 0.
fn number(dir: &Path, file: &str) -> u64 {
    fs::read_to_string(dir.join(file)).map_or(0, |text| parse_number(text.trim()))
}

fn parse_number(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        // Some files say -1 for "no limit" or for a count that went below zero.
        text => text.parse().unwrap_or(0),
    }
}

/// Lines of `name value`, given to `each`.
fn pairs(dir: &Path, file: &str, mut each: impl FnMut(&str, u64)) -> bool {
    let Ok(text) = fs::read_to_string(dir.join(file)) else { return false };
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(' ') {
            each(name, parse_number(value.trim()));
        }
    }
    true
}

/// Page sizes of huge pages, as they stand in file names: `2MB`, `1GB`.
fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes
        .into_iter()
        .map(|kb| match kb {
            kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
            kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
        .collect()
}

/// RDMA devices: lines of `device hca_handle=N hca_object=N`.
fn rdma(dir: &Path, file: &str) -> Vec<(String, u64, u64)> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let limit = |part: &str| match part.split_once('=') {
        Some((_, "max")) => u64::from(u32::MAX),
        Some((_, value)) => value.parse().unwrap_or(0),
        None => 0,
    };
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            Some((parts.next()?.to_owned(), limit(parts.next()?), limit(parts.next()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hierarchies() {
        let v1 = "5:cpu,cpuacct:/ns/a\n3:memory:/ns/a\n1:name=systemd:/ns/a\n0::/x\n";
        let Some(Cgroup::V1(groups)) = Cgroup::parse(v1, false) else { panic!("a hybrid machine is v1") };
        assert_eq!(groups[1], ("cpuacct".into(), "/sys/fs/cgroup/cpuacct/ns/a".into()));
        assert_eq!(groups[3].1, Path::new("/sys/fs/cgroup/systemd/ns/a"));
        assert_eq!(Cgroup::parse("0::/ns/a\n", true), Some(Cgroup::V2("/sys/fs/cgroup/ns/a".into())));
        assert_eq!(Cgroup::parse("", false), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_number("max"), u64::MAX);
        assert_eq!(parse_number("-1"), 0);
        assert_eq!(parse_number("42"), 42);
    }
}
