//! The v1 layout: a directory of the same path in every hierarchy.

use super::dir::Dir;
use super::hierarchies::Hierarchy;
use super::{devices, v1_limits};
use crate::error::{Context, Error, Result};
use crate::spec::Resources;
use crate::sys::{errno, file, process};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FREEZE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups(Vec<Group>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    controllers: Vec<String>,
    path: PathBuf,
}

impl Groups {
    pub(super) fn plan(hierarchies: &[Hierarchy], path: &Path) -> Groups {
        Groups(
            hierarchies
                .iter()
                .map(|h| Group { controllers: h.controllers.clone(), path: h.mountpoint.join(path) })
                .collect(),
        )
    }

    fn dirs(&self) -> impl Iterator<Item = Dir> + '_ {
        self.0.iter().map(|g| Dir::new(&g.path))
    }

    pub(super) fn find(&self, controller: &str) -> Option<Dir> {
        self.0.iter().find(|g| g.controllers.iter().any(|c| c == controller)).map(|g| Dir::new(&g.path))
    }

    /// The directory of a controller that something asks for.
    pub(super) fn dir(&self, controller: &str) -> Result<Dir> {
        self.find(controller)
            .ok_or_else(|| Error::Unsupported(format!("the cgroup controller {controller} is not mounted")))
    }

    pub(super) fn create(&self) -> Result<()> {
        for group in &self.0 {
            let cpuset = group.controllers.iter().any(|c| c == "cpuset");
            Dir::new(&group.path).create(&mut |dir| if cpuset { inherit_cpuset(dir) } else { Ok(()) })?;
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> Result<Vec<OwnedFd>> {
        let open = |group: &Group| {
            let path = group.path.join("tasks");
            file::open(&path, libc::O_WRONLY, 0).at("open", path)
        };
        self.0.iter().map(open).collect()
    }

    pub(super) fn set(&self, resources: &Resources, with_devices: bool) -> Result<()> {
        v1_limits::set(self, resources)?;
        if with_devices && let Some(dir) = self.find("devices") {
            devices::apply_v1(&dir, &resources.devices)?;
        }
        Ok(())
    }

    /// v1 tells of no change of state; reading the file is what moves it on, so it is read again with growing pauses.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let dir = self.dir("freezer")?;
        let want = if frozen { "FROZEN" } else { "THAWED" };
        let deadline = Instant::now() + FREEZE_LIMIT;
        let mut pause = Duration::from_micros(50);
        loop {
            dir.write("freezer.state", want)?;
            if dir.read("freezer.state")?.trim() == want {
                return Ok(());
            }
            if Instant::now() > deadline {
                if frozen {
                    dir.write("freezer.state", "THAWED")?;
                }
                return Err(Error::Timeout(format!("freezer state {want}")));
            }
            process::pause_for(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    pub(super) fn frozen(&self) -> Result<bool> {
        match self.find("freezer") {
            Some(dir) => match dir.try_read("freezer.state") {
                Ok(state) => Ok(matches!(state.trim(), "FROZEN" | "FREEZING")),
                Err(e) if errno(&e) == libc::ENOENT => Ok(false),
                Err(e) => Err(e).at("read", dir.path().join("freezer.state")),
            },
            None => Ok(false),
        }
    }

    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let dir = self.find("devices").or_else(|| self.find("pids")).or_else(|| self.dirs().next());
        dir.map_or(Ok(Vec::new()), |d| d.pids_below())
    }

    pub(super) fn remove(&self) -> Result<()> {
        self.dirs().map(|dir| dir.remove_tree()).fold(Ok(()), Result::and)
    }

    pub(super) fn directories(&self) -> Vec<(String, PathBuf)> {
        self.0.iter().map(|g| (g.controllers.join(","), g.path.clone())).collect()
    }
}

/// A new cpuset is empty and takes no process until it has both lists. A parent may be as new: whoever made it a moment
/// ago has perhaps not filled it yet.
fn inherit_cpuset(dir: &Dir) -> Result<()> {
    let Some(parent) = dir.path().parent().map(Dir::new) else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if dir.read(name)?.trim().is_empty() {
            let mut inherited = parent.read(name)?;
            if inherited.trim().is_empty() {
                inherit_cpuset(&parent)?;
                inherited = parent.read(name)?;
            }
            dir.write(name, inherited.trim())?;
        }
    }
    Ok(())
}
