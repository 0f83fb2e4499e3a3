//! Mount propagation: a mount that is to be shared with a container must be shared on the host.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest table of mounts that is read.
const MAX_TABLE: u64 = 16 << 20;

/// How far mounts pass through a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Shared,
    Slave,
}

impl Propagation {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "rshared",
            Self::Slave => "rslave",
        }
    }
}

/// What a mount's options ask for; the last one counts.
pub fn needed(options: &[String]) -> Option<Propagation> {
    let last = options.iter().rev().find(|o| matches!(o.as_str(), "rprivate" | "rshared" | "rslave"))?;
    match last.as_str() {
        "rshared" => Some(Propagation::Shared),
        "rslave" => Some(Propagation::Slave),
        _ => None,
    }
}

/// Whether the mount that `source` lies in propagates as `needed`. Blocks for one read of this process' table.
pub fn check(source: &str, needed: Propagation) -> Result<()> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let read = || {
        let mut table = String::new();
        std::fs::File::open(&path)?.take(MAX_TABLE).read_to_string(&mut table)?;
        Ok(table)
    };
    let table = read().map_err(|source| Error::Io { operation: "read", path: path.clone(), source })?;
    let found = of(&table, Path::new(source));
    let enough = match needed {
        Propagation::Shared => found == Some(Propagation::Shared),
        Propagation::Slave => found.is_some(),
    };
    if enough {
        return Ok(());
    }
    let found = found.map_or("private", Propagation::name);
    Err(Error::Spec(format!("mount propagation of {source} is {found}, not {}", needed.name())))
}

/// The propagation of the mount that `path` lies in.
fn of(table: &str, path: &Path) -> Option<Propagation> {
    // As far as it can be told without following links.
    let path: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let point = unescape(fields.nth(4)?);
        let optional: Vec<String> = fields.skip(1).take_while(|f| *f != "-").map(str::to_owned).collect();
        path.starts_with(&point).then_some((point, optional))
    };
    // A later mount on the same point hides an earlier one; `max_by_key` takes the last.
    let (_, optional) = table.lines().filter_map(mount).max_by_key(|(point, _)| point.len())?;
    optional.iter().find_map(|field| match field.split_once(':')?.0 {
        "shared" => Some(Propagation::Shared),
        "master" => Some(Propagation::Slave),
        _ => None,
    })
}

/// The table writes space, tab, newline and backslash as octal numbers.
fn unescape(field: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(field.to_owned(), |text, (code, real)| text.replace(code, real))
}

/// The container's root must let mounts through at least as far.
pub fn root(linux: &mut Map<String, Value>, needed: Propagation) {
    let has = linux.get("rootfsPropagation").and_then(Value::as_str).unwrap_or_default();
    if needed == Propagation::Shared || !matches!(has, "rshared" | "rslave") {
        linux.insert("rootfsPropagation".into(), needed.name().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /dev rw - devtmpfs udev rw
23 21 0:6 / /mnt/a\\040b rw master:1 - tmpfs tmpfs rw
24 21 0:7 / /both rw shared:7 master:1 - tmpfs tmpfs rw
";

    #[test]
    fn the_deepest_mount_decides() {
        for (path, want) in [
            ("/", Some(Propagation::Shared)),
            ("/device", Some(Propagation::Shared)),
            ("/dev/shm", None),
            ("/mnt/a b/./c", Some(Propagation::Slave)),
            ("/both", Some(Propagation::Shared)),
        ] {
            assert_eq!(of(TABLE, Path::new(path)), want, "{path}");
        }
        assert_eq!(of("nonsense\n\n1 2 3", Path::new("/")), None);
    }

    #[test]
    fn the_last_option_counts() {
        let options = |list: &[&str]| needed(&list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        assert_eq!(options(&["rbind", "rslave", "rshared"]), Some(Propagation::Shared));
        assert_eq!(options(&["rshared", "rprivate"]), None);
        let mut linux = Map::new();
        root(&mut linux, Propagation::Shared);
        root(&mut linux, Propagation::Slave);
        assert_eq!(linux["rootfsPropagation"], "rshared");
    }
}
