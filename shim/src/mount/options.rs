//! Mount options in fstab's words, sorted into flags, propagation and data for the file system.

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::mapped::Maps;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub bind: bool,
    pub recursive: bool,
    pub flags: MountFlags,
    pub propagation: Vec<MountPropagationFlags>,
    pub data: Vec<String>,
    /// Ids are mapped on the way.
    pub maps: Option<Maps>,
    /// An option that nobody here can honour.
    pub unsupported: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            bind: false,
            recursive: false,
            flags: MountFlags::empty(),
            propagation: Vec::new(),
            data: Vec::new(),
            maps: None,
            unsupported: None,
        }
    }
}

impl Options {
    pub fn parse(words: &[String]) -> Options {
        let mut out = Options::default();
        let (mut uids, mut gids) = (None, None);
        for word in words {
            if let Some(map) = word.strip_prefix("uidmap=") {
                uids = Some(map.to_owned());
                continue;
            }
            if let Some(map) = word.strip_prefix("gidmap=") {
                gids = Some(map.to_owned());
                continue;
            }
            match word.as_str() {
                "bind" => out.bind = true,
                "rbind" => (out.bind, out.recursive) = (true, true),
                "loop" => out.unsupported = Some(word.clone()),
                // Notes among containerd's own parts.
                text if text.starts_with("X-containerd.") => {}
                text => match (flag(text), propagation(text)) {
                    (Some((flag, true)), _) => out.flags |= flag,
                    (Some((flag, false)), _) => out.flags &= !flag,
                    (None, Some(change)) => out.propagation.push(change),
                    (None, None) => out.data.push(word.clone()),
                },
            }
        }
        match (uids, gids) {
            (Some(uids), Some(gids)) => out.maps = Some(Maps { uids, gids }),
            (None, None) => {}
            (Some(_), None) => out.unsupported = Some("uidmap without gidmap".into()),
            (None, Some(_)) => out.unsupported = Some("gidmap without uidmap".into()),
        }
        out
    }
}

/// A word's flag and whether the word sets it.
fn flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "defaults" => (MountFlags::empty(), true),
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, MountPropagationFlags::REC),
        None => (word, MountPropagationFlags::empty()),
    };
    let change = match word {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(change | recursive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted() {
        let words =
            ["rbind", "ro", "nosuid", "rslave", "size=1m", "X-containerd.note", "suid"].map(str::to_owned);
        let options = Options::parse(&words);
        assert!(options.bind && options.recursive);
        assert_eq!(options.flags, MountFlags::RDONLY);
        assert_eq!(options.propagation, [MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC]);
        assert_eq!(options.data, ["size=1m"]);
        assert_eq!(options.unsupported, None);
        assert!(Options::parse(&["loop".to_owned()]).unsupported.is_some());
        let maps = ["uidmap=0:1:2", "gidmap=0:3:4"].map(str::to_owned);
        assert_eq!(Options::parse(&maps).maps, Some(Maps { uids: "0:1:2".into(), gids: "0:3:4".into() }));
        assert!(Options::parse(&maps[..1]).unsupported.is_some());
    }
}
