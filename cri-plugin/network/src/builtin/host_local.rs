//! The addresses of a network that are given away, in host-local's own form: a file for each, named by the address, that
//! says whose it is. Under the same lock, so that the plugin and the built-in can serve one network side by side.
//!
//! These functions block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::Problem;
use super::file;
use super::ranges::{Range, after};
use crate::cni::Net;

const LAST: &str = "last_reserved_ip.";
/// Between container and interface.
const SEPARATOR: &str = "\r\n";
/// Of a file that says whose an address is.
const MAX_FILE: u64 = 4096;
const PAUSE: Duration = Duration::from_millis(2);

/// A network's addresses; nobody else changes them as long as this lives.
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

/// Whose an address is.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    pub container: &'a str,
    pub interface: &'a str,
}

impl Owner<'_> {
    /// Releases of old wrote the container alone.
    fn is(self, text: &str) -> bool {
        match text.trim_end().split_once(SEPARATOR) {
            Some((container, interface)) => container == self.container && interface == self.interface,
            None => text.trim() == self.container,
        }
    }
}

impl Store {
    /// Waits for whoever holds the lock, but no longer than `limit`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel has no lock on files that is waited for with a limit"
    )]
    pub fn open(data_dir: &Path, network: &str, limit: Duration) -> Result<Self, Problem> {
        let dir = data_dir.join(network);
        fs::create_dir_all(&dir).map_err(file("make", &dir))?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let lock = options.open(&path).map_err(file("open", &path))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { dir, _lock: lock }),
                // A blocking lock could not be given up.
                Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < limit => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(Problem::Locked(path)),
                Err(errno) => return Err(file("lock", &path)(errno.into())),
            }
        }
    }

    /// Takes a free address of one of the ranges: `number` is the set's place in the configuration.
    pub fn reserve(&self, number: usize, set: &[Range], owner: Owner<'_>) -> Result<(Net, IpAddr), Problem> {
        let last_path = self.dir.join(format!("{LAST}{number}"));
        let last = read(&last_path).ok().and_then(|text| text.trim().parse().ok());
        for (range, ip) in after(set, last) {
            if !self.take(ip, owner)? {
                continue;
            }
            // A hint for the next one and no more.
            if let Err(error) = fs::write(&last_path, ip.to_string()) {
                tracing::debug!(path = %last_path.display(), %error, "the last address is not remembered");
            }
            return Ok((range.net(ip), range.gateway));
        }
        let words: Vec<_> = set.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
        Err(Problem::Full(words.join(", ")))
    }

    fn take(&self, ip: IpAddr, owner: Owner<'_>) -> Result<bool, Problem> {
        let path = self.dir.join(ip.to_string());
        let mut options = OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o644).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match nobodys(&path) {
                Some(file) => file,
                None => return Ok(false),
            },
            Err(error) => return Err(super::file("make", &path)(error)),
        };
        let text = format!("{}{SEPARATOR}{}", owner.container, owner.interface);
        match file.write_all(text.as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(super::file("write", &path)(error))
            }
        }
    }

    /// Gives back what an owner has. `likely` are looked at first; only where they are not its are all looked through.
    pub fn release(&self, owner: Owner<'_>, likely: &[IpAddr]) -> Result<(), Problem> {
        let paths = likely.iter().map(|ip| self.dir.join(ip.to_string()));
        let own: Vec<_> = paths.filter(|path| read(path).is_ok_and(|text| owner.is(&text))).collect();
        if !own.is_empty() && own.len() == likely.len() {
            return own.iter().try_for_each(|path| remove(path));
        }
        self.remove_all(|text| owner.is(text))
    }

    /// Whether nobody has an address.
    pub fn is_empty(&self) -> Result<bool, Problem> {
        Ok(self.addresses()?.is_empty())
    }

    fn remove_all(&self, goes: impl Fn(&str) -> bool) -> Result<(), Problem> {
        for path in self.addresses()? {
            if read(&path).is_ok_and(|text| goes(&text)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn addresses(&self) -> Result<Vec<PathBuf>, Problem> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file("list", &self.dir))? {
            let entry = entry.map_err(file("list", &self.dir))?;
            if entry.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok()) {
                all.push(entry.path());
            }
        }
        Ok(all)
    }
}

