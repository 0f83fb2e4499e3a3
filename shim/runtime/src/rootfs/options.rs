//! Mount options in `mount -o` words, sorted into what the kernel calls take.

use crate::error::{Error, Result};
use crate::spec::Mount;
use crate::sys::mount::{
    Attr, MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
};

/// What the options of one mount come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub bind: bool,
    /// The bind takes the mounts below its source along.
    pub recursive: bool,
    /// For the mount itself.
    pub attr: Attr,
    /// For the mount and all below it (`rro` and its like).
    pub recursive_attr: Attr,
    /// Propagation types in order, each with its recursion.
    pub propagation: Vec<(u64, bool)>,
    /// Flags of the file system rather than the mount (`sync`, `dirsync`, ...).
    pub superblock: Vec<&'static str>,
    pub copy_up: bool,
    /// Ids are mapped; true: also in the mounts below.
    pub idmap: Option<bool>,
    /// What is left for the file system.
    pub data: Vec<String>,
}

enum Word {
    Set(u64),
    Clear(u64),
    /// One of the exclusive access time modes.
    Atime(u64),
    Superblock(&'static str),
    Nothing,
}

fn word(option: &str) -> Option<Word> {
    Some(match option {
        "ro" => Word::Set(MOUNT_ATTR_RDONLY),
        "rw" => Word::Clear(MOUNT_ATTR_RDONLY),
        "nosuid" => Word::Set(MOUNT_ATTR_NOSUID),
        "suid" => Word::Clear(MOUNT_ATTR_NOSUID),
        "nodev" => Word::Set(MOUNT_ATTR_NODEV),
        "dev" => Word::Clear(MOUNT_ATTR_NODEV),
        "noexec" => Word::Set(MOUNT_ATTR_NOEXEC),
        "exec" => Word::Clear(MOUNT_ATTR_NOEXEC),
        "nodiratime" => Word::Set(MOUNT_ATTR_NODIRATIME),
        "diratime" => Word::Clear(MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Word::Set(MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Word::Clear(MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Word::Atime(MOUNT_ATTR_NOATIME),
        "strictatime" => Word::Atime(MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => Word::Atime(0),
        "sync" => Word::Superblock("sync"),
        "dirsync" => Word::Superblock("dirsync"),
        "mand" => Word::Superblock("mand"),
        "lazytime" => Word::Superblock("lazytime"),
        "defaults" | "async" | "loud" | "silent" | "norelatime" | "nomand" | "nolazytime" | "iversion"
        | "noiversion" => Word::Nothing,
        _ => return None,
    })
}

impl Word {
    fn apply(&self, attr: &mut Attr) {
        match *self {
            Word::Set(flag) => {
                attr.set |= flag;
                attr.clear &= !flag;
            }
            Word::Clear(flag) => {
                attr.clear |= flag;
                attr.set &= !flag;
            }
            Word::Atime(mode) => {
                attr.set = attr.set & !MOUNT_ATTR_ATIME | mode;
                attr.clear |= MOUNT_ATTR_ATIME;
            }
            Word::Superblock(_) | Word::Nothing => {}
        }
    }
}

/// A propagation type by name, with its recursion.
pub fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) => (name, true),
        None => (option, false),
    };
    let flag = match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

impl Options {
    pub fn parse(mount: &Mount) -> Result<Options> {
        let mut options =
            Options { bind: matches!(mount.fstype.as_str(), "bind" | "rbind"), ..Options::default() };
        options.recursive = mount.fstype == "rbind";
        for option in &mount.options {
            options.add(option, mount)?;
        }
        if !mount.uid_mappings.is_empty() && options.idmap.is_none() {
            options.idmap = Some(false);
        }
        if options.idmap.is_some() && !options.bind {
            return Err(Error::Spec(format!("mount {}: only bind mounts can map ids", mount.destination)));
        }
        if options.bind && !options.data.is_empty() {
            return Err(Error::Spec(format!(
                "mount {}: bind mounts cannot have any filesystem-specific options applied ({})",
                mount.destination,
                options.data.join(",")
            )));
        }
        if options.copy_up && mount.fstype != "tmpfs" {
            return Err(Error::Spec(format!("mount {}: tmpcopyup is for tmpfs only", mount.destination)));
        }
        Ok(options)
    }

    fn add(&mut self, option: &str, mount: &Mount) -> Result<()> {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "remount" => {
                return Err(Error::Unsupported(format!(
                    "mount {}: remount is not supported",
                    mount.destination
                )));
            }
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "" => {}
            _ => {
                if let Some(kind) = propagation(option) {
                    self.propagation.push(kind);
                } else if let Some(word) = word(option) {
                    if let Word::Superblock(flag) = word {
                        self.superblock.push(flag);
                    }
                    word.apply(&mut self.attr);
                } else if let Some(word) = option.strip_prefix('r').and_then(word)
                    && !matches!(word, Word::Superblock(_) | Word::Nothing)
                {
                    word.apply(&mut self.recursive_attr);
                } else if option.contains('\0') {
                    return Err(Error::Spec(format!("mount {}: an option contains NUL", mount.destination)));
                } else {
                    self.data.push(option.to_string());
                }
            }
        }
        Ok(())
    }

    pub fn read_only(&self) -> bool {
        self.attr.set & MOUNT_ATTR_RDONLY != 0
    }

    /// The flags for the old `mount(2)`.
    pub fn ms_flags(&self) -> libc::c_ulong {
        let table = [
            (MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
            (MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
            (MOUNT_ATTR_NODEV, libc::MS_NODEV),
            (MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
            (MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
            (MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
            (MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
            (MOUNT_ATTR_NOSYMFOLLOW, 256),
        ];
        let attr = table.iter().filter(|(a, _)| self.attr.set & a != 0).fold(0, |flags, (_, ms)| flags | ms);
        self.superblock.iter().fold(attr, |flags, name| {
            flags
                | match *name {
                    "sync" => libc::MS_SYNCHRONOUS,
                    "dirsync" => libc::MS_DIRSYNC,
                    "mand" => libc::MS_MANDLOCK,
                    _ => 1 << 25, // MS_LAZYTIME
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fstype: &str, options: &[&str]) -> Result<Options> {
        Options::parse(&Mount {
            destination: "/x".into(),
            fstype: fstype.into(),
            options: options.iter().map(|o| o.to_string()).collect(),
            ..Mount::default()
        })
    }

    #[test]
    fn words_are_sorted() {
        let o =
            parse("tmpfs", &["nosuid", "strictatime", "mode=755", "size=64k", "ro", "rw", "sync"]).unwrap();
        assert_eq!(o.attr.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
        assert_eq!(o.attr.clear, MOUNT_ATTR_ATIME | MOUNT_ATTR_RDONLY);
        assert_eq!(o.data, ["mode=755", "size=64k"]);
        assert_eq!(o.superblock, ["sync"]);
        assert_eq!(o.ms_flags(), libc::MS_NOSUID | libc::MS_STRICTATIME | libc::MS_SYNCHRONOUS);
    }

    #[test]
    fn recursive_words_and_propagation() {
        let o = parse("bind", &["rbind", "rro", "rnosuid", "rslave", "private"]).unwrap();
        assert!(o.bind && o.recursive);
        assert_eq!(o.recursive_attr.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(o.propagation, [(libc::MS_SLAVE, true), (libc::MS_PRIVATE, false)]);
        let o = parse("none", &["rbind", "rrw", "rrelatime", "rdev"]).unwrap();
        assert_eq!(o.recursive_attr.clear, MOUNT_ATTR_RDONLY | MOUNT_ATTR_ATIME | MOUNT_ATTR_NODEV);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parse("bind", &["bind", "size=3"]).is_err());
        assert!(parse("tmpfs", &["idmap"]).is_err());
        assert!(parse("bind", &["remount"]).is_err());
        assert!(parse("proc", &["tmpcopyup"]).is_err());
    }
}
