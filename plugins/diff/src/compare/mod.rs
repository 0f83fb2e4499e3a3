//! Making a layer: what one tree of files has that another has not, as a tar archive.
//!
//! Where the upper mounts are an overlay over just what the lower mounts show, its upper directory alone is read;
//! otherwise both trees are walked side by side.

mod emit;
mod same;
#[cfg(test)]
mod tests;
mod walk;

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use windlass_core::mount::{self, Mount, Tree};
use windlass_core::tree;

use crate::error::{Error, Result};
use crate::media;
use crate::pipe::{Reader, pipe};
use crate::tar;

use emit::Emitter;
use walk::{Mode, walk};

/// How the layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// Of a media type that is asked for, the empty one meaning gzip; *unimplemented* for others.
    pub fn of(media_type: &str) -> windlass_core::Result<(Self, &str)> {
        Ok(match media_type {
            "" | media::LAYER_GZIP => (Self::Gzip, media::LAYER_GZIP),
            media::LAYER => (Self::None, media::LAYER),
            media::LAYER_ZSTD => (Self::Zstd, media::LAYER_ZSTD),
            other => {
                return Err(windlass_core::Error::unimplemented(format!(
                    "unsupported diff media type: {other}"
                )));
            }
        })
    }
}

/// Two trees, opened.
pub struct Trees {
    lower: Option<Tree>,
    upper: Upper,
}

enum Upper {
    Whole(Tree),
    /// The upper directory of an overlay.
    Layer(OwnedFd),
}

impl Trees {
    /// Opens what the mounts show. Blocks. No lower mounts are an empty tree.
    pub fn open(lower: &[Mount], upper: &[Mount]) -> Result<Self> {
        let layer = upper_directory(lower, upper).map(|directory| {
            tree::open_dir(Path::new(directory)).map_err(Error::file("open", directory.as_bytes()))
        });
        let lower = if lower.is_empty() { None } else { Some(mount::open(&mount::read_only(lower))?) };
        let upper = match layer {
            Some(layer) => Upper::Layer(layer?),
            None => Upper::Whole(mount::open(&mount::read_only(upper))?),
        };
        Ok(Self { lower, upper })
    }

    /// Writes the difference as a packed tar to `out`; answers what the tar was before packing. Blocks.
    pub fn write(
        &self,
        packing: Packing,
        not_after: Option<SystemTime>,
        out: &mut dyn Write,
    ) -> Result<windlass_core::diff::Applied> {
        let (writer, reader) = pipe();
        std::thread::scope(|scope| {
            let walking = std::thread::Builder::new().name("compare".into()).spawn_scoped(scope, || {
                let mut emitter = Emitter::new(tar::Writer::new(writer), not_after);
                let (upper, mode) = match &self.upper {
                    Upper::Whole(tree) => (tree.as_fd(), Mode::Whole),
                    Upper::Layer(fd) => (fd.as_fd(), Mode::Layer),
                };
                walk(self.lower.as_ref().map(AsFd::as_fd), upper, mode, &mut emitter)?;
                emitter.finish()?.finish().map_err(Error::Read)
            });
            let walking = walking.map_err(Error::Read)?;
            let packed = pack(reader, packing, out);
            let walked = walking
                .join()
                .unwrap_or_else(|_| Err(Error::Invalid("the comparing thread panicked".into())));
            match (walked, packed) {
                // It only noticed that the other end has gone.
                (Err(walked), Err(packed)) => Err(if packed.is_broken_pipe() { walked } else { packed }),
                (Err(e), Ok(_)) | (Ok(()), Err(e)) => Err(e),
                (Ok(()), Ok(applied)) => Ok(applied),
            }
        })
    }
}

fn pack(mut reader: Reader, packing: Packing, out: &mut dyn Write) -> Result<windlass_core::diff::Applied> {
    let copy = |reader: &mut Reader, to: &mut dyn Write| -> io::Result<()> {
        loop {
            let data = reader.fill_buf()?;
            if data.is_empty() {
                return Ok(());
            }
            to.write_all(data)?;
            let len = data.len();
            reader.consume(len);
        }
    };
    let packed = match packing {
        Packing::None => copy(&mut reader, out),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(&mut *out, flate2::Compression::default());
            copy(&mut reader, &mut encoder).and_then(|()| encoder.finish().map(drop))
        }
        Packing::Zstd => zstd::stream::write::Encoder::new(&mut *out, 0).and_then(|mut encoder| {
            copy(&mut reader, &mut encoder).and_then(|()| encoder.finish().map(drop))
        }),
    };
    packed.map_err(Error::Read)?;
    reader.finish().map_err(Error::Read)
}

/// The upper directory, where the upper mounts are one overlay over exactly what the lower mounts show.
fn upper_directory<'a>(lower: &[Mount], upper: &'a [Mount]) -> Option<&'a str> {
    let ([lower], [upper]) = (lower, upper) else { return None };
    let overlay = upper.overlay()?;
    let special = |m: &Mount| {
        !m.target.is_empty()
            || m.is_mapped()
            || m.has("userxattr")
            || m.value("redirect_dir").is_some()
            || m.value("metacopy").is_some()
    };
    if special(lower) || special(upper) || overlay.lower.is_empty() || !marks_are_plain() {
        return None;
    }
    let same = match lower.overlay() {
        Some(below) => below.upper.is_none() && below.lower == overlay.lower,
        None => lower.is_bind() && lower.source == overlay.lower,
    };
    if same { overlay.upper } else { None }
}

/// Whether overlayfs writes whole files and whole directories by itself: no renamed directories, no files without data.
fn marks_are_plain() -> bool {
    ["redirect_dir", "metacopy"].iter().all(|name| {
        let value = std::fs::read_to_string(format!("/sys/module/overlay/parameters/{name}"));
        value.is_ok_and(|v| v.trim() == "N")
    })
}