/// A file that somebody made and did not come to write: it would belong to nobody for ever.
fn nobodys(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.len() == 0).then_some(file)
}

fn remove(path: &Path) -> Result<(), Problem> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("delete", path)(error)),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = String::new();
    opened.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn set() -> Vec<Range> {
        let subnet = serde_json::from_value("10.1.0.0/29".into()).unwrap();
        vec![Range::new(subnet, "", "", "").unwrap()]
    }

    fn owner(container: &str) -> Owner<'_> {
        Owner { container, interface: "eth0" }
    }

    fn reserve(store: &Store, container: &str) -> String {
        store.reserve(0, &set(), owner(container)).unwrap().0.ip.to_string()
    }

    #[test]
    fn files_are_those_of_host_local() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "net", LIMIT).unwrap();
        let (net, gateway) = store.reserve(0, &set(), owner("pod1")).unwrap();
        assert_eq!(
            (net.ip.to_string(), net.prefix, gateway.to_string()),
            ("10.1.0.2".into(), 29, "10.1.0.1".into())
        );
        let text = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(text("10.1.0.2"), "pod1\r\neth0");
        assert_eq!(text("last_reserved_ip.0"), "10.1.0.2");
    }

    #[test]
    fn an_address_is_given_back_by_its_owner_alone_and_not_at_once_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "net", LIMIT).unwrap();
        assert_eq!(reserve(&store, "a"), "10.1.0.2");
        assert_eq!(reserve(&store, "b"), "10.1.0.3");
        // Not b's: everything is looked through, and only what is b's goes.
        store.release(owner("b"), &["10.1.0.2".parse().unwrap()]).unwrap();
        store.release(owner("b"), &[]).unwrap();
        assert_eq!(reserve(&store, "c"), "10.1.0.4", "not the one that has just become free");
        assert!(dir.path().join("net/10.1.0.2").exists() && !dir.path().join("net/10.1.0.3").exists());
        for container in ["d", "e", "f"] {
            reserve(&store, container);
        }
        let full = store.reserve(0, &set(), owner("g")).unwrap_err();
        assert!(full.to_string().contains("10.1.0.1-10.1.0.6"), "{full}");
        for container in ["c", "d", "e", "f"] {
            store.release(owner(container), &[]).unwrap();
        }
        assert!(!store.is_empty().unwrap());
        store.release(owner("a"), &["10.1.0.2".parse().unwrap()]).unwrap();
        assert!(store.is_empty().unwrap());
    }

    #[test]
    fn what_an_old_release_wrote_is_understood_and_what_is_none_of_its_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "net", LIMIT).unwrap();
        let path = |name: &str| dir.path().join("net").join(name);
        fs::write(path("10.1.0.2"), "").unwrap();
        assert_eq!(reserve(&store, "pod2"), "10.1.0.2", "whoever made it died before it was written");
        fs::write(path("10.1.0.5"), "pod1\n").unwrap();
        fs::write(path("notes"), "pod1\r\neth0").unwrap();
        std::os::unix::fs::symlink(path("notes"), path("10.1.0.6")).unwrap();
        store.release(owner("pod1"), &[]).unwrap();
        assert!(!path("10.1.0.5").exists() && path("notes").exists() && path("10.1.0.6").is_symlink());
    }

    #[test]
    fn a_lock_that_is_held_for_ever_is_not_waited_for_so_long() {
        let dir = tempfile::tempdir().unwrap();
        let held = Store::open(dir.path(), "net", LIMIT).unwrap();
        let refused = Store::open(dir.path(), "net", Duration::from_millis(20)).err();
        assert!(matches!(refused, Some(Problem::Locked(_))), "{refused:?}");
        drop(held);
        Store::open(dir.path(), "net", LIMIT).unwrap();
    }
}
