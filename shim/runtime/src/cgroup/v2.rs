//! The v2 layout: one directory.

use super::dir::{Dir, field};
use super::{device_program, devices, v2_limits};
use crate::error::{Context, Error, Result};
use crate::spec::Resources;
use crate::sys::{errno, file, process};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FREEZE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    root: PathBuf,
    path: PathBuf,
}

impl Group {
    pub(super) fn plan(root: &Path, path: &Path) -> Group {
        Group { root: root.to_path_buf(), path: root.join(path) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dir(&self) -> Dir {
        Dir::new(&self.path)
    }

    pub(super) fn open(&self) -> Result<OwnedFd> {
        self.dir().open()
    }

    /// Makes the directory, with every controller that the parents can give.
    pub(super) fn create(&self) -> Result<()> {
        let root = Dir::new(&self.root);
        let controllers = root.read("cgroup.controllers")?;
        self.dir().create(&mut |_| Ok(()))?;
        let below = self.path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut parent = self.root.clone();
        for name in below.components() {
            enable(&Dir::new(&parent), &controllers);
            parent.push(name);
        }
        Ok(())
    }

    pub(super) fn set(&self, resources: &Resources, with_devices: bool) -> Result<()> {
        let dir = self.dir();
        v2_limits::set(&dir, resources)?;
        if with_devices {
            let rules = devices::rules(&resources.devices)?;
            if !devices::allows_everything(&rules) {
                device_program::attach(&dir.open()?, &device_program::compile(&rules))?;
            }
        }
        Ok(())
    }

    /// Waits for the kernel's event, not for a time.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let dir = self.dir();
        let events = dir.path().join("cgroup.events");
        let watch = file::open(&events, libc::O_RDONLY, 0).at("open", &events)?;
        dir.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        loop {
            if self.frozen_now()? == frozen {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !process::wait_for(&watch, libc::POLLPRI, left).at("poll", &events)? {
                if frozen {
                    dir.write("cgroup.freeze", "0")?;
                }
                return Err(Error::Timeout(format!("cgroup.freeze {}", u8::from(frozen))));
            }
        }
    }

    fn frozen_now(&self) -> Result<bool> {
        Ok(field(&self.dir().read("cgroup.events")?, "frozen") == Some(1))
    }

    pub(super) fn frozen(&self) -> Result<bool> {
        match self.dir().try_read("cgroup.freeze") {
            Ok(state) => Ok(state.trim() == "1"),
            Err(e) if errno(&e) == libc::ENOENT => Ok(false),
            Err(e) => Err(e).at("read", self.path.join("cgroup.freeze")),
        }
    }

    /// Kills the whole tree at once; false when this kernel (before 5.14) cannot.
    pub(super) fn kill(&self) -> Result<bool> {
        match self.dir().try_write("cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(e) if errno(&e) == libc::ENOENT => Ok(!self.path.exists()),
            Err(e) => Err(e).at("write", self.path.join("cgroup.kill")),
        }
    }
}

/// Hands controllers down. What cannot be handed down shows when a limit needs it.
fn enable(dir: &Dir, controllers: &str) {
    let Ok(enabled) = dir.try_read("cgroup.subtree_control") else { return };
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    let missing: Vec<String> =
        controllers.split_whitespace().filter(|c| !enabled.contains(c)).map(|c| format!("+{c}")).collect();
    if missing.is_empty() || dir.try_write("cgroup.subtree_control", missing.join(" ")).is_ok() {
        return;
    }
    for controller in missing {
        let _ = dir.try_write("cgroup.subtree_control", controller);
    }
}
