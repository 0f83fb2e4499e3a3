//! Committed blobs, opened.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use windlass_core::{Digest, Error, Result, content};

/// Reads up to this size stay on the runtime's worker: a page cache hit is faster than a change of threads.
const INLINE: usize = 64 << 10;

pub struct Blob {
    file: Arc<File>,
    size: u64,
    name: String,
}

impl Blob {
    pub fn open(path: &Path, digest: &Digest) -> Result<Self> {
        let opened = File::open(path).and_then(|file| file.metadata().map(|meta| (file, meta.size())));
        match opened {
            Ok((file, size)) => Ok(Self { file: Arc::new(file), size, name: digest.to_string() }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("content {digest}")))
            }
            Err(e) => Err(Error::io(format!("open content {digest}"), e)),
        }
    }
}

#[async_trait]
impl content::Blob for Blob {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let done = if len <= INLINE {
            read(&self.file, offset, len)
        } else {
            let file = self.file.clone();
            let task = tokio::task::spawn_blocking(move || read(&file, offset, len));
            task.await.unwrap_or_else(|_| Err(std::io::Error::other("the reading thread panicked")))
        };
        done.map_err(|e| Error::io(format!("read content {}", self.name), e))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// Reads until `len` bytes are there or the file ends.
fn read(file: &File, offset: u64, len: usize) -> std::io::Result<Bytes> {
    let mut data: Vec<u8> = Vec::with_capacity(len);
    while data.len() < len {
        let at = offset + data.len() as u64;
        // Exactly what is missing: the allocation may be larger.
        let missing = len - data.len();
        let spare = &mut data.spare_capacity_mut()[..missing];
        let (read, _) = match rustix::io::pread(file, spare, at) {
            Ok((read, rest)) => (read.len(), rest.len()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        if read == 0 {
            break;
        }
        // SAFETY: the kernel has just initialised this many bytes after the vector's end.
        unsafe { data.set_len(data.len() + read) };
    }
    Ok(data.into())
}
