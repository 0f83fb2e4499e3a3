//! The files that a pod's containers share: `hostname`, `hosts`, `resolv.conf`, and shared memory.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use windlass_api::cri;
use windlass_core::{Error, Result};
use windlass_network::namespaces::Mapping;

use super::host_ipc;

/// Bytes of shared memory of a pod.
const SHM_SIZE: u64 = 64 << 20;
/// Longest file of the machine's that is copied.
const MAX_FILE: u64 = 1 << 20;
/// Longest name of a machine.
const MAX_HOSTNAME: usize = 64;

/// Makes a pod's directory and what is in it. Blocks.
pub fn make(dir: &Path, config: &cri::PodSandboxConfig, user: Option<&Mapping>) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
    write(&dir.join("hostname"), format!("{}\n", hostname(config)?).as_bytes())?;
    write(&dir.join("hosts"), &copy(Path::new("/etc/hosts"))?)?;
    let resolver = match resolver(config.dns_config.as_ref())? {
        Some(text) => text.into_bytes(),
        None => copy(Path::new("/etc/resolv.conf"))?,
    };
    write(&dir.join("resolv.conf"), &resolver)?;
    if host_ipc(config) { Ok(()) } else { mount_shm(&dir.join("shm"), user) }
}

/// Takes the mount away and deletes everything. Nothing there is fine. Blocks.
pub fn remove(dir: &Path) -> Result<()> {
    unmount(dir)?;
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("delete {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Takes shared memory away. Blocks.
pub fn unmount(dir: &Path) -> Result<()> {
    let path = dir.join("shm");
    loop {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::io(format!("unmount {}", path.display()), errno.into())),
        }
    }
}

/// The pod's name as its processes see it.
pub fn hostname(config: &cri::PodSandboxConfig) -> Result<String> {
    let name = &config.hostname;
    if name.is_empty() {
        let path = "/proc/sys/kernel/hostname";
        let name = fs::read_to_string(path).map_err(|e| Error::io(format!("read {path}"), e))?;
        return Ok(name.trim().to_owned());
    }
    if name.len() > MAX_HOSTNAME || name.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(Error::invalid(format!(
            "hostname {name:?} must have 1 to {MAX_HOSTNAME} bytes without spaces"
        )));
    }
    Ok(name.clone())
}

/// What `resolv.conf` says; `None` for what the machine's says.
fn resolver(dns: Option<&cri::DnsConfig>) -> Result<Option<String>> {
    let Some(dns) = dns else { return Ok(None) };
    let all = || dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(odd) = all().find(|word| word.contains(['\n', '\r', '\0'])) {
        return Err(Error::invalid(format!("DNS configuration: {odd:?} has a line break")));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// A file of the machine's; empty where it has none.
fn copy(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Ok(read) if read as u64 > MAX_FILE => {
            Err(Error::precondition(format!("{} is larger than {MAX_FILE} bytes", path.display())))
        }
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|e| Error::io(format!("write {}", path.display()), e))
}

fn mount_shm(path: &Path, user: Option<&Mapping>) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("make {}", path.display()), e));
        }
        _ => {}
    }
    let mut data = format!("mode=1777,size={SHM_SIZE}");
    if let Some(mapping) = user {
        let root = |ids: &[windlass_network::namespaces::IdMap]| {
            ids.iter().find(|m| m.container == 0).map(|m| m.host)
        };
        if let (Some(uid), Some(gid)) = (root(&mapping.uids), root(&mapping.gids)) {
            data.push_str(&format!(",uid={uid},gid={gid}"));
        }
    }
    let data = CString::new(data).expect("numbers have no zero bytes");
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("shm", path, "tmpfs", flags, data.as_c_str())
        .map_err(|errno| Error::io(format!("mount shared memory at {}", path.display()), errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_the_pods_or_the_machines() {
        assert_eq!(resolver(None).expect("nothing is wrong"), None);
        assert_eq!(resolver(Some(&cri::DnsConfig::default())).expect("nothing is wrong"), None);
        let dns = cri::DnsConfig {
            servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            searches: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:5".into()],
        };
        let text = "search a.b c\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n";
        assert_eq!(resolver(Some(&dns)).expect("nothing is wrong").as_deref(), Some(text));
        let odd =
            cri::DnsConfig { servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ..Default::default() };
        assert!(resolver(Some(&odd)).is_err());
    }

    #[test]
    fn files_come_and_go() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = temp.path().join("pod");
        let config = cri::PodSandboxConfig { hostname: "box".into(), ..Default::default() };
        make(&dir, &config, None).expect("it can be made");
        assert_eq!(fs::read_to_string(dir.join("hostname")).expect("it is there"), "box\n");
        assert_eq!(fs::read(dir.join("hosts")).ok(), fs::read("/etc/hosts").ok());
        let shm = rustix::fs::statfs(dir.join("shm")).expect("it is there");
        assert_eq!(shm.f_blocks as u64 * shm.f_bsize as u64, SHM_SIZE);
        remove(&dir).expect("it goes");
        remove(&dir).expect("twice is fine");
        assert!(!dir.exists());
    }
}
