//! The control groups of a container: one directory per v1 hierarchy, or one directory in all on v2.
//!
//! Nothing here waits by sleeping: v2 announces what happens by events on `cgroup.events`, and on v1 the end of
//! processes is waited for by their pidfds.

mod convert;
mod device_program;
mod devices;
mod dir;
mod hierarchies;
mod oom;
mod stats;
mod systemd;
mod v1;
mod v1_limits;
mod v2;
mod v2_limits;

pub use devices::check as check_device_rules;
pub use hierarchies::hierarchies;
pub use oom::OomEvents;
pub use systemd::{BusError, Properties, Scope};

use crate::error::{Context, Error, Result};
use crate::metrics::Metrics;
use crate::spec::Resources;
use crate::sys::process;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The groups of one container. Serialisable: the paths are all there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroup {
    V1(v1::Groups),
    V2(v2::Group),
}

/// The path below each hierarchy's root. A relative one counts from the root, an empty one is the container's id.
fn group_path(configured: &str, id: &str) -> PathBuf {
    let path = crate::rootfs::clean(configured);
    if path.as_os_str().is_empty() { PathBuf::from(id) } else { path }
}

impl Cgroup {
    /// Where the groups will be, those of a scope of systemd's if there is one; makes nothing yet.
    pub fn plan(configured: &str, id: &str, scope: Option<&Scope>) -> Result<Cgroup> {
        let path = scope.map_or_else(|| group_path(configured, id), Scope::path);
        let all = hierarchies()?;
        match (&all.v2, all.v1.is_empty()) {
            (_, false) => Ok(Cgroup::V1(v1::Groups::plan(&all.v1, &path))),
            (Some(root), true) => Ok(Cgroup::V2(v2::Group::plan(root, &path))),
            (None, true) => Err(Error::Unsupported("no cgroup file system is mounted".into())),
        }
    }

    /// An error where processes are in the groups already: they are another container's, and would be limited, frozen and
    /// killed together with the new one.
    pub fn check_unused(&self) -> Result<()> {
        match self.pids()?.len() {
            0 => Ok(()),
            count => {
                let path = self.directories().into_iter().next().map(|(_, path)| path).unwrap_or_default();
                let path = path.display();
                Err(Error::State(format!(
                    "cgroup {path} is not empty: {count} process(es) found; give the container a cgroup path of its own"
                )))
            }
        }
    }

    /// Makes the directories. Those that are there already, without processes, are used as they are.
    pub fn create(&self) -> Result<()> {
        match self {
            Cgroup::V1(groups) => groups.create(),
            Cgroup::V2(group) => group.create(),
        }
    }

    /// For `clone3`: only v2 can start a process in a group.
    pub fn clone_target(&self) -> Result<Option<OwnedFd>> {
        match self {
            Cgroup::V1(_) => Ok(None),
            Cgroup::V2(group) => group.open().map(Some),
        }
    }

    /// The files by which a process moves itself into the groups; none on v2, where it starts in its group.
    pub fn entries(&self) -> Result<Vec<OwnedFd>> {
        match self {
            Cgroup::V1(groups) => groups.entries(),
            Cgroup::V2(_) => Ok(Vec::new()),
        }
    }

    /// Sets the limits; what is absent stays as it is. Device rules are set only with `devices`.
    pub fn set(&self, resources: &Resources, devices: bool) -> Result<()> {
        match self {
            Cgroup::V1(groups) => groups.set(resources, devices),
            Cgroup::V2(group) => group.set(resources, devices),
        }
    }

    /// An error where the limits asked for are to be refused by what is used already.
    pub fn check_update(&self, resources: &Resources) -> Result<()> {
        match (self, &resources.memory) {
            (Cgroup::V2(group), Some(memory)) => v2_limits::check_memory(&group.dir(), memory),
            // The kernel refuses it by itself.
            _ => Ok(()),
        }
    }

    pub fn unified(&self) -> bool {
        matches!(self, Cgroup::V2(_))
    }

