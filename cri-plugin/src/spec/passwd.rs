//! `/etc/passwd` and `/etc/group` of an image, line by line and with bounds: their author is unknown.

use std::io::{self, BufRead, BufReader, Read};

use super::error::{Error, Result};
use super::rootfs::Rootfs;

/// Real files are a thousand times smaller.
const MAX_FILE: u64 = 10 << 20;
/// Groups list their members on one line.
const MAX_LINE: u64 = 256 << 10;

/// A line of `/etc/passwd`, as far as it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
}

/// Whom to look for.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    Id(u32),
    Name(&'a str),
}

/// The first account that matches; `None` also where there is no file.
pub fn account(root: &dyn Rootfs, key: Key<'_>) -> Result<Option<Account>> {
    let mut found = None;
    let mut wrong = None;
    each_line(root, "/etc/passwd", |line| {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(_), Some(uid), Some(gid)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return true;
        };
        let uid = number(uid);
        let matches = match key {
            Key::Id(id) => uid == Some(id),
            Key::Name(wanted) => name == wanted.as_bytes(),
        };
        if !matches {
            return true;
        }
        // An account that is broken is not taken for root's.
        match (uid, number(gid)) {
            (Some(uid), Some(gid)) => found = Some(Account { name: name.to_vec(), uid, gid }),
            _ => wrong = Some(String::from_utf8_lossy(name).into_owned()),
        }
        false
    })?;
    match wrong {
        Some(name) => Err(Error::Invalid(format!(
            "/etc/passwd of the image: ids of {name:?} are no ids below 2147483648"
        ))),
        None => Ok(found),
    }
}

/// The id of the first group of that name.
pub fn group(root: &dyn Rootfs, wanted: &str) -> Result<Option<u32>> {
    let mut found = None;
    each_group(root, |name, gid, _| {
        if name == wanted.as_bytes() {
            found = Some(gid);
        }
        found.is_none()
    })?;
    match found {
        Some(None) => Err(Error::Invalid(format!(
            "/etc/group of the image: the id of {wanted:?} is no id below 2147483648"
        ))),
        Some(gid) => Ok(gid),
        None => Ok(None),
    }
}

/// The ids of the groups that list a user as member, but for one that has the user's own name.
pub fn memberships(root: &dyn Rootfs, user: &[u8]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    if user.is_empty() {
        return Ok(found);
    }
    each_group(root, |name, gid, members| {
        if name != user
            && members.split(|&b| b == b',').any(|m| m.trim_ascii() == user)
            && let Some(gid) = gid
        {
            found.push(gid);
        }
        true
    })?;
    Ok(found)
}

fn each_group(root: &dyn Rootfs, mut take: impl FnMut(&[u8], Option<u32>, &[u8]) -> bool) -> Result<()> {
    each_line(root, "/etc/group", |line| {
        let mut fields = line.split(|&b| b == b':');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(_), Some(gid)) => take(name, number(gid), fields.next().unwrap_or_default()),
            _ => true,
        }
    })
}

/// An id as runtimes take it: at most 2^31 - 1.
fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id <= i32::MAX as u32)
}

/// Hands over lines until `take` wants no more. No file is no lines.
fn each_line(root: &dyn Rootfs, path: &str, mut take: impl FnMut(&[u8]) -> bool) -> Result<()> {
    let failed = |source| Error::Io { operation: "read the image's", path: path.into(), source };
    let file = match root.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Error::Unsupported(format!(
                "{path} of the image is a symbolic link that leads nowhere"
            )));
        }
        Err(e) => return Err(failed(e)),
    };
    let mut reader = BufReader::new(file.take(MAX_FILE + 1));
    let mut line = Vec::new();
    let mut total = 0;
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)? as u64;
        total += read;
        if total > MAX_FILE || (read == MAX_LINE && line.last() != Some(&b'\n')) {
            return Err(Error::Unsupported(format!(
                "{path} of the image is too large: {MAX_FILE} bytes are possible, and {MAX_LINE} in a line"
            )));
        }
        if read == 0 {
            return Ok(());
        }
        let trimmed = line.trim_ascii();
        if !trimmed.is_empty() && trimmed[0] != b'#' && !take(trimmed) {
            return Ok(());
        }
    }
}
