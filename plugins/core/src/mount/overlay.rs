//! Overlay mounts: any number of layers, ids mapped, attached or not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::options::{Options, attr};
use super::{Failure, Mount, Temp, made_read_only, sys};

/// Longest option string for mount(2): it must fit a page with room to spare.
const MAX_DATA: usize = 4096 - 512;

pub(super) fn mount(
    mount: &Mount,
    options: &Options,
    place: BorrowedFd<'_>,
    user_namespace: Option<&OwnedFd>,
) -> Result<(), Failure> {
    let Some(namespace) = user_namespace else { return Ok(plain(mount, options, place)?) };
    let lowers: Vec<&str> = mount.overlay().into_iter().flat_map(|o| o.lowers()).collect();
    let mapped = Mapped::new(&lowers, namespace)?;
    let mut options = options.clone();
    options.data.retain(|o| !o.starts_with("lowerdir="));
    options.data.push(format!("lowerdir={}", mapped.lowers.join(":")));
    // The overlay holds its layers by itself; the way to them goes when `mapped` does.
    Ok(plain(mount, &options, place)?)
}

fn plain(mount: &Mount, options: &Options, place: BorrowedFd<'_>) -> io::Result<()> {
    let data = options.data.join(",");
    if data.len() < MAX_DATA {
        return sys::classic(&mount.source, place, "overlay", options.flags, &data);
    }
    match new_mount(options) {
        Ok(fd) => sys::attach(fd.as_fd(), place),
        Err(e) => {
            let lowers: Vec<&str> = options
                .data
                .iter()
                .filter_map(|o| o.strip_prefix("lowerdir="))
                .next_back()
                .into_iter()
                .flat_map(|l| l.split(':'))
                .collect();
            tracing::debug!(error = %e, layers = lowers.len(), "no overlay by the new mount API: shortening paths");
            shortened(options, &lowers, place)
        }
    }
}

/// An overlay that is mounted nowhere.
pub(super) fn detached(mount: &Mount) -> io::Result<OwnedFd> {
    let options = Options::parse(&mount.options).map_err(io::Error::other)?;
    new_mount(&options)
}

/// A detached overlay by the new mount API, which takes one layer at a time (since 6.5).
fn new_mount(options: &Options) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = || -> rustix::io::Result<()> {
        fsconfig_set_string(&context, "source", "overlay")?;
        for option in &options.data {
            match option.split_once('=') {
                Some(("lowerdir", lowers)) => {
                    for lower in lowers.split(':') {
                        fsconfig_set_string(&context, "lowerdir+", lower)?;
                    }
                }
                Some((key, value)) => fsconfig_set_string(&context, key, value)?,
                None => fsconfig_set_flag(&context, option.as_str())?,
            }
        }
        if options.has(libc::MS_RDONLY) {
            fsconfig_set_flag(&context, "ro")?;
        }
        fsconfig_create(&context)
    };
    set().map_err(|e| explained(&context, e))?;
    let attributes = MountAttrFlags::from_bits_retain(options.attributes() as u32);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The kernel's own words on why, where it has any.
fn explained(context: &OwnedFd, errno: Errno) -> io::Error {
    let mut said = [0u8; 512];
    match rustix::io::read(context, &mut said) {
        Ok(n) if n > 2 => {
            let text = String::from_utf8_lossy(&said[2..n]);
            io::Error::other(format!("{}: {errno}", text.trim()))
        }
        _ => errno.into(),
    }
}

/// mount(2) from inside the layers' common directory, with names relative to it.
pub(super) fn shortened(options: &Options, lowers: &[&str], place: BorrowedFd<'_>) -> io::Result<()> {
    let base =
        common_directory(lowers).ok_or_else(|| io::Error::other("the layers have no common directory"))?;
    let relative: Vec<&str> = lowers.iter().map(|l| &l[base.len() + 1..]).collect();
    let mut data: Vec<String> =
        options.data.iter().filter(|o| !o.starts_with("lowerdir=")).cloned().collect();
    data.push(format!("lowerdir={}", relative.join(":")));
    let data = data.join(",");
    if data.len() >= 4096 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} layers do not fit a mount call of this kernel (newer ones have no such limit)",
                lowers.len()
            ),
        ));
    }
    std::thread::scope(|scope| {
        // A thread of its own: its working directory is nobody else's, and it ends here.
        let thread = scope.spawn(|| {
            // SAFETY: the thread shares no descriptor table with itself alone; only its file system attributes are
            // unshared, and it ends after this mount.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
            rustix::process::chdir(base)?;
            sys::classic("overlay", place, "overlay", options.flags, &data)
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// The longest directory that all are in, without a slash at its end. `None` where that is the root.
fn common_directory<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let first = *paths.first()?;
    let same = |other: &&str| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let shortest = paths.iter().map(same).min()?;
    let end = first.as_bytes()[..shortest.min(first.len())].iter().rposition(|b| *b == b'/')?;
    (end > 0).then(|| &first[..end])
}

/// The layers' common directory, mounted with ids mapped on a temporary path.
struct Mapped {
    lowers: Vec<String>,
    _temp: Temp,
}

impl Mapped {
    fn new(lowers: &[&str], namespace: &OwnedFd) -> Result<Self, Failure> {
        let base = match lowers {
            [one] => Path::new(one).parent().and_then(Path::to_str),
            many => common_directory(many),
        };
        let base = base.ok_or_else(|| io::Error::other("the layers have no common directory"))?;
        let temp = Temp::empty()?;
        let copy = sys::mapped_copy(Path::new(base), true, attr::RDONLY, Some(namespace))?;
        sys::attach(copy.as_fd(), sys::Place::new(temp.path(), "")?.fd())?;
        let temp = temp.mounted();
        let under = |l: &&str| format!("{}{}", temp.path().display(), &l[base.len()..]);
        Ok(Self { lowers: lowers.iter().map(under).collect(), _temp: temp })
    }
}

/// The same files, read-only.
pub(super) fn read_only(mount: &Mount) -> Mount {
    let Some(overlay) = mount.overlay() else { return made_read_only(mount) };
    let Some(upper) = overlay.upper else { return made_read_only(mount) };
    let dropped = |o: &&String| {
        !["upperdir=", "workdir=", "lowerdir="].iter().any(|p| o.starts_with(p))
            && !["rw", "ro", "volatile"].contains(&o.as_str())
    };
    let mut options: Vec<String> = mount.options.iter().filter(dropped).cloned().collect();
    if overlay.lower.is_empty() {
        options.retain(|o| o.starts_with("uidmap=") || o.starts_with("gidmap="));
        options.extend(["ro".into(), "rbind".into()]);
        return Mount {
            kind: "bind".into(),
            source: upper.to_owned(),
            target: mount.target.clone(),
            options,
        };
    }
    options.push(format!("lowerdir={upper}:{}", overlay.lower));
    Mount { options, ..mount.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_directories_end_at_a_slash() {
        assert_eq!(common_directory(&["/r/s/10/fs", "/r/s/1/fs"]), Some("/r/s"));
        assert_eq!(common_directory(&["/r/s/1/fs", "/r/s/1/fs"]), Some("/r/s/1"));
        assert_eq!(common_directory(&["/a/b", "/c/d"]), None);
        assert_eq!(common_directory(&[]), None);
    }
}
