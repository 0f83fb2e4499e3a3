//! Whom an image knows: its `/etc/passwd` and `/etc/group`, kept by the image, so that its root file system is opened for
//! its first container alone.
//!
//! What is kept is small and bounded; an image whose files are larger is read anew each time.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::MemfdFlags;
use windlass_core::mount::{self, Mount};

use super::volumes::plain;
use crate::spec::Rootfs;

/// Images that are remembered.
const IMAGES: usize = 64;
/// Longest file that is remembered, in bytes.
const LONGEST: u64 = 32 << 10;
const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// The files of one image; `None` where it has none.
type Known = Arc<[Option<Vec<u8>>; 2]>;

/// Files of images by their chain ids, the most recent ones.
#[derive(Default)]
pub struct Users(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    known: HashMap<String, Known>,
    order: VecDeque<String>,
}

impl Users {
    /// What is known of an image.
    pub fn of(&self, chain: &str) -> Option<Image> {
        let known = self.lock().known.get(chain).cloned()?;
        Some(Image { known: Some(known), mounts: Vec::new(), tree: OnceLock::new() })
    }

    /// Reads the files out of mounts that show an image and nothing else, and keeps them where they are small enough. Blocks.
    pub fn read(&self, chain: &str, rootfs: &[Mount]) -> Image {
        let mut image = Image { known: None, mounts: plain(rootfs), tree: OnceLock::new() };
        if let Ok(known) = image.files() {
            let known: Known = Arc::new(known);
            image.known = Some(known.clone());
            let mut inner = self.lock();
            if inner.known.insert(chain.to_owned(), known).is_none() {
                inner.order.push_back(chain.to_owned());
            }
            while inner.order.len() > IMAGES {
                if let Some(oldest) = inner.order.pop_front() {
                    inner.known.remove(&oldest);
                }
            }
        }
        image
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds the users")
    }
}

/// The root file system of an image, as far as it is needed.
pub struct Image {
    known: Option<Known>,
    mounts: Vec<Mount>,
    tree: OnceLock<(mount::Tree, crate::spec::Tree)>,
}

impl Image {
    fn files(&self) -> io::Result<[Option<Vec<u8>>; 2]> {
        Ok([self.small(FILES[0])?, self.small(FILES[1])?])
    }

    /// A small regular file's content; an error for any other.
    fn small(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.within(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut content = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }

    fn within(&self, path: &str) -> io::Result<File> {
        if self.tree.get().is_none() {
            if self.mounts.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let mounted = mount::open(&self.mounts).map_err(|error| io::Error::other(error.chain()))?;
            let root = mounted.as_fd().try_clone_to_owned()?;
            // Somebody else's may have come first, which is as good.
            let _ = self.tree.set((mounted, root.into()));
        }
        let (_, tree) = self.tree.get().expect("it was set above");
        tree.open(path)
    }
}

impl Rootfs for Image {
    fn open(&self, path: &str) -> io::Result<File> {
        let index = FILES.iter().position(|file| *file == path);
        let (Some(known), Some(index)) = (&self.known, index) else { return self.within(path) };
        let content = known[index].as_deref().ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::from(rustix::fs::memfd_create("users", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn rootfs(dir: &std::path::Path) -> [Mount; 1] {
        [Mount {
            kind: "bind".into(),
            source: dir.to_str().unwrap().into(),
            target: String::new(),
            options: vec!["rbind".into()],
        }]
    }

    fn text(image: &Image, path: &str) -> io::Result<String> {
        let mut text = String::new();
        image.open(path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn an_image_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "root:x:0:0").unwrap();
        let users = Users::default();
        assert!(users.of("a").is_none());
        assert_eq!(text(&users.read("a", &rootfs(dir.path())), FILES[0]).unwrap(), "root:x:0:0");
        fs::remove_dir_all(dir.path().join("etc")).unwrap();
        let again = users.of("a").unwrap();
        for _ in 0..2 {
            assert_eq!(text(&again, FILES[0]).unwrap(), "root:x:0:0");
        }
        assert_eq!(text(&again, FILES[1]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn large_files_and_many_images_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "x".repeat(LONGEST as usize + 1)).unwrap();
        let users = Users::default();
        let image = users.read("big", &rootfs(dir.path()));
        assert_eq!(text(&image, FILES[0]).unwrap().len() as u64, LONGEST + 1);
        assert!(users.of("big").is_none());
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        for n in 0..=IMAGES {
            users.read(&n.to_string(), &rootfs(dir.path()));
        }
        assert!(users.of("0").is_none() && users.of("1").is_some());
    }
}
