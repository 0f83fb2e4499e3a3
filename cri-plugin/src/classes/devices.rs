//! The block devices that patterns of paths stand for.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::spec;

/// More names than any node has devices: a pattern over a whole tree is a mistake.
const MAX_PATHS: usize = 1 << 16;

/// A device's numbers, with its path.
pub type Devices = BTreeMap<(u32, u32), PathBuf>;

/// Devices that match any of the patterns (`*`, `?` and `[a-z]` within a name), links followed. What matches and is no
/// whole block device is passed over: the kernel limits disks, not partitions. `unused` hears of patterns that lead to no
/// device.
pub fn find(patterns: &[String], mut unused: impl FnMut(&str)) -> Devices {
    let mut all = Devices::new();
    for pattern in patterns {
        let found: Vec<_> = paths(pattern).iter().filter_map(|path| device(path)).collect();
        if found.is_empty() {
            unused(pattern);
        }
        all.extend(found);
    }
    all
}

/// The paths that there are of a pattern.
fn paths(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in Path::new(pattern).components() {
        let Component::Normal(name) = part else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let name = name.to_string_lossy();
        if !name.contains(['*', '?', '[', '\\']) {
            found.iter_mut().for_each(|path| path.push(&*name));
            continue;
        }
        let mut next = Vec::new();
        for dir in found {
            let names = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let matching = names.filter(|e| spec::matches(&name, &e.file_name().to_string_lossy()));
            next.extend(matching.map(|e| e.path()).take(MAX_PATHS - next.len()));
        }
        found = next;
    }
    found
}

fn device(path: &Path) -> Option<((u32, u32), PathBuf)> {
    let real = path.canonicalize().ok()?;
    let meta = real.metadata().ok()?;
    if !meta.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let partition = Path::new("/sys/dev/block").join(format!("{major}:{minor}/partition"));
    (!partition.exists()).then_some(((major, minor), real))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A device that the tests make: no driver has to be behind the number.
    fn make(path: &Path, kind: rustix::fs::FileType, minor: u32) {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, rustix::fs::makedev(240, minor)).unwrap();
    }

    #[test]
    fn patterns_lead_to_whole_block_devices() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("by-id/deep")).unwrap();
        for (name, minor) in [("sda", 1), ("sdb", 2), ("vdc", 3)] {
            make(&at(name), rustix::fs::FileType::BlockDevice, minor);
        }
        make(&at("sdz"), rustix::fs::FileType::CharacterDevice, 9);
        std::fs::write(at("sdfile"), "").unwrap();
        symlink("../vdc", at("by-id/ata-SSD-1")).unwrap();
        symlink("../gone", at("by-id/ata-SSD-2")).unwrap();
        let found = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|p| at(p).to_string_lossy().into_owned()).collect();
            let mut unused = Vec::new();
            let found = find(&patterns, |p| unused.push(p.rsplit('/').next().unwrap().to_owned()));
            (found.keys().map(|(_, minor)| *minor).collect::<Vec<_>>(), unused)
        };
        assert_eq!(found(&["sd[a-z]"]), (vec![1, 2], vec![]));
        assert_eq!(found(&["sda", "by-id/*SSD*"]), (vec![1, 3], vec![]));
        assert_eq!(found(&["*/ata-*", "vdc"]), (vec![3], vec![]));
        assert_eq!(
            found(&["*", "nvme*", "sdz", "sdfile"]),
            (vec![1, 2, 3], vec!["nvme*".into(), "sdz".into(), "sdfile".into()])
        );
        assert_eq!(find(&["sda".into()], |_| ()), Devices::new());
    }
}
