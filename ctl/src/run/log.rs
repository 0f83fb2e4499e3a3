//! The output of detached containers: one file each, written by the shim, followed by us.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::stream::unique;

/// Label: where the output of a container goes when nobody is attached.
pub const LABEL: &str = "windlass/log-uri";

/// Directory of all log files.
pub fn base() -> PathBuf {
    match std::env::var_os("WINDLASS_LOG_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from("/var/log/windlass"),
    }
}

/// A new log's path. Names are used again, also by other daemons on this machine: each container has a file of its own.
pub fn new_file(namespace: &str, id: &str) -> PathBuf {
    let digest = windlass_core::Digest::of(unique(id).as_bytes());
    let short = digest.encoded().get(..8).unwrap_or_default();
    base().join(namespace).join(format!("{id}-{short}.log"))
}

/// Makes the directory of a log that will be written.
pub fn make_room(uri: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(file) = file(uri).filter(|f| f.starts_with(base())) else { return Ok(()) };
    let Some(dir) = file.parent() else { return Ok(()) };
    let mut make = std::fs::DirBuilder::new();
    make.recursive(true).mode(0o700).create(dir).with_context(|| format!("make {}", dir.display()))
}

/// The file behind a log URI; `None` for a logger that is a program.
pub fn file(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("file://")?.split('?').next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Removes a log that [`new_file`] named. Labels can be written by anybody: nothing outside our directory is touched.
pub fn remove(uri: &str) {
    let (Some(file), base) = (file(uri), base()) else { return };
    let plain = file.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if plain && file.strip_prefix(&base).is_ok_and(|rest| rest.components().count() == 2) {
        // Gone already is fine; what cannot be removed is only a log.
        let _ = std::fs::remove_file(&file);
        if let Some(dir) = file.parent() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// A log that is being read.
pub struct Reader {
    path: PathBuf,
    file: File,
    at: u64,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!(
                    "there is no log at {}: the container has written nothing, or went to a terminal",
                    path.display()
                )
            }
            file => file.with_context(|| format!("open log {}", path.display()))?,
        };
        let meta = file.metadata().with_context(|| format!("open log {}", path.display()))?;
        if meta.file_type().is_fifo() || !meta.is_file() {
            bail!("log {} is not a regular file (mode {:o})", path.display(), meta.mode());
        }
        Ok(Self { path: path.to_owned(), file, at: 0 })
    }

    /// Goes to where the last `lines` lines begin.
    pub fn tail(&mut self, lines: usize) -> Result<()> {
        const BLOCK: u64 = 64 * 1024;
        let about = || format!("read log {}", self.path.display());
        let end = self.file.seek(SeekFrom::End(0)).with_context(about)?;
        let (mut begin, mut left) = (end, lines);
        let mut block = vec![0; BLOCK as usize];
        self.at = 0;
        'back: while begin > 0 {
            let count = begin.min(BLOCK);
            begin -= count;
            self.file.seek(SeekFrom::Start(begin)).with_context(about)?;
            let part = &mut block[..count as usize];
            self.file.read_exact(part).with_context(about)?;
            for (at, byte) in part.iter().enumerate().rev() {
                // The newline that ends the last line does not begin one.
                if *byte == b'\n' && begin + at as u64 + 1 != end {
                    if left <= 1 {
                        self.at = begin + at as u64 + 1;
                        break 'back;
                    }
                    left -= 1;
                }
            }
        }
        if lines == 0 {
            self.at = end;
        }
        self.file.seek(SeekFrom::Start(self.at)).with_context(about)?;
        Ok(())
    }

    /// Reads on; `None` where nothing more is there. A log that was cut short is read from its beginning.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        let about = || format!("read log {}", self.path.display());
        let count = self.file.read(buffer).with_context(about)?;
        self.at += count as u64;
        if count > 0 {
            return Ok(Some(&buffer[..count]));
        }
        if self.file.metadata().with_context(about)?.len() < self.at {
            self.at = self.file.seek(SeekFrom::Start(0)).with_context(about)?;
        }
        Ok(None)
    }

    /// Tells when more is there.
    pub fn watch(&self) -> Result<Watch> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .context("watch the log")?;
        inotify::add_watch(&fd, &self.path, inotify::WatchFlags::MODIFY).context("watch the log")?;
        // SAFETY: the `OwnedFd` moves in, stays what it is and is closed only with the `AsyncFd`.
        let registered = unsafe { AsyncFd::register(fd) };
        Ok(Watch(registered.map_err(std::io::Error::from).context("watch the log")?))
    }
}

/// Changes of a file.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Waits until the file has changed since the last time.
    pub async fn changed(&self) -> Result<()> {
        let mut ready = self.0.readable().await.context("watch the log")?;
        let mut events = [0; 4096];
        // How often it changed does not matter.
        while rustix::io::read(self.0.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reader: &mut Reader) -> String {
        let mut buffer = [0; 7];
        let mut all = Vec::new();
        while let Some(part) = reader.read(&mut buffer).unwrap() {
            all.extend_from_slice(part);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn the_last_lines_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (content, lines, want) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            std::fs::write(&path, content).unwrap();
            let mut reader = Reader::open(&path).unwrap();
            reader.tail(lines).unwrap();
            assert_eq!(text(&mut reader), want, "{content:?} {lines}");
        }
        let long = "x".repeat(200_000);
        std::fs::write(&path, format!("a\n{long}\nb\n")).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        reader.tail(2).unwrap();
        assert_eq!(text(&mut reader), format!("{long}\nb\n"));
    }

    #[tokio::test]
    async fn what_is_added_is_noticed_and_a_cut_log_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let watch = reader.watch().unwrap();
        assert_eq!(text(&mut reader), "one");
        std::fs::write(&path, "2").unwrap();
        watch.changed().await.unwrap();
        assert_eq!(text(&mut reader), "");
        assert_eq!(text(&mut reader), "2");
    }

    #[test]
    fn only_files_are_logs_and_only_ours_are_removed() {
        assert_eq!(file("file:///a/b"), Some(PathBuf::from("/a/b")));
        assert_eq!(file("binary:///a"), None);
        assert_eq!(file("file://a"), None);
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        std::fs::write(&keep, "x").unwrap();
        remove(&format!("file://{}", keep.display()));
        remove(&format!("file:///var/log/windlass/x/../../..{}", keep.display()));
        assert!(keep.exists());
        assert!(Reader::open(dir.path()).is_err());
    }
}
