//! Whether mounts that come later on the host reach a container, and the other way round: only from a mount that shares.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use windlass_api::cri::MountPropagation;

use super::error::{Error, Result, invalid};

/// The option for the mount and what the root's propagation must at least be. Fails when the mount that `source` lies
/// on does not share.
pub fn check(source: &Path, asked: i32) -> Result<(&'static str, Option<&'static str>)> {
    let asked = match MountPropagation::try_from(asked) {
        Ok(MountPropagation::PropagationPrivate) => return Ok(("rprivate", None)),
        Ok(other) => other,
        Err(_) => return invalid(format!("mount propagation {asked} is not known")),
    };
    let (place, tags) = mount_of(source)?;
    let shared = tags.iter().any(|t| t.starts_with("shared:"));
    let slave = tags.iter().any(|t| t.starts_with("master:"));
    match asked {
        MountPropagation::PropagationBidirectional if shared => Ok(("rshared", Some("rshared"))),
        MountPropagation::PropagationBidirectional => invalid(format!(
            "path {:?} is mounted on {place:?} but it is not a shared mount",
            source.display()
        )),
        _ if shared || slave => Ok(("rslave", Some("rslave"))),
        _ => invalid(format!(
            "path {:?} is mounted on {place:?} but it is not a shared or slave mount",
            source.display()
        )),
    }
}

/// The stronger of two: what goes both ways goes one way, too.
pub fn stronger(a: Option<&'static str>, b: Option<&'static str>) -> Option<&'static str> {
    if a == Some("rshared") { a } else { b.or(a) }
}

/// Where the mount is that a path lies on, and its tags.
fn mount_of(path: &Path) -> Result<(String, Vec<String>)> {
    let failed = |e: std::io::Error| Error::io("find the mount of", path)(e);
    let file =
        openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(e.into()))?;
    let id = statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|e| failed(e.into()))?
        .stx_mnt_id;
    let own = "/proc/self/mountinfo";
    let lines = BufReader::new(File::open(own).map_err(Error::io("open", own))?).lines();
    for line in lines {
        let line = line.map_err(Error::io("read", own))?;
        if let Some(found) = parse(&line, id) {
            return Ok(found);
        }
    }
    Err(failed(std::io::ErrorKind::NotFound.into()))
}

/// `id parent device root place options tags... - ...`, see proc_pid_mountinfo(5).
fn parse(line: &str, id: u64) -> Option<(String, Vec<String>)> {
    let mut fields = line.split(' ');
    if fields.next()?.parse() != Ok(id) {
        return None;
    }
    let place = fields.nth(3)?.to_owned();
    let tags = fields.skip(1).take_while(|f| *f != "-").map(str::to_owned).collect();
    Some((place, tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_number() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let (place, tags) = parse(line, 36).unwrap();
        assert_eq!((place.as_str(), tags), ("/mnt2", vec!["master:1".to_owned(), "shared:2".to_owned()]));
        assert_eq!(parse("36 35 98:0 / / rw - ext3 x rw", 36).unwrap().1, Vec::<String>::new());
        assert!(parse(line, 35).is_none());
    }

    #[test]
    fn both_ways_is_stronger() {
        assert_eq!(stronger(None, Some("rslave")), Some("rslave"));
        assert_eq!(stronger(Some("rshared"), Some("rslave")), Some("rshared"));
        assert_eq!(stronger(Some("rslave"), Some("rshared")), Some("rshared"));
        assert_eq!(stronger(Some("rslave"), None), Some("rslave"));
    }
}
