//! `windlass cp`
//!
//! A container's files are hostile: every path of it is resolved below its root, which links cannot leave, and only
//! files, directories and links are copied.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use windlass_api::convert::mount;
use windlass_api::types::task::Status;
use windlass_core::mount::Mount;

use crate::client::{Client, Global};
use crate::output;
use crate::run::{record, task};

/// Deepest directory that is copied.
const DEPTH: usize = 512;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass cp web:/etc/nginx/nginx.conf .
  windlass cp site/ web:/www

A directory that is there gets the source into it. Links are copied as links; devices and sockets are left out.")]
pub struct Args {
    /// Where from: a path, or CONTAINER:PATH
    source: String,
    /// Where to: a path, or CONTAINER:PATH
    destination: String,
    /// Keep owners, and set-user-id bits too
    #[arg(long, short)]
    archive: bool,
}

/// One end of a copy.
enum End {
    Here(PathBuf),
    Container(String, PathBuf),
}

fn end(text: &str) -> End {
    match text.split_once(':') {
        // What begins like a path is one.
        Some((id, path)) if !id.is_empty() && !id.contains('/') && !id.starts_with('.') => {
            End::Container(id.to_owned(), PathBuf::from(path))
        }
        _ => End::Here(PathBuf::from(text)),
    }
}

/// Where a container's files are: below a directory of a running process, or in mounts.
enum Files {
    Process(u32),
    Mounts(Vec<Mount>),
}

async fn files(client: &Client, id: &str) -> Result<Files> {
    let record = record::get(client, id).await?;
    match task::get(client, id).await? {
        Some(task) if task.status() != Status::Stopped && task.pid > 0 => Ok(Files::Process(task.pid)),
        _ => {
            let mounts = task::rootfs(client, &record).await?;
            Ok(Files::Mounts(mounts.into_iter().map(mount::from_wire).collect()))
        }
    }
}

/// A root that paths are resolved below, and what keeps it mounted.
struct Root {
    fd: OwnedFd,
    below: bool,
}

impl Root {
    fn here() -> Result<Self> {
        let fd = windlass_core::tree::open_dir(Path::new(".")).context("open the working directory")?;
        Ok(Self { fd, below: false })
    }

    fn of(files: &Files) -> Result<(Self, Option<windlass_core::mount::Tree>)> {
        match files {
            Files::Process(pid) => {
                let path = PathBuf::from(format!("/proc/{pid}/root"));
                let fd = windlass_core::tree::open_dir(&path)
                    .with_context(|| format!("open {}", path.display()))?;
                Ok((Self { fd, below: true }, None))
            }
            Files::Mounts(mounts) => {
                let tree = windlass_core::mount::open(mounts)?;
                let fd = tree.as_fd().try_clone_to_owned().context("open the container's file system")?;
                Ok((Self { fd, below: true }, Some(tree)))
            }
        }
    }

    fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.below {
            let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve)
        } else {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            rustix::fs::openat(CWD, path, flags, Mode::empty())
        }
    }

    /// The directory that a path's last part is in, and that part.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, CString)> {
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let fd = self.directory(parent).with_context(|| format!("open {}", parent.display()))?;
        Ok((fd, c_name(name)?))
    }
}

fn c_name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).context("a path contains a zero byte")
}

/// How much of a file's metadata is kept.
#[derive(Clone, Copy)]
struct Keep {
    archive: bool,
}

impl Keep {
    fn mode(self, stat: &Stat) -> Mode {
        // A program that a container made must not run as somebody else here.
        Mode::from_raw_mode(stat.st_mode & if self.archive { 0o7777 } else { 0o1777 })
    }
}

fn copy_file(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    as_name: &CStr,
    keep: Keep,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&source)?;
    ensure!(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile, "it is no longer a regular file");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, as_name, flags, Mode::RUSR | Mode::WUSR)?;
    let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
    std::io::copy(&mut source, &mut target)?;
    if keep.archive {
        std::os::unix::fs::fchown(&target, Some(stat.st_uid), Some(stat.st_gid))?;
    }
    rustix::fs::fchmod(&target, keep.mode(&stat))?;
    Ok(())
}

/// Removes what a file or link is put in the place of. A directory stays.
fn make_way(at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => bail!("a directory is in its place"),
        Err(error) => Err(error.into()),
    }
}

