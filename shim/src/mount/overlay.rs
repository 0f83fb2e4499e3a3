//! Overlay mounts: layer by layer over the new mount interface, or in one text of a page at most over `mount(2)`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::options::Options;
use crate::error::{Context, Error, Result};

/// `mount(2)` takes one page, with the final zero.
const PAGE: usize = 4096;

pub fn mount(options: &Options, target: &Path) -> Result<()> {
    if modern(options, target).is_ok() {
        return Ok(());
    }
    // What the kernel dislikes about the mount itself it says here once more, in its usual words.
    classic(options, target)
}

fn modern(options: &Options, target: &Path) -> rustix::io::Result<()> {
    move_mount(make(options)?, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A detached overlay.
pub fn make(options: &Options) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                // Escaped or data-only layers have another syntax, which the classic way knows.
                if layers.contains('\\') || layers.contains("::") {
                    return Err(rustix::io::Errno::INVAL);
                }
                for layer in layers.split(':') {
                    fsconfig_set_string(&context, "lowerdir+", layer)?;
                }
            }
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ] {
        if options.flags.contains(flag) {
            attributes |= attribute;
        }
    }
    if options.flags.contains(MountFlags::RDONLY) {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

pub fn classic(options: &Options, target: &Path) -> Result<()> {
    let data = options.data.join(",");
    if data.len() < PAGE {
        return call(options, &data, target).at("mount overlay at", target);
    }
    // Layers of one snapshotter share their directory: with it as the working directory their names are short.
    let layers = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let too_long =
        || Error::invalid(format!("overlay has too many layers for this kernel: {} bytes", data.len()));
    let common = common_dir(layers).ok_or_else(too_long)?;
    let short: Vec<String> = options
        .data
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(layers) => {
                let layers: Vec<&str> = layers.split(':').map(|layer| &layer[common.len() + 1..]).collect();
                format!("lowerdir={}", layers.join(":"))
            }
            None => option.clone(),
        })
        .collect();
    let short = short.join(",");
    if short.len() >= PAGE {
        return Err(too_long());
    }
    let here = std::env::current_dir().at("find directory", ".")?;
    let target = if target.is_absolute() { target.to_owned() } else { here.join(target) };
    rustix::process::chdir(common).at("enter", common)?;
    let result = call(options, &short, &target).at("mount overlay at", &target);
    rustix::process::chdir(&here).at("enter", here)?;
    result
}

fn call(options: &Options, data: &str, target: &Path) -> rustix::io::Result<()> {
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount("overlay", target, "overlay", options.flags, data.as_c_str())
}

/// The longest directory that all layers are below.
pub fn common_dir(layers: &str) -> Option<&str> {
    let mut layers = layers.split(':');
    let first = layers.next()?;
    let mut end = first.rfind('/')?;
    for layer in layers {
        while !(layer.starts_with(&first[..end]) && layer.as_bytes().get(end) == Some(&b'/')) {
            end = first[..end].rfind('/')?;
        }
    }
    (end > 0).then_some(&first[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_directory_of_layers() {
        assert_eq!(common_dir("/s/1/fs:/s/22/fs:/s/3/fs"), Some("/s"));
        assert_eq!(common_dir("/s/1/fs:/s/10/fs"), Some("/s"));
        assert_eq!(common_dir("/a/fs:/b/fs"), None);
    }

    #[test]
    fn hundreds_of_layers_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let layers: Vec<String> = (0..150)
            .map(|number| {
                let layer = dir.path().join(format!("layer-with-a-rather-long-name-{number}"));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("f{number}")), "").unwrap();
                layer.display().to_string()
            })
            .collect();
        let options = Options { data: vec![format!("lowerdir={}", layers.join(":"))], ..Options::default() };
        modern(&options, &target).unwrap();
        assert!(target.join("f149").exists());
        crate::mount::unmount_all(&target).unwrap();
        let few =
            Options { data: vec![format!("lowerdir={}", layers[..80].join(":"))], ..Options::default() };
        classic(&few, &target).unwrap();
        assert!(target.join("f79").exists());
        crate::mount::unmount_all(&target).unwrap();
    }
}
