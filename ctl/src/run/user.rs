//! Users by name: looked up in the container's own files, never in this machine's.
//!
//! The files come from an image and are hostile: opened below the root that links cannot leave, regular ones only, and
//! no more of them read than a real one holds.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use windlass_core::mount::{self, Mount};

/// Largest passwd or group file.
const LIMIT: u64 = 1 << 20;
/// Most groups of one user: the kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;

/// uid, gid and further groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// One half of `user[:group]`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Id {
    Number(u32),
    Name(String),
}

/// What a user option or an image's `USER` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    user: Id,
    group: Option<Id>,
}

/// Ids are at most 2^31 - 1: larger ones wrap in some of the programs that see them.
fn id(what: &str, text: &str) -> Result<Id> {
    ensure!(!text.is_empty(), "an empty {what}");
    ensure!(!text.contains(|c: char| c.is_control()), "{what} {text:?} contains control characters");
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok());
        return number
            .map(Id::Number)
            .with_context(|| format!("{what} {text} is out of range (0 to {})", i32::MAX));
    }
    Ok(Id::Name(text.to_owned()))
}

fn parse(text: &str) -> Result<Wanted> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let wanted = || -> Result<Wanted> {
        Ok(Wanted { user: id("user", user)?, group: group.map(|g| id("group", g)).transpose()? })
    };
    wanted().with_context(|| format!("user {text:?}"))
}

/// The user that a process runs as: `text` is `user[:group]` by name or number, empty for root. Mounts are the
/// container's file system. Blocks.
pub fn resolve(text: &str, mounts: &[Mount]) -> Result<User> {
    let wanted = parse(if text.is_empty() { "0" } else { text })?;
    let tree = match mount::open(&mount::read_only(mounts)) {
        Ok(tree) => tree,
        Err(error) => {
            // Only names need the files; without them a number has no further groups.
            if let (Id::Number(uid), None | Some(Id::Number(_))) = (&wanted.user, &wanted.group) {
                let gid = if let Some(Id::Number(gid)) = wanted.group { gid } else { 0 };
                return Ok(User { uid: *uid, gid, groups: vec![gid] });
            }
            return Err(error)
                .with_context(|| format!("user {text:?}: look into the container's file system"));
        }
    };
    let passwd = read(tree.as_fd(), "etc/passwd")?;
    let group = read(tree.as_fd(), "etc/group")?;
    look_up(&wanted, &passwd, &group).with_context(|| format!("user {text:?}"))
}

/// A file below `root`; empty where there is none.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let about = || format!("/{path} of the container");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A fifo must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error).with_context(about),
    };
    let stat = rustix::fs::fstat(&file).with_context(about)?;
    ensure!(
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        "{} is not a regular file",
        about()
    );
    let mut data = Vec::new();
    std::fs::File::from(file).take(LIMIT + 1).read_to_end(&mut data).with_context(about)?;
    ensure!(data.len() as u64 <= LIMIT, "{} is larger than {LIMIT} bytes", about());
    Ok(String::from_utf8_lossy(&data).into_owned())
}

fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok())
}

fn look_up(wanted: &Wanted, passwd: &str, group: &str) -> Result<User> {
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let mut entry = None;
    for fields in passwd.lines().map(fields) {
        let [name, _, uid, gid, ..] = fields.as_slice() else { continue };
        let hit = match &wanted.user {
            Id::Name(wanted) => name == wanted,
            Id::Number(wanted) => number(uid) == Some(*wanted),
        };
        if !hit {
            continue;
        }
        let (Some(uid), Some(gid)) = (number(uid), number(gid)) else {
            bail!("its line in /etc/passwd has an id that is out of range");
        };
        entry = Some((name.clone(), uid, gid));
        break;
    }
    let (name, uid, own_gid) = match (entry, &wanted.user) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Id::Number(uid)) => (None, *uid, 0),
        (None, Id::Name(_)) => bail!("not in the container's /etc/passwd"),
    };
    let mut gid = own_gid;
    let mut found = !matches!(wanted.group, Some(Id::Name(_)));
    if let Some(Id::Number(number)) = wanted.group {
        gid = number;
    }
    let mut groups = Vec::new();
    for fields in group.lines().map(fields) {
        let [group, _, id, ..] = fields.as_slice() else { continue };
        let Some(id) = number(id) else { continue };
        if !found && wanted.group == Some(Id::Name(group.clone())) {
            (gid, found) = (id, true);
        }
        // A group that was asked for takes the place of all the user's own.
        let member = fields.get(3).is_some_and(|m| m.split(',').any(|m| Some(m) == name.as_deref()));
        if member && wanted.group.is_none() && groups.len() < MAX_GROUPS {
            groups.push(id);
        }
    }
    ensure!(found, "the group is not in the container's /etc/group");
    groups.retain(|g| *g != gid);
    groups.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbad line\nwww:x:33:34::/:/bin/false\nhuge:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,www\nwww:x:34:\nweb:x:35:www,root\ntwice:x:10:www\n";

    fn user(text: &str) -> Result<User> {
        look_up(&parse(text)?, PASSWD, GROUP)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user("www").unwrap(), User { uid: 33, gid: 34, groups: vec![34, 10, 35] });
        assert_eq!(user("33").unwrap(), user("www").unwrap());
        assert_eq!(user("0").unwrap(), User { uid: 0, gid: 0, groups: vec![0, 10, 35] });
        assert_eq!(user("www:web").unwrap(), User { uid: 33, gid: 35, groups: vec![35] });
        assert_eq!(user("5:6").unwrap(), User { uid: 5, gid: 6, groups: vec![6] });
        assert_eq!(user("5").unwrap(), User { uid: 5, gid: 0, groups: vec![0] });
    }

    #[test]
    fn ids_beyond_the_range_and_unknown_names_are_refused() {
        for bad in [
            "2147483648",
            "4294967296",
            "-1",
            "0:2147483648",
            "99999999999999999999",
            "nobody",
            "www:none",
            "huge",
            ":1",
            "1:",
            "a\nb",
        ] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_are_read_inside_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        let tree = windlass_core::tree::open_dir(&root).unwrap();
        assert_eq!(read(tree.as_fd(), "etc/passwd").unwrap(), "");
        std::os::unix::fs::symlink("../../outside", root.join("etc/passwd")).unwrap();
        assert_eq!(read(tree.as_fd(), "etc/passwd").unwrap(), "", "a link ends at the root");
        std::fs::write(root.join("outside"), "inside").unwrap();
        assert_eq!(read(tree.as_fd(), "etc/passwd").unwrap(), "inside");
        std::fs::write(root.join("etc/group"), vec![b'x'; LIMIT as usize + 1]).unwrap();
        assert!(read(tree.as_fd(), "etc/group").unwrap_err().to_string().contains("larger"));
        let fifo = root.join("etc/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read(tree.as_fd(), "etc/fifo").unwrap_err().to_string().contains("regular"));
        assert!(read(tree.as_fd(), "etc").unwrap_err().to_string().contains("regular"));
    }
}
