//! A checkpoint taken apart: an archive, or the directory of an image that holds what an archive does.
//!
//! It is hostile. Only regular files and directories with the names below are taken, none of them twice, and no more than
//! there is room for; anything else makes the whole checkpoint be refused. What is taken goes into a new directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use serde::Deserialize;
use windlass_core::{Class, Error, Result};

use super::{CHANGES, CONFIG, IMAGES, LOG};
use crate::tar::{Kind, read};

/// Largest description that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Longest name of an image of CRIU's, in bytes.
const MAX_NAME: usize = 128;
/// Most files of an image that holds a checkpoint.
const MAX_FILES: usize = 1 << 16;
/// Without this, it is no checkpoint.
const INVENTORY: &str = "inventory.img";
/// What a runtime writes beside CRIU's images.
const DESCRIPTORS: &str = "descriptors.json";
/// Names that tools write, and that nothing here needs.
const IGNORED: &[&str] = &[
    "spec.dump",
    "status.dump",
    "status",
    "dump.log",
    "restore.log",
    "stats-dump",
    "stats-restore",
    "network.status",
    "bind.mounts",
    "devshm-checkpoint.tar",
    "io.kubernetes.cri-o.LogPath",
    "ctr.log",
];
/// A list of files that were deleted, as other engines write it beside their changes.
const DELETED: &str = "deleted.files";

/// What a checkpoint says of its container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    /// The image it was made of: a name with a digest, or an id.
    #[serde(default)]
    pub(super) rootfs_image_ref: String,
    #[serde(default)]
    pub(super) rootfs_image_name: String,
    #[serde(default)]
    pub(super) checkpointed_time: String,
}

/// What becomes of a member.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// The directory of CRIU's images.
    Images,
    /// It is written to the place of its name.
    Keep,
    /// It is read into memory.
    Config,
    Ignore,
    /// It must say that nothing was deleted.
    Deleted,
}

/// The one table of names. Nothing of a name that is kept leads anywhere else.
fn use_of(name: &str, kind: Kind) -> Result<Use> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let plain = if kind == Kind::Directory { plain.trim_end_matches('/') } else { plain };
    let found = match (plain, kind) {
        ("" | ".", Kind::Directory) => Some(Use::Ignore),
        (IMAGES, Kind::Directory) => Some(Use::Images),
        (CONFIG, Kind::File) => Some(Use::Config),
        (CHANGES | LOG, Kind::File) => Some(Use::Keep),
        (DELETED, Kind::File) => Some(Use::Deleted),
        (other, Kind::File) if IGNORED.contains(&other) => Some(Use::Ignore),
        (other, Kind::File) => {
            let image = other.strip_prefix(IMAGES).and_then(|rest| rest.strip_prefix('/'));
            image.filter(|image| is_image(image)).map(|_| Use::Keep)
        }
        _ => None,
    };
    found.ok_or_else(|| {
        let shown: String = name.chars().take(128).collect();
        Error::invalid(format!("{shown:?} is nothing that a checkpoint has in it"))
    })
}

/// Names that CRIU and runtimes give to the files of a dump.
fn is_image(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name.bytes().all(plain)
        && (name.ends_with(".img") || name == DESCRIPTORS)
}

/// Where the members go.
struct Sink<'a> {
    dir: &'a Path,
    /// Bytes that may still be written.
    room: u64,
    config: Option<Config>,
    inventory: bool,
}

/// Takes an archive apart into the directory `dir`, which is made. Blocks. On an error, some of it may be there.
pub(super) fn unpack_file(archive: &Path, dir: &Path) -> Result<Config> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("checkpoint {} is not there", archive.display())),
        _ => Error::io(format!("open {}", archive.display()), e),
    };
    // Opening a fifo must not wait.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(archive);
    let file = file.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("{} is not a regular file", archive.display())));
    }
    let unpacked = || {
        let mut sink = Sink::new(dir)?;
        let mut reader = read::Reader::new(BufReader::with_capacity(1 << 16, file));
        while let Some(member) = reader.next()? {
            sink.take(&member.name, member.kind, member.size, &mut reader.data())?;
        }
        sink.done()
    };
    unpacked().map_err(|error| error.context(format!("checkpoint {}", archive.display())))
}

