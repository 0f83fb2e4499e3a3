//! Where a layer goes, and in which form deletions are written there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use windlass_core::mount::{self, Mount, Temp};
use windlass_core::tree;

use crate::error::{Error, Result};

/// How deletions are carried out.
pub enum Form {
    /// The files go.
    Plain,
    /// In an overlay's upper directory: whiteout devices and opaque attributes.
    Overlay { opaque: &'static std::ffi::CStr, prefix: &'static [u8], lowers: Vec<OwnedFd> },
}

impl Form {
    /// Whether it is the layer of an overlay whose parent is not known yet.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Overlay { lowers, .. } if lowers.is_empty())
    }

    /// Layers below, uppermost first: directories that the archive does not name look as they do there.
    pub fn lowers(&self) -> &[OwnedFd] {
        match self {
            Self::Plain => &[],
            Self::Overlay { lowers, .. } => lowers,
        }
    }
}

/// The directory that a layer is applied to, open.
pub struct Target {
    root: OwnedFd,
    path: PathBuf,
    form: Form,
    _temp: Option<Temp>,
}

impl Target {
    /// Opens what `mounts` write to: an overlay's upper directory and a bind's source without mounting anything, else a
    /// temporary mount.
    pub fn open(mounts: &[Mount]) -> Result<Self> {
        match mounts {
            [] => return Err(Error::Invalid("there are no mounts to apply it to".into())),
            [mount] if mount.target.is_empty() => {
                if let Some(overlay) = mount.overlay()
                    && let Some(upper) = overlay.upper
                    && !in_user_namespace()
                {
                    let lowers = overlay.lowers().map(|l| open(Path::new(l))).collect::<Result<_>>()?;
                    let form = if mount.has("userxattr") {
                        Form::Overlay { opaque: c"user.overlay.opaque", prefix: b"user.overlay.", lowers }
                    } else {
                        Form::Overlay {
                            opaque: c"trusted.overlay.opaque",
                            prefix: b"trusted.overlay.",
                            lowers,
                        }
                    };
                    return Self::at(Path::new(upper), form);
                }
                if mount.is_bind() && !mount.is_mapped() && !mount.has("ro") {
                    return Self::at(Path::new(&mount.source), Form::Plain);
                }
            }
            _ => {}
        }
        let temp = mount::temp(mounts)?;
        let path = temp.path().to_owned();
        Ok(Self { root: open(&path)?, path, form: Form::Plain, _temp: Some(temp) })
    }

    fn at(path: &Path, form: Form) -> Result<Self> {
        Ok(Self { root: open(path)?, path: path.to_owned(), form, _temp: None })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn form(&self) -> &Form {
        &self.form
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    tree::open_dir(path).map_err(Error::file("open", path.as_os_str().as_encoded_bytes()))
}

/// Whether this process lives in a user namespace other than the first: then there are no devices.
pub fn in_user_namespace() -> bool {
    static INSIDE: OnceLock<bool> = OnceLock::new();
    *INSIDE.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}
