//! Control groups of resctrl, by which processors with Intel RDT (or AMD's QoS) share out their caches and the memory's
//! bandwidth. A container joins a group that somebody else has made and keeps; nothing here makes, fills or removes one.

use crate::error::{Error, Result};
use crate::spec::IntelRdt;
use crate::sys::file;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the file system is mounted, if it is.
pub const MOUNT: &str = "/sys/fs/resctrl";

/// The group of a container: its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group(PathBuf);

impl Group {
    /// The group that a configuration names. An error where it is not there, and for all but joining one.
    pub fn find(mount: &Path, wanted: &IntelRdt) -> Result<Group> {
        let more = [
            ("schemata", wanted.schemata.is_empty()),
            ("l3CacheSchema", wanted.l3_cache_schema.is_empty()),
            ("memBwSchema", wanted.mem_bw_schema.is_empty()),
            ("enableMonitoring", !wanted.enable_monitoring),
            ("enableCMT", !wanted.enable_cmt),
            ("enableMBM", !wanted.enable_mbm),
        ];
        if let Some((name, _)) = more.iter().find(|(_, absent)| !absent) {
            return Err(Error::Unsupported(format!(
                "intelRdt.{name} is not supported by the embedded runtime, which joins groups that are there: make the \
                 group and name it in closID alone, or use runc"
            )));
        }
        let mounted = |dir: &Path| dir.join("schemata").exists() && dir.join("tasks").exists();
        if !mounted(mount) {
            return Err(Error::Unsupported(format!(
                "intelRdt is configured, but there is no resctrl at {0}: if the processor has RDT, \
                 mount -t resctrl resctrl {0}",
                mount.display()
            )));
        }
        let id = wanted.clos_id.as_str();
        if id == "/" {
            return Ok(Group(mount.to_path_buf()));
        }
        if id.is_empty() || matches!(id, "." | "..") || id.contains(['/', '\n', '\0']) {
            return Err(Error::Spec(format!("intelRdt: closID {id:?} does not name a group")));
        }
        let dir = mount.join(id);
        if mounted(&dir) {
            return Ok(Group(dir));
        }
        Err(Error::State(format!(
            "intelRdt: there is no control group {id:?} in {}: make it, or name another in closID",
            mount.display()
        )))
    }

    /// Moves a process; what it starts later is in the group with it.
    pub fn join(&self, pid: u32) -> Result<()> {
        let path = self.0.join("tasks");
        let value = pid.to_string();
        file::write_file_at(file::cwd(), &path, value.as_bytes()).map_err(|source| Error::Control {
            path,
            value,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> IntelRdt {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn groups_that_are_there_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let error = Group::find(dir.path(), &wanted(r#"{"closID": "gold"}"#)).unwrap_err().report();
        assert!(error.contains("mount -t resctrl"), "{error}");
        for group in ["", "gold", "info"] {
            std::fs::create_dir_all(dir.path().join(group)).unwrap();
            for name in ["schemata", "tasks"].iter().filter(|_| group != "info") {
                std::fs::write(dir.path().join(group).join(name), "").unwrap();
            }
        }
        let gold = Group::find(dir.path(), &wanted(r#"{"closID": "gold", "schemata": null}"#)).unwrap();
        gold.join(42).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("gold/tasks")).unwrap(), "42");
        let root = Group::find(dir.path(), &wanted(r#"{"closID": "/"}"#)).unwrap();
        assert_eq!(root, Group(dir.path().to_path_buf()));
        for (json, said) in [
            (r#"{"closID": "silver"}"#, "no control group \"silver\""),
            (r#"{"closID": "info"}"#, "no control group \"info\""),
            (r#"{"closID": "../x"}"#, "does not name"),
            (r#"{"closID": ".."}"#, "does not name"),
            (r#"{}"#, "does not name"),
            (r#"{"closID": "gold", "schemata": ["L3:0=f"]}"#, "intelRdt.schemata is not supported"),
            (r#"{"closID": "gold", "memBwSchema": "MB:0=20"}"#, "intelRdt.memBwSchema"),
            (r#"{"closID": "gold", "enableMonitoring": true}"#, "intelRdt.enableMonitoring"),
        ] {
            let error = Group::find(dir.path(), &wanted(json)).unwrap_err().report();
            assert!(error.contains(said), "{json}: {error}");
        }
        std::fs::remove_file(dir.path().join("gold/tasks")).unwrap();
        let error = gold.join(42).unwrap_err().report();
        assert!(error.contains("gold/tasks"), "{error}");
    }
}