fn copy(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    as_name: &CStr,
    keep: Keep,
    depth: usize,
) -> Result<()> {
    let shown = || name.to_string_lossy().into_owned();
    ensure!(depth < DEPTH, "{} lies deeper than {DEPTH} directories", shown());
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).with_context(shown)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            make_way(to, as_name)
                .and_then(|()| copy_file(from, name, to, as_name, keep))
                .with_context(shown)?;
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new()).with_context(shown)?;
            make_way(to, as_name).with_context(shown)?;
            rustix::fs::symlinkat(&link, to, as_name).with_context(shown)?;
        }
        FileType::Directory => {
            match rustix::fs::mkdirat(to, as_name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).with_context(shown),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty()).with_context(shown)?;
            let target = rustix::fs::openat(to, as_name, flags, Mode::empty()).with_context(shown)?;
            for entry in Dir::read_from(&source).with_context(shown)? {
                let entry = entry.with_context(shown)?;
                let child = entry.file_name();
                if child != c"." && child != c".." {
                    copy(source.as_fd(), child, target.as_fd(), child, keep, depth + 1)
                        .with_context(shown)?;
                }
            }
            if keep.archive {
                std::os::unix::fs::fchown(&target, Some(stat.st_uid), Some(stat.st_gid))
                    .with_context(shown)?;
            }
            rustix::fs::fchmod(&target, keep.mode(&stat)).with_context(shown)?;
        }
        _ => output::warn(&format!("{}: left out, it is a device, fifo or socket", output::safe(&shown()))),
    }
    Ok(())
}

fn copy_all(source: (&Root, &Path), destination: (&Root, &Path), keep: Keep) -> Result<()> {
    let (from, name) = source.0.parent(source.1)?;
    let (to, as_name) = match destination.0.directory(destination.1) {
        Ok(directory) => (directory, name.clone()),
        Err(_) => destination.0.parent(destination.1)?,
    };
    copy(from.as_fd(), &name, to.as_fd(), &as_name, keep, 0)
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let keep = Keep { archive: args.archive };
    let (source, destination) = (end(&args.source), end(&args.destination));
    let (id, inside, outside, out) = match (source, destination) {
        (End::Container(id, inside), End::Here(outside)) => (id, inside, outside, true),
        (End::Here(outside), End::Container(id, inside)) => (id, inside, outside, false),
        _ => bail!("one end is a container's, written CONTAINER:PATH, the other a path of this machine"),
    };
    let files = files(&client, &id).await?;
    let copied = tokio::task::spawn_blocking(move || {
        let (root, _mounted) = Root::of(&files)?;
        let here = Root::here()?;
        if out {
            copy_all((&root, &inside), (&here, &outside), keep)
        } else {
            copy_all((&here, &outside), (&root, &inside), keep)
        }
    });
    copied.await?.with_context(|| format!("copy {} to {}", args.source, args.destination))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root(path: &Path, below: bool) -> Root {
        Root { fd: windlass_core::tree::open_dir(path).unwrap(), below }
    }

    #[test]
    fn ends_are_told_apart() {
        assert!(matches!(end("web:/x"), End::Container(id, _) if id == "web"));
        assert!(matches!(end("./a:b"), End::Here(_)));
        assert!(matches!(end("/a:b"), End::Here(_)));
        assert!(matches!(end("a"), End::Here(_)));
    }

    #[test]
    fn trees_are_copied_without_leaving_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, out) = (dir.path().join("root"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(&out).unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::fs::write(inside.join("a/b/file"), "yes").unwrap();
        std::fs::set_permissions(inside.join("a/b/file"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("../../secret", inside.join("a/link")).unwrap();
        symlink("../../../../..", inside.join("up")).unwrap();
        let (from, to) = (root(&inside, true), root(&out, false));
        let keep = Keep { archive: false };
        copy_all((&from, Path::new("/a")), (&to, &out), keep).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("a/b/file")).unwrap(), "yes");
        assert_eq!(std::fs::metadata(out.join("a/b/file")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert!(out.join("a/link").symlink_metadata().unwrap().is_symlink());
        assert!(copy_all((&from, Path::new("/up/secret")), (&to, &out), keep).is_err());
        // Into the container, through a link that points out of it.
        std::fs::write(out.join("new"), "new").unwrap();
        symlink(dir.path(), inside.join("abs")).unwrap();
        assert!(copy_all((&to, &out.join("new")), (&from, Path::new("/abs/new")), keep).is_err());
        copy_all((&to, &out.join("new")), (&from, Path::new("/up/new")), keep).unwrap();
        assert!(inside.join("new").exists() && !dir.path().join("new").exists());
        copy_all((&to, &out.join("new")), (&from, Path::new("/a/b/file")), keep).unwrap();
        assert_eq!(std::fs::read_to_string(inside.join("a/b/file")).unwrap(), "new");
    }
}
