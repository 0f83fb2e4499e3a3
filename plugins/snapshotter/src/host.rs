//! What the machine can do.

use std::path::Path;

use windlass_core::Error;

/// Whether this process lives in a user namespace other than the first.
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let first: Vec<&str> = map.split_whitespace().collect();
    first != ["0", "0", "4294967295"]
}

/// The kernel's version, major and minor.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Whether overlayfs takes idmapped layers (since 5.19).
pub fn maps_overlays() -> bool {
    kernel() >= (5, 19)
}

/// Whether overlayfs must keep its marks in `user.` attributes: it does inside a user namespace (since 5.11), but tmpfs
/// has no such attributes.
pub fn needs_user_xattr(root: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    let on_tmpfs = rustix::fs::statfs(root).is_ok_and(|s| s.f_type as u64 == TMPFS);
    in_user_namespace() && !on_tmpfs && kernel() >= (5, 11)
}

/// Whether overlayfs knows the option `index`.
pub fn knows_index() -> bool {
    Path::new("/sys/module/overlay/parameters/index").exists()
}

/// Refuses a file system that overlayfs cannot use, and a path that its options cannot say.
pub fn check_root(root: &Path) -> Result<(), Error> {
    let text = root.to_str().ok_or_else(|| Error::invalid(format!("snapshot root {root:?} is not UTF-8")))?;
    if text.contains([',', ':', '\\']) {
        return Err(Error::invalid(format!(
            "snapshot root {text:?} has a comma, a colon or a backslash, which overlay mounts cannot name: move it"
        )));
    }
    if !knows_types(root).map_err(|e| Error::io(format!("probe {text}"), e))? {
        return Err(Error::precondition(format!(
            "{text} does not support d_type: overlayfs needs it (xfs: format it with ftype=1)"
        )));
    }
    Ok(())
}

/// Whether directory entries tell what they are.
fn knows_types(root: &Path) -> std::io::Result<bool> {
    // Any directory does: `.` and `..` are entries.
    let directory = rustix::fs::Dir::new(windlass_core::tree::open_dir(root)?)?;
    for entry in directory {
        if entry?.file_type() == rustix::fs::FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}
