//! Which hierarchies are mounted, read once per process.

use crate::error::{Context, Error, Result};
use crate::sys::file;
use std::path::PathBuf;
use std::sync::OnceLock;

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or `name=x` for a named one.
    pub controllers: Vec<String>,
    pub mountpoint: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    pub v1: Vec<Hierarchy>,
    pub v2: Option<PathBuf>,
}

const MAX_MOUNTINFO: usize = 32 << 20;

/// Controllers that the kernel may name in a v1 mount's options; other words there are options.
const CONTROLLERS: [&str; 14] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

/// What this process sees mounted.
pub fn hierarchies() -> Result<&'static Hierarchies> {
    static FOUND: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let path = "/proc/self/mountinfo";
    let text = file::open(path, libc::O_RDONLY, 0)
        .and_then(|fd| file::read_all(fd, MAX_MOUNTINFO))
        .at("read", path)?;
    let text = String::from_utf8(text).map_err(|_| Error::Unsupported("mountinfo is not UTF-8".into()))?;
    Ok(FOUND.get_or_init(|| parse(&text)))
}

fn parse(mountinfo: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (fstype, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
        if !fstype.starts_with("cgroup") {
            continue;
        }
        let Some(mountpoint) = left.split(' ').nth(4) else { continue };
        let mountpoint = PathBuf::from(unescape(mountpoint));
        if fstype == "cgroup2" {
            // The standard place wins over others, the first over later ones.
            if found.v2.is_none() || mountpoint.as_os_str() == "/sys/fs/cgroup" {
                found.v2 = Some(mountpoint);
            }
            continue;
        }
        let controllers: Vec<String> = options
            .split(',')
            .filter(|o| CONTROLLERS.contains(o) || o.starts_with("name="))
            .map(str::to_string)
            .collect();
        // The same hierarchy may be mounted more than once (bind mounts for containers): the first counts.
        let known = found.v1.iter().any(|h| h.controllers == controllers);
        if !controllers.is_empty() && !known {
            found.v1.push(Hierarchy { controllers, mountpoint });
        }
    }
    // With cgroup2 at the standard place the machine is a v2 machine, even if somebody mounted a v1 hierarchy for his own
    // use; and a named hierarchy alone (systemd's, in older hybrid layouts) limits nothing.
    let standard = found.v2.as_deref().is_some_and(|p| p.as_os_str() == "/sys/fs/cgroup");
    let named_only = found.v1.iter().all(|h| h.controllers[0].starts_with("name="));
    if standard || named_only && found.v2.is_some() {
        found.v1.clear();
    }
    found
}

/// mountinfo writes blanks, tabs, line breaks and backslashes in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_layout_is_v1() {
        let found = parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(found.v1.len(), 2);
        assert_eq!(found.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found.v1[0].mountpoint, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.v1[1].controllers, ["name=systemd"]);
        assert_eq!(found.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn unified_layout_is_v2() {
        let found = parse("31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(found, Hierarchies { v1: vec![], v2: Some("/sys/fs/cgroup".into()) });
    }
}