    pub fn freeze(&self, frozen: bool) -> Result<()> {
        match self {
            Cgroup::V1(groups) => groups.freeze(frozen),
            Cgroup::V2(group) => group.freeze(frozen),
        }
    }

    pub fn frozen(&self) -> Result<bool> {
        match self {
            Cgroup::V1(groups) => groups.frozen(),
            Cgroup::V2(group) => group.frozen(),
        }
    }

    pub fn stats(&self) -> Result<Metrics> {
        match self {
            Cgroup::V1(groups) => stats::v1(groups).map(|m| Metrics::V1(Box::new(m))),
            Cgroup::V2(group) => stats::v2(&group.dir()).map(|m| Metrics::V2(Box::new(m))),
        }
    }

    /// All processes of the group and of those below it; none when the group is gone.
    pub fn pids(&self) -> Result<Vec<u32>> {
        match self {
            Cgroup::V1(groups) => groups.pids(),
            Cgroup::V2(group) => group.dir().pids_below(),
        }
    }

    pub fn oom_events(&self) -> Result<OomEvents> {
        match self {
            Cgroup::V1(groups) => OomEvents::v1(&groups.dir("memory")?),
            Cgroup::V2(group) => OomEvents::v2(&group.dir()),
        }
    }

    /// Sends a signal to every process there is now.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL
            && let Cgroup::V2(group) = self
            && group.kill()?
        {
            return Ok(());
        }
        // Frozen while the list is walked, so that no fork escapes it. Who cannot be frozen is walked all the same.
        let froze = !self.frozen().unwrap_or(true) && self.freeze(true).is_ok();
        let result = self.pids().and_then(|pids| pids.iter().try_for_each(|&pid| signal_pid(pid, signal)));
        if froze || signal == libc::SIGKILL {
            // A frozen process takes a signal only when it is thawed.
            self.freeze(false).or_else(|e| if froze { Err(e) } else { Ok(()) })?;
        }
        result
    }

    /// Kills every process and waits until none is left.
    pub fn kill_and_wait(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            // The handles come first: a number may be used anew once its process is gone.
            let handles: Vec<OwnedFd> =
                pids.iter().filter_map(|&pid| process::pidfd_open(pid).ok()).collect();
            self.signal_all(libc::SIGKILL)?;
            for handle in handles {
                let left = deadline.saturating_duration_since(Instant::now());
                if !process::wait_for(&handle, libc::POLLIN, left).op("wait for killed process")? {
                    return Err(Error::Timeout("the end of killed processes".into()));
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout("the end of killed processes".into()));
            }
        }
    }

    /// Removes the groups and what the container made below them. They must be empty.
    pub fn remove(&self) -> Result<()> {
        match self {
            Cgroup::V1(groups) => groups.remove(),
            Cgroup::V2(group) => group.dir().remove_tree(),
        }
    }

    /// Name (as in `/proc/self/cgroup`) and path of each hierarchy's directory, for mounts inside the container.
    pub fn directories(&self) -> Vec<(String, PathBuf)> {
        match self {
            Cgroup::V1(groups) => groups.directories(),
            Cgroup::V2(group) => vec![(String::new(), group.path().to_path_buf())],
        }
    }
}

fn signal_pid(pid: u32, signal: i32) -> Result<()> {
    let sent = process::pidfd_open(pid).and_then(|handle| process::pidfd_signal(handle, signal));
    match sent {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
            Err(error).at("signal process", Path::new(&pid.to_string()))
        }
        _ => Ok(()),
    }
}

/// Each number once, in order.
fn unique(pids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut seen = HashSet::new();
    pids.into_iter().filter(|pid| seen.insert(*pid)).collect()
}

#[cfg(test)]
mod block_io_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(group_path("/a/b", "id"), Path::new("a/b"));
        assert_eq!(group_path("a/../../../b", "id"), Path::new("b"));
        assert_eq!(group_path("", "id"), Path::new("id"));
        assert_eq!(group_path("/", "id"), Path::new("id"));
    }
}
