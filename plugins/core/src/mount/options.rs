//! Mount options in the words of fstab, parsed into what the kernel takes.

use std::os::fd::OwnedFd;

use super::{IdMap, user_namespace};
use crate::{Error, Result};

/// Parsed options. What no table knows is data for the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `MS_*` of mount(2), without propagation.
    pub flags: u32,
    /// `MS_SHARED` and its kin, with `MS_REC` where it is recursive; several are applied in order.
    pub propagation: Vec<u32>,
    /// `MOUNT_ATTR_*` to set and to clear on the whole tree (`rro`, `rnosuid`, …).
    pub recursive: (u64, u64),
    pub data: Vec<String>,
    pub uid_map: Option<String>,
    pub gid_map: Option<String>,
    pub is_loop: bool,
}

const FLAGS: &[(&str, bool, u64)] = &[
    ("async", false, libc::MS_SYNCHRONOUS),
    ("atime", false, libc::MS_NOATIME),
    ("bind", true, libc::MS_BIND),
    ("defaults", true, 0),
    ("dev", false, libc::MS_NODEV),
    ("diratime", false, libc::MS_NODIRATIME),
    ("dirsync", true, libc::MS_DIRSYNC),
    ("exec", false, libc::MS_NOEXEC),
    ("mand", true, libc::MS_MANDLOCK),
    ("noatime", true, libc::MS_NOATIME),
    ("nodev", true, libc::MS_NODEV),
    ("nodiratime", true, libc::MS_NODIRATIME),
    ("noexec", true, libc::MS_NOEXEC),
    ("nomand", false, libc::MS_MANDLOCK),
    ("norelatime", false, libc::MS_RELATIME),
    ("nostrictatime", false, libc::MS_STRICTATIME),
    ("nosuid", true, libc::MS_NOSUID),
    ("rbind", true, libc::MS_BIND | libc::MS_REC),
    ("relatime", true, libc::MS_RELATIME),
    ("remount", true, libc::MS_REMOUNT),
    ("ro", true, libc::MS_RDONLY),
    ("rw", false, libc::MS_RDONLY),
    ("strictatime", true, libc::MS_STRICTATIME),
    ("suid", false, libc::MS_NOSUID),
    ("sync", true, libc::MS_SYNCHRONOUS),
];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

/// `MOUNT_ATTR_*` of mount_setattr(2).
pub(super) mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME: u64 = 0x70;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x0010_0000;
}

const RECURSIVE: &[(&str, bool, u64)] = &[
    ("rro", true, attr::RDONLY),
    ("rrw", false, attr::RDONLY),
    ("rnosuid", true, attr::NOSUID),
    ("rsuid", false, attr::NOSUID),
    ("rnodev", true, attr::NODEV),
    ("rdev", false, attr::NODEV),
    ("rnoexec", true, attr::NOEXEC),
    ("rexec", false, attr::NOEXEC),
    ("rnodiratime", true, attr::NODIRATIME),
    ("rdiratime", false, attr::NODIRATIME),
];

impl Options {
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options.iter().map(AsRef::as_ref) {
            parsed.take(option)?;
        }
        if parsed.uid_map.is_some() != parsed.gid_map.is_some() {
            return Err(Error::invalid("mount options uidmap and gidmap are given together or not at all"));
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) -> Result<()> {
        if option.starts_with("X-containerd.") {
            return Err(Error::invalid(format!(
                "internal mount option {option:?} was not consumed by the mount manager"
            )));
        }
        if let Some((_, set, flag)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            // The flags of mount(2) that have names here lie in the lower 32 bits.
            let flag = *flag as u32;
            self.flags = if *set { self.flags | flag } else { self.flags & !flag };
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
            self.propagation.push(*flag as u32);
        } else if let Some((_, set, flag)) = RECURSIVE.iter().find(|(name, ..)| *name == option) {
            let (to, from) = match set {
                true => (&mut self.recursive.0, &mut self.recursive.1),
                false => (&mut self.recursive.1, &mut self.recursive.0),
            };
            *to |= flag;
            *from &= !flag;
        } else if let Some(map) = option.strip_prefix("uidmap=") {
            self.uid_map = Some(map.to_owned());
        } else if let Some(map) = option.strip_prefix("gidmap=") {
            self.gid_map = Some(map.to_owned());
        } else if option == "loop" {
            self.is_loop = true;
        } else if !option.is_empty() {
            self.data.push(option.to_owned());
        }
        Ok(())
    }

    pub fn has(&self, flag: u64) -> bool {
        u64::from(self.flags) & flag == flag
    }

    pub fn is_bind(&self) -> bool {
        self.has(libc::MS_BIND) && !self.has(libc::MS_REMOUNT)
    }

    /// The flags as `MOUNT_ATTR_*`.
    pub(super) fn attributes(&self) -> u64 {
        let pairs = [
            (libc::MS_RDONLY, attr::RDONLY),
            (libc::MS_NOSUID, attr::NOSUID),
            (libc::MS_NODEV, attr::NODEV),
            (libc::MS_NOEXEC, attr::NOEXEC),
            (libc::MS_NOATIME, attr::NOATIME),
            (libc::MS_STRICTATIME, attr::STRICTATIME),
            (libc::MS_NODIRATIME, attr::NODIRATIME),
        ];
        pairs.iter().filter(|(flag, _)| self.has(*flag)).fold(0, |all, (_, attribute)| all | attribute)
    }

    /// A user namespace with the asked mapping, where one is asked for.
    pub(super) fn user_namespace(&self) -> Result<Option<OwnedFd>> {
        let (Some(uids), Some(gids)) = (&self.uid_map, &self.gid_map) else { return Ok(None) };
        user_namespace(&IdMap::parse_list(uids)?, &IdMap::parse_list(gids)?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_data() {
        let o = Options::parse(&["rbind", "ro", "rw", "nosuid", "rprivate", "rro", "mode=755", "defaults"])
            .unwrap();
        assert_eq!(u64::from(o.flags), libc::MS_BIND | libc::MS_REC | libc::MS_NOSUID);
        assert_eq!(o.propagation, [(libc::MS_PRIVATE | libc::MS_REC) as u32]);
        assert_eq!(o.recursive, (attr::RDONLY, 0));
        assert_eq!(o.data, ["mode=755"]);
        assert!(Options::parse(&["X-containerd.mkdir"]).is_err());
        assert!(Options::parse(&["uidmap=0:1:1"]).is_err());
    }
}
