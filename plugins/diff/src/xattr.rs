//! Extended attributes of what is open.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Longest list and longest value that the kernel has.
const MAX: usize = 64 << 10;

/// A path to an entry of an open directory, for calls that know no descriptors; its last part must not be followed.
pub fn path_of(directory: BorrowedFd<'_>, name: &[u8]) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    CString::new(path).expect("names of members hold no zero byte")
}

/// Names of all attributes of the entry at `path`, itself not followed.
pub fn list(path: &CStr) -> rustix::io::Result<Vec<CString>> {
    match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(e) => return Err(e),
    }
    let mut names = vec![0u8; MAX];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    let each = names[..len].split_inclusive(|b| *b == 0);
    Ok(each.filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned)).collect())
}

/// The value of one attribute, `None` where it is not there.
pub fn get(path: &CStr, name: &CStr) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = [0u8; 256];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(len) => Ok(Some(value[..len].to_vec())),
        Err(Errno::RANGE) => {
            let mut value = vec![0u8; MAX];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Copies all attributes but `trusted.` ones.
pub fn copy(from: impl AsFd, to: impl AsFd) -> rustix::io::Result<()> {
    let (from, to) = (path_of(from.as_fd(), b"."), to.as_fd());
    for name in list(&from)? {
        if name.to_bytes().starts_with(b"trusted.") {
            continue;
        }
        if let Some(value) = get(&from, &name)? {
            match rustix::fs::fsetxattr(to, &*name, &value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