/// Takes what an image holds, which is mounted at `root`. Blocks. On an error, some of it may be there.
pub(super) fn unpack_tree(root: &Path, dir: &Path) -> Result<Config> {
    let at = |e: rustix::io::Errno| Error::io("read the checkpoint's image", e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).map_err(at)?;
    let mut sink = Sink::new(dir)?;
    let mut files = 0;
    sink.level(root.as_fd(), "", &mut files)?;
    match rustix::fs::openat(&root, IMAGES, flags, Mode::empty()) {
        Ok(images) => sink.level(images.as_fd(), &format!("{IMAGES}/"), &mut files)?,
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(at(error)),
    }
    sink.done()
}

// === impl Sink ===

impl<'a> Sink<'a> {
    fn new(dir: &'a Path) -> Result<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir.parent().unwrap_or(dir));
        made.and_then(|()| fs::DirBuilder::new().mode(0o700).create(dir))
            .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        let free = rustix::fs::statvfs(dir)
            .map_err(|e| Error::io(format!("statvfs {}", dir.display()), e.into()))?;
        Ok(Self { dir, room: free.f_bavail.saturating_mul(free.f_frsize), config: None, inventory: false })
    }

    fn take(&mut self, name: &str, kind: Kind, size: u64, data: &mut dyn Read) -> Result<()> {
        match use_of(name, kind)? {
            Use::Ignore => Ok(()),
            Use::Images => self.images(),
            Use::Keep => self.keep(name.strip_prefix("./").unwrap_or(name), size, data),
            Use::Config if self.config.is_some() => Err(Error::invalid(format!("{CONFIG} is in it twice"))),
            Use::Config => {
                self.config = Some(json(name, &small(name, size, data)?)?);
                Ok(())
            }
            Use::Deleted => {
                let deleted: Option<Vec<String>> = json(name, &small(name, size, data)?)?;
                match deleted.is_none_or(|files| files.is_empty()) {
                    true => Ok(()),
                    // Going on without would bring them back.
                    false => Err(Error::unimplemented(format!(
                        "it was made by another engine and has deletions in {DELETED}, which are not carried out here"
                    ))),
                }
            }
        }
    }

    /// The directory may be named or not, and it may be named twice.
    fn images(&self) -> Result<()> {
        let path = self.dir.join(IMAGES);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io(format!("make {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, name: &str, size: u64, data: &mut dyn Read) -> Result<()> {
        self.room = self.room.checked_sub(size).ok_or_else(|| {
            Error::new(
                Class::ResourceExhausted,
                format!("there is no room for {name:?} of {size} bytes in {}", self.dir.display()),
            )
        })?;
        if let Some(image) = name.strip_prefix(IMAGES) {
            self.images()?;
            self.inventory |= image.strip_prefix('/') == Some(INVENTORY);
        }
        let path = self.dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| {
            let copied = io::copy(&mut data.take(size), &mut file)?;
            if copied < size { Err(io::ErrorKind::UnexpectedEof.into()) } else { file.flush() }
        });
        written.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::invalid(format!("{name:?} is in it twice")),
            _ => Error::io(format!("write {}", path.display()), e),
        })
    }

    fn done(self) -> Result<Config> {
        if !self.inventory {
            return Err(Error::invalid(format!("it has no {IMAGES}/{INVENTORY}: it is no checkpoint")));
        }
        self.config
            .ok_or_else(|| Error::invalid(format!("it has no {CONFIG}: it is no checkpoint of a container")))
    }

    /// One directory of an image; `prefix` is its name with a slash.
    fn level(&mut self, directory: BorrowedFd<'_>, prefix: &str, files: &mut usize) -> Result<()> {
        let at = |e: rustix::io::Errno| Error::io("read the checkpoint's image", e.into());
        for entry in Dir::read_from(directory).map_err(at)? {
            let entry = entry.map_err(at)?;
            let own = entry.file_name();
            if own == c"." || own == c".." {
                continue;
            }
            *files += 1;
            if *files > MAX_FILES {
                return Err(Error::invalid(format!("it has more than {MAX_FILES} files")));
            }
            let name = format!("{prefix}{}", own.to_string_lossy());
            let stat = rustix::fs::statat(directory, own, AtFlags::SYMLINK_NOFOLLOW).map_err(at)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.take(&name, Kind::Directory, 0, &mut io::empty())?,
                FileType::RegularFile => {
                    let (file, size) = open(directory, own).map_err(at)?;
                    self.take(&name, Kind::File, size, &mut File::from(file))?;
                }
                _ => return Err(Error::invalid(format!("{name:?} is neither a file nor a directory"))),
            }
        }
        Ok(())
    }
}

