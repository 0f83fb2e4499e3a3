//! What a container's processes hold open. Costs a look at every descriptor, so that it is bounded: what is not counted to
//! the end is not told.

use std::fs;

use super::cgroup::{Group, Hierarchy, processes};
use super::files::Reader;

/// Processes of a container that are looked at.
const MOST: usize = 1024;
/// Descriptors that are looked at for one request.
const BUDGET: u64 = 100_000;

/// Counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processes {
    pub processes: Option<u64>,
    pub descriptors: Option<u64>,
    pub sockets: Option<u64>,
    /// How many files the first process may open.
    pub open_files: Option<u64>,
}

/// Looks, as long as it may.
pub struct Counter {
    left: u64,
}

impl Default for Counter {
    fn default() -> Self {
        Self { left: BUDGET }
    }
}

impl Counter {
    pub fn read(
        &mut self,
        hierarchy: &Hierarchy,
        reader: &mut Reader,
        group: &Group,
        first: u32,
    ) -> Processes {
        let (pids, all) = processes(hierarchy, reader, group, MOST);
        let mut counts = Processes::default();
        if all {
            counts.processes = Some(pids.len() as u64);
            let opened = pids.iter().try_fold((0, 0), |(files, sockets), pid| {
                let (more, of_them) = self.open(*pid)?;
                Some((files + more, sockets + of_them))
            });
            counts.descriptors = opened.map(|(files, _)| files);
            counts.sockets = opened.map(|(_, sockets)| sockets);
        }
        if first != 0 {
            reader.enter(&["/proc"], &first.to_string());
            counts.open_files = reader.text("limits").and_then(open_files);
        }
        counts
    }

    /// Descriptors of a process, and how many of them are sockets. A process that has ended has none.
    fn open(&mut self, pid: u32) -> Option<(u64, u64)> {
        let (mut files, mut sockets) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            self.left = self.left.checked_sub(1)?;
            files += 1;
            let target = fs::read_link(entry.path());
            sockets +=
                u64::from(target.is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:")));
        }
        Some((files, sockets))
    }
}

/// The soft limit of `Max open files`, in the second of three columns; `None` for no limit.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limits_are_read() {
        let text = "Limit    Soft Limit   Hard Limit   Units\nMax open files   1024   524288   files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files("Max open files   unlimited  unlimited  files\n"), None);
        assert_eq!(open_files("Max open files"), None);
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn descriptors_are_counted_as_far_as_allowed() {
        let _socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let own = std::process::id();
        let (files, sockets) = Counter::default().open(own).unwrap();
        assert!(files > sockets && sockets >= 1);
        assert_eq!(Counter { left: 1 }.open(own), None);
        assert_eq!(Counter::default().open(u32::MAX), Some((0, 0)));
    }
}
