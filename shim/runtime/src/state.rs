//! What is kept on disk of a container, so that somebody else can clean up after its creator.

use crate::cgroup::{Cgroup, Scope};
use crate::error::{Context, Error, Result};
use crate::resctrl;
use crate::spec::Hook;
use crate::sys::{errno, file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "state.json";
const MAX_STATE: usize = 1 << 20;
const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Of this format.
    pub version: u32,
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub pid: u32,
    /// When init started, in ticks since boot: tells it from a later process of the same number.
    pub start_time: u64,
    pub cgroup: Cgroup,
    /// Where the groups are systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Where its processes belong to a group of resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<resctrl::Group>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl State {
    pub const VERSION: u32 = VERSION;

    /// Not synced: the directory is meant for a file system that goes with the machine's run, as the processes do.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let data =
            serde_json::to_vec(self).map_err(|e| Error::State(format!("state of {}: {e}", self.id)))?;
        let (new, path) = (dir.join("state.json.new"), dir.join(FILE));
        let write = || -> std::io::Result<()> {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
            let fd = file::open(&new, flags, 0o600)?;
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                rest = &rest[file::write(&fd, rest)?..];
            }
            std::fs::rename(&new, &path)
        };
        write().at("write", &path)
    }

    pub fn load(dir: &Path, id: &str) -> Result<State> {
        let path = dir.join(FILE);
        let data = match file::open(&path, libc::O_RDONLY, 0).and_then(|fd| file::read_all(fd, MAX_STATE)) {
            Err(e) if errno(&e) == libc::ENOENT => return Err(Error::NotFound(format!("container {id}"))),
            other => other.at("read", &path)?,
        };
        let state: State =
            serde_json::from_slice(&data).map_err(|e| Error::State(format!("{}: {e}", path.display())))?;
        if state.version != VERSION || state.id != id {
            return Err(Error::State(format!(
                "{} is not the state of {id} in format {VERSION}",
                path.display()
            )));
        }
        Ok(state)
    }
}

/// When a process started; `None` when there is no such process (any more).
pub fn start_time(pid: u32) -> Option<u64> {
    let fd = file::open(format!("/proc/{pid}/stat"), libc::O_RDONLY, 0).ok()?;
    let text = String::from_utf8(file::read_all(fd, 4096).ok()?).ok()?;
    // The name in brackets may contain anything; it is the second field, and the time the 22nd.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The names that other runtimes allow as well.
pub fn check_id(id: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(fine) {
        return Err(Error::Spec(format!("invalid container id {id:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = State {
            version: VERSION,
            oci_version: "1.2.0".into(),
            id: "c".into(),
            bundle: "/b".into(),
            pid: 1,
            start_time: 2,
            cgroup: serde_json::from_str(r#"{"v1":[]}"#).unwrap(),
            scope: None,
            resctrl: None,
            annotations: BTreeMap::new(),
            poststop: vec![],
        };
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path(), "c").unwrap().start_time, 2);
        assert!(State::load(dir.path(), "d").is_err());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(State::load(dir.path(), "c"), Err(Error::State(_))));
    }

    #[test]
    fn ids_are_names() {
        for id in ["a", "a.b-c_d+e", "9"] {
            check_id(id).unwrap();
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\n"] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn own_start_time_is_known() {
        assert!(start_time(std::process::id()).is_some());
        assert!(start_time(u32::MAX).is_none());
    }
}
