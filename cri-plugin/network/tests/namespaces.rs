//! Namespaces without a process: made, entered, kept apart, and gone without a trace. Needs root.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_core::Class;
use windlass_network::Result;
use windlass_network::namespaces::{self, Held, IdMap, Mapping, Wanted};

const LIMIT: Duration = Duration::from_secs(5);
const ALL: Wanted<'static> =
    Wanted { net: true, ipc: true, uts: true, user: None, join_user: None, hostname: None, sysctls: &[] };

fn scratch() -> TempDir {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    tempfile::tempdir().unwrap()
}

fn inode(path: impl AsRef<Path>) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn mapping() -> Mapping {
    Mapping {
        uids: vec![IdMap { container: 0, host: 200_000, size: 65_536 }],
        gids: vec![IdMap { container: 0, host: 300_000, size: 65_536 }],
    }
}

/// What a command says inside.
fn nsenter(held: &Held, command: &str) -> String {
    let mut nsenter = Command::new("nsenter");
    for (flag, path) in [("--net", held.net()), ("--ipc", held.ipc()), ("--uts", held.uts())] {
        nsenter.arg(format!("{flag}={}", path.display()));
    }
    if namespaces::is_namespace(&held.user()) {
        nsenter.arg(format!("--user={}", held.user().display()));
    }
    let output = nsenter.args(["sh", "-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The user namespace that owns another.
fn owner(path: &Path) -> u64 {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: NS_GET_USERNS takes no argument and answers with a new descriptor.
    let fd = unsafe { libc::ioctl(file.as_raw_fd(), 0xb701) };
    assert!(fd >= 0);
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::fs::fstat(fd.as_fd()).unwrap().st_ino
}

#[tokio::test]
async fn a_pod_has_its_own() -> Result<()> {
    let dir = scratch();
    let sysctls = [
        ("net.ipv4.ip_local_port_range".to_owned(), "2000\t3000".to_owned()),
        ("net/ipv4/ping_group_range".to_owned(), "0 0".to_owned()),
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ("fs.mqueue.msg_max".to_owned(), "12".to_owned()),
    ];
    let wanted = Wanted { hostname: Some("pod-one"), sysctls: &sysctls, ..ALL };
    let held = namespaces::create(&dir.path().join("ns"), wanted).await?;
    for (kind, path) in [("net", held.net()), ("ipc", held.ipc()), ("uts", held.uts())] {
        assert!(namespaces::is_namespace(&path));
        assert_ne!(inode(path), inode(format!("/proc/self/ns/{kind}")));
    }
    assert!(!namespaces::is_namespace(&held.user()));
    assert_eq!(nsenter(&held, "uname -n"), "pod-one");
    let read = "cd /proc/sys; cat net/ipv4/ip_local_port_range net/ipv4/ping_group_range kernel/shm_rmid_forced \
                fs/mqueue/msg_max";
    assert_eq!(nsenter(&held, read), "2000 3000 0 0 1 12");
    let host = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    assert_eq!(host.trim(), "0", "the machine's own has not been touched");
    namespaces::remove(&held.dir).await?;
    assert!(!held.dir.exists());
    Ok(())
}

#[tokio::test]
async fn loopback_is_up_and_can_be_reached() -> Result<()> {
    let dir = scratch();
    let held = namespaces::create(&dir.path().join("ns"), Wanted { net: true, ..Wanted::default() }).await?;
    assert!(!held.ipc().exists() && !held.uts().exists());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let v4: TcpListener =
        namespaces::inside(&held.net(), || TcpListener::bind("127.0.0.1:0").unwrap()).await?;
    let v6: TcpListener = namespaces::inside(&held.net(), || TcpListener::bind("[::1]:0").unwrap()).await?;
    for listener in [v4, v6] {
        let port = port(&listener);
        let serve = tokio::task::spawn_blocking(move || {
            let (mut peer, from) = listener.accept().unwrap();
            std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
            from
        });
        let mut stream = namespaces::connect(&held.net(), port, LIMIT).await?;
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echo = String::new();
        stream.read_to_string(&mut echo).await.unwrap();
        assert_eq!(echo, "hello");
        assert!(serve.await.unwrap().ip().is_loopback());
        // And only there.
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(namespaces::connect(&held.net(), port, LIMIT).await.is_err());
    }
    namespaces::remove(&held.dir).await
}

#[tokio::test]
async fn a_user_namespace_owns_the_others() -> Result<()> {
    let dir = scratch();
    let sysctls = [
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ("fs.mqueue.msg_max".to_owned(), "12".to_owned()),
    ];
    let wanted = Wanted { user: Some(mapping()), hostname: Some("mapped"), sysctls: &sysctls, ..ALL };
    let held = namespaces::create(&dir.path().join("a"), wanted).await?;
    for path in [held.net(), held.ipc(), held.uts()] {
        assert_eq!(owner(&path), inode(held.user()));
    }
    assert_eq!(nsenter(&held, "cat /proc/self/uid_map /proc/self/gid_map"), "0 200000 65536 0 300000 65536");
    assert_eq!(nsenter(&held, "cat /proc/self/setgroups"), "allow");
    assert_eq!(nsenter(&held, "uname -n; id -u"), "mapped 0");
    let read =
        "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_unprivileged_port_start fs/mqueue/msg_max";
    assert_eq!(nsenter(&held, read), "1 80 12");
    // The process that made them has not left its mark on this one.
    assert_eq!(rustix::process::dumpable_behavior().unwrap(), rustix::process::DumpableBehavior::Dumpable);
    assert!(rustix::process::geteuid().is_root() && rustix::process::getegid().is_root());

    // Another pod's in the same one.
    let user = held.user();
    let wanted = Wanted { join_user: Some(&user), sysctls: &sysctls, ..ALL };
    let joined = namespaces::create(&dir.path().join("b"), wanted).await?;
    assert!(!joined.user().exists());
    assert_eq!(owner(&joined.net()), inode(held.user()));
    assert_ne!(inode(joined.net()), inode(held.net()));
    assert_eq!(rustix::process::dumpable_behavior().unwrap(), rustix::process::DumpableBehavior::Dumpable);
    namespaces::remove(&joined.dir).await?;
    namespaces::remove(&held.dir).await
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = scratch();
    let path = dir.path().join("ns");
    let list = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    let (other, shared) = (list("vm.swappiness", "1"), list("net.ipv4.ip_forward", "1"));
    let overlap = IdMap { container: 10, host: 1, size: 10 };
    let twice = Mapping { uids: vec![overlap, overlap], gids: mapping().gids };
    for (wanted, class) in [
        (Wanted { hostname: Some(""), ..ALL }, Class::InvalidArgument),
        (Wanted { hostname: Some("x"), ..Wanted::default() }, Class::InvalidArgument),
        (Wanted { sysctls: &other, ..ALL }, Class::InvalidArgument),
        (Wanted { sysctls: &shared, ipc: true, ..Wanted::default() }, Class::InvalidArgument),
        (Wanted { user: Some(Mapping::default()), ..ALL }, Class::InvalidArgument),
        (Wanted { user: Some(mapping()), join_user: Some(&path), ..ALL }, Class::InvalidArgument),
        (Wanted { sysctls: &list("net.no.such", "1"), ..ALL }, Class::Unknown),
        (Wanted { sysctls: &list("net.ipv4.ip_forward", "many"), ..ALL }, Class::Unknown),
        (Wanted { user: Some(mapping()), sysctls: &list("kernel.sem", "x"), ..ALL }, Class::Unknown),
        (Wanted { user: Some(twice), ..ALL }, Class::Unknown),
        (Wanted { join_user: Some(Path::new("/proc/self/ns/net")), ..ALL }, Class::Unknown),
    ] {
        let said = format!("{wanted:?}");
        let error = namespaces::create(&path, wanted).await.unwrap_err();
        assert_eq!(error.class(), class, "{said}: {error}");
        assert!(!path.exists(), "{said}");
    }
    let missing = dir.path().join("no/such");
    assert!(namespaces::create(&missing, ALL).await.is_err());
    assert!(namespaces::inside(dir.path(), || ()).await.is_err());
    assert!(namespaces::connect(&path, 80, LIMIT).await.is_err());
}

#[tokio::test]
async fn half_of_it_and_what_a_boot_left() -> Result<()> {
    let dir = scratch();
    let path = dir.path().join("ns");
    namespaces::remove(&path).await?;
    let held = namespaces::create(&path, Wanted { net: true, uts: true, ..Wanted::default() }).await?;
    // A second must not take the first's place.
    let before = inode(held.net());
    assert_eq!(namespaces::create(&path, ALL).await.unwrap_err().class(), Class::AlreadyExists);
    assert_eq!(inode(held.net()), before);
    assert!(!held.ipc().exists());
    // Held open and mounted twice: it goes all the same.
    let open = std::fs::File::open(held.net()).unwrap();
    rustix::mount::mount_bind(held.net(), held.net()).unwrap();
    namespaces::remove(&path).await?;
    namespaces::remove(&path).await?;
    drop(open);
    // After a boot there are plain files.
    std::fs::create_dir(&path).unwrap();
    for file in [held.net(), held.ipc()] {
        std::fs::write(&file, "").unwrap();
        assert!(!namespaces::is_namespace(&file));
    }
    namespaces::create(&path, ALL).await?;
    assert!(namespaces::is_namespace(&held.net()) && namespaces::is_namespace(&held.uts()));
    // What somebody else put there stays, and so does the directory.
    std::fs::write(path.join("note"), "").unwrap();
    namespaces::remove(&path).await?;
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    Ok(())
}