/// Opens a regular file, as it is.
fn open(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<(OwnedFd, u64), rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    Ok((file, size))
}

fn small(name: &str, size: u64, data: &mut dyn Read) -> Result<Vec<u8>> {
    if size > MAX_CONFIG {
        return Err(Error::invalid(format!("{name:?} is larger than {MAX_CONFIG} bytes")));
    }
    let mut bytes = Vec::new();
    data.take(size).read_to_end(&mut bytes).map_err(|e| Error::io(format!("read {name:?}"), e))?;
    Ok(bytes)
}

fn json<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("parse {name:?}")).with_source(e))
}

/// The media type of the changes of a root file system, which are a layer: engines write it packed or plain.
pub(super) fn layer_type(file: &File) -> io::Result<&'static str> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0)?;
    Ok(match &magic[..read] {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::tar::{BLOCK, header};

    const INFO: &[u8] =
        br#"{"id":"x","rootfsImageRef":"r.io/a@sha256:0","rootfsImageName":"r.io/a:1","new":1}"#;

    /// What a checkpoint has at the least.
    fn good() -> Vec<(&'static str, u8, Vec<u8>)> {
        vec![
            ("checkpoint/", b'5', Vec::new()),
            ("checkpoint/inventory.img", b'0', b"inventory".to_vec()),
            ("checkpoint/pages-1.img", b'0', vec![7; 5000]),
            ("./checkpoint/descriptors.json", b'0', b"[]".to_vec()),
            ("config.dump", b'0', INFO.to_vec()),
            ("spec.dump", b'0', b"{}".to_vec()),
            ("container.log", b'0', b"line\n".to_vec()),
            ("rootfs-diff.tar", b'0', vec![0; 1024]),
        ]
    }

    fn archive(members: &[(&str, u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, flag, data) in members {
            let kind = if *flag == b'5' { Kind::Directory } else { Kind::File };
            let mut block = header(name, data.len() as u64, kind, 0o777);
            block[156] = *flag;
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend_from_slice(&block);
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn unpack(bytes: &[u8]) -> (TempDir, Result<Config>) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x.tar"), bytes).unwrap();
        let unpacked = unpack_file(&root.path().join("x.tar"), &root.path().join("below/restore"));
        (root, unpacked)
    }

    /// All names below a directory, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let below = if path.is_dir() { names(&path) } else { Vec::new() };
            let own = path.file_name().unwrap().to_str().unwrap().to_owned();
            found.extend(below.iter().map(|name| format!("{own}/{name}")));
            found.push(own);
        }
        found.sort();
        found
    }

    #[test]
    fn what_is_needed_of_a_checkpoint_is_taken() {
        use std::os::unix::fs::PermissionsExt;
        let (root, config) = unpack(&archive(&good()));
        let config = config.unwrap();
        assert_eq!(config.rootfs_image_ref, "r.io/a@sha256:0");
        assert_eq!(config.rootfs_image_name, "r.io/a:1");
        let dir = root.path().join("below/restore");
        let expected = [
            "checkpoint",
            "checkpoint/descriptors.json",
            "checkpoint/inventory.img",
            "checkpoint/pages-1.img",
            "container.log",
            "rootfs-diff.tar",
        ];
        assert_eq!(names(&dir), expected);
        assert_eq!(fs::read(dir.join("checkpoint/pages-1.img")).unwrap(), [7; 5000]);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("checkpoint/pages-1.img")), 0o600, "not what the archive says");
    }

    #[test]
    fn a_hostile_member_is_refused_with_its_name_and_nothing_is_written_elsewhere() {
        for (name, flag, word) in [
            ("../escaped", b'0', "nothing that a checkpoint has"),
            ("/tmp/escaped", b'0', "nothing that a checkpoint has"),
            ("checkpoint/../escaped.img", b'0', "nothing that a checkpoint has"),
            ("checkpoint/../../escaped.img", b'0', "nothing that a checkpoint has"),
            ("checkpoint/sub/escaped.img", b'0', "nothing that a checkpoint has"),
            ("checkpoint//escaped.img", b'0', "nothing that a checkpoint has"),
            ("checkpoint/.escaped.img", b'0', "nothing that a checkpoint has"),
            ("checkpoint/escaped.img\n", b'0', "nothing that a checkpoint has"),
            ("checkpoint/escaped.so", b'0', "nothing that a checkpoint has"),
            ("././container.log", b'0', "nothing that a checkpoint has"),
            ("volumes", b'5', "nothing that a checkpoint has"),
            ("config.json", b'0', "nothing that a checkpoint has"),
            ("checkpoint", b'0', "nothing that a checkpoint has"),
            ("rootfs-diff.tar", b'5', "nothing that a checkpoint has"),
            ("checkpoint/pages-2.img", b'2', "is a link"),
            ("checkpoint/pages-2.img", b'1', "is a link"),
            ("checkpoint", b'2', "is a link"),
            ("container.log", b'2', "is a link"),
            ("rootfs-diff.tar", b'6', "fifo"),
            ("checkpoint/tty.img", b'3', "device"),
            ("checkpoint/pages-1.img", b'0', "twice"),
            ("./rootfs-diff.tar", b'0', "twice"),
            ("config.dump", b'0', "twice"),
        ] {
            let mut members = good();
            members.push((name, flag, Vec::new()));
            let (root, unpacked) = unpack(&archive(&members));
            let error = unpacked.unwrap_err();
            assert!(error.is(Class::InvalidArgument), "{name}: {error:?}");
            let said = error.chain();
            let shown = format!("{name:?}");
            assert!(
                said.contains(word) && said.contains(shown.trim_matches('"').trim_start_matches("./")),
                "{said}"
            );
            assert!(!names(root.path()).iter().any(|name| name.contains("escaped")), "{name}");
            assert!(!Path::new("/tmp/escaped").exists());
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_said_to_be_none() {
        let without = |left_out: &str| -> Vec<_> {
            good().into_iter().filter(|(name, ..)| *name != left_out).collect()
        };
        let mut too_large = without("config.dump");
        too_large.push(("config.dump", b'0', vec![b' '; MAX_CONFIG as usize + 1]));
        let mut unreadable = without("config.dump");
        unreadable.push(("config.dump", b'0', b"[1]".to_vec()));
        let mut deletions = good();
        deletions.push(("deleted.files", b'0', br#"["/etc/passwd"]"#.to_vec()));
        for (bytes, word) in [
            (archive(&without("checkpoint/inventory.img")), "checkpoint/inventory.img"),
            (archive(&without("config.dump")), "no config.dump"),
            (archive(&too_large), "larger than"),
            (archive(&unreadable), "parse \"config.dump\""),
            (archive(&deletions), "deletions"),
            (b"\x1f\x8b\x08 packed".repeat(100), "no tar"),
            (Vec::new(), "ends early"),
            (archive(&good())[..3000].to_vec(), "ends early"),
        ] {
            let (_root, unpacked) = unpack(&bytes);
            let said = unpacked.unwrap_err().chain();
            assert!(said.contains(word) && said.contains("x.tar"), "{said}");
        }
        let mut nothing_deleted = good();
        nothing_deleted.push(("deleted.files", b'0', b"[]".to_vec()));
        unpack(&archive(&nothing_deleted)).1.unwrap();
    }

    #[test]
    fn only_a_regular_file_is_an_archive() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("restore");
        let fifo = root.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for bad in [fifo.as_path(), root.path(), Path::new("/dev/zero")] {
            let error = unpack_file(bad, &dir).unwrap_err();
            assert!(error.message().contains("not a regular file"), "{error}");
        }
        assert!(unpack_file(&root.path().join("none"), &dir).unwrap_err().is_not_found());
        assert!(!dir.exists());
    }

    #[test]
    fn what_there_is_no_room_for_is_refused_before_it_is_written() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("restore");
        let mut sink = Sink::new(&dir).unwrap();
        sink.room = 10;
        sink.take("checkpoint/a.img", Kind::File, 8, &mut &[0; 8][..]).unwrap();
        let error = sink.take("checkpoint/b.img", Kind::File, 1 << 40, &mut io::repeat(0)).unwrap_err();
        assert!(error.is(Class::ResourceExhausted) && error.message().contains("b.img"), "{error}");
        assert_eq!(names(&dir), ["checkpoint", "checkpoint/a.img"]);
    }

    #[test]
    fn an_image_is_taken_like_an_archive_and_its_links_are_refused() {
        let tree = || {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("tree/checkpoint")).unwrap();
            for (name, flag, data) in good() {
                if flag == b'0' {
                    fs::write(root.path().join("tree").join(name), data).unwrap();
                }
            }
            root
        };
        let unpack = |root: &TempDir| unpack_tree(&root.path().join("tree"), &root.path().join("restore"));
        let root = tree();
        assert_eq!(unpack(&root).unwrap().rootfs_image_name, "r.io/a:1");
        assert_eq!(fs::read(root.path().join("restore/checkpoint/pages-1.img")).unwrap(), [7; 5000]);

        let secret = |root: &TempDir| {
            fs::write(root.path().join("secret"), "secret").unwrap();
            root.path().join("secret")
        };
        type Spoil = fn(&Path, &Path);
        let spoils: [(Spoil, &str); 5] = [
            (|tree, secret| symlink(secret, tree.join("ctr.log")).unwrap(), "ctr.log"),
            (|tree, secret| symlink(secret, tree.join("checkpoint/a.img")).unwrap(), "checkpoint/a.img"),
            (|tree, _| fs::write(tree.join("passwd"), "").unwrap(), "passwd"),
            (|tree, _| fs::create_dir(tree.join("checkpoint/b.img")).unwrap(), "checkpoint/b.img"),
            (
                |tree, secret| {
                    fs::remove_dir_all(tree.join("checkpoint")).unwrap();
                    symlink(secret.parent().unwrap(), tree.join("checkpoint")).unwrap();
                },
                "\"checkpoint\" is neither",
            ),
        ];
        for (spoil, word) in spoils {
            let root = tree();
            spoil(&root.path().join("tree"), &secret(&root));
            let error = unpack(&root).unwrap_err();
            assert!(error.is(Class::InvalidArgument) && error.message().contains(word), "{word}: {error}");
            let kept = root.path().join("restore");
            assert!(
                names(&kept).iter().all(|name| fs::read(kept.join(name)).map_or(true, |b| b != b"secret"))
            );
        }
    }

    #[test]
    fn changes_are_packed_or_plain() {
        let root = tempfile::tempdir().unwrap();
        for (bytes, suffix) in
            [(&b"\x1f\x8b\x08"[..], "+gzip"), (b"\x28\xb5\x2f\xfd", "+zstd"), (b"", ".tar")]
        {
            fs::write(root.path().join("x"), bytes).unwrap();
            let file = File::open(root.path().join("x")).unwrap();
            assert!(layer_type(&file).unwrap().ends_with(suffix));
        }
    }
}
