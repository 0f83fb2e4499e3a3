//! SELinux: the labels of a container's processes and files. Where SELinux is off, by configuration or on the machine,
//! there are none, and what a pod asks for is passed over once its form is right, as containerd does.

use std::fs;
use std::path::Path;

use rustix::fs::XattrFlags;
use windlass_api::cri;

use super::error::{Error, Result, invalid};
use super::host::Host;
use super::settings::Settings;

/// Labels, empty where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub process: String,
    pub mount: String,
}

/// The labels of a container or pod. Categories follow from the pod's id, so that the containers of a pod share them.
pub fn labels(
    host: &Host,
    settings: &Settings,
    pod: &str,
    container: Option<&cri::SeLinuxOption>,
    of_pod: Option<&cri::SeLinuxOption>,
) -> Result<Labels> {
    for options in [container, of_pod].into_iter().flatten() {
        check(options)?;
    }
    if !(host.selinux && settings.config.enable_selinux) {
        return Ok(Labels::default());
    }
    let contexts = contexts();
    let asked = container.filter(|o| **o != cri::SeLinuxOption::default()).or(of_pod);
    let level = categories(pod, settings.config.selinux_category_range);
    Ok(Labels {
        process: label(&contexts.0, asked, &level, true),
        mount: label(&contexts.1, asked, &level, false),
    })
}

fn check(options: &cri::SeLinuxOption) -> Result<()> {
    let word = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    for part in [&options.user, &options.role, &options.r#type] {
        if !word(part) {
            return invalid(format!("{part:?} is no part of an SELinux label"));
        }
    }
    if !options.level.is_empty() && !valid_level(&options.level) {
        return invalid(format!("the format of 'level' {:?} is not correct", options.level));
    }
    Ok(())
}

/// `s0`, `s0-s1`, `s0:c1,c2.c5`.
fn valid_level(level: &str) -> bool {
    let numbered = |text: &str, letter: char, most: usize| {
        text.strip_prefix(letter)
            .is_some_and(|n| (1..=most).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (sensitivity, categories) = match level.split_once(':') {
        Some((s, c)) => (s, Some(c)),
        None => (level, None),
    };
    let mut ends = sensitivity.split('-');
    ends.clone().count() <= 2
        && ends.all(|s| numbered(s, 's', 1))
        && categories.is_none_or(|all| {
            all.split(',').all(|range| {
                let mut ends = range.split('.');
                ends.clone().count() <= 2 && ends.all(|c| numbered(c, 'c', 4))
            })
        })
}

/// The contexts that the distribution gives containers: of processes and of files.
fn contexts() -> (String, String) {
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy = config.lines().find_map(|l| l.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    let path = format!("/etc/selinux/{}/contexts/lxc_contexts", policy.trim());
    let text = fs::read_to_string(path).unwrap_or_default();
    let find = |key: &str, otherwise: &str| {
        let value = text.lines().filter_map(|l| l.split_once('=')).find(|(k, _)| k.trim() == key);
        value.map_or(otherwise.to_owned(), |(_, v)| v.trim().trim_matches('"').to_owned())
    };
    (
        find("process", "system_u:system_r:container_t:s0"),
        find("file", "system_u:object_r:container_file_t:s0"),
    )
}

/// Two categories, in order, the same for the same pod.
fn categories(pod: &str, range: u32) -> String {
    let range = u64::from(range.clamp(2, 1024));
    // FNV-1a: the same in every version of this program.
    let hash = pod.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let first = hash % range;
    let second = (first + 1 + (hash >> 32) % (range - 1)) % range;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

fn label(base: &str, asked: Option<&cri::SeLinuxOption>, level: &str, process: bool) -> String {
    let mut parts: Vec<&str> = base.splitn(4, ':').collect();
    parts.resize(4, "");
    parts[3] = level;
    let given = |value: fn(&cri::SeLinuxOption) -> &String| asked.map(value).filter(|v| !v.is_empty());
    // Role and type are of processes; files keep theirs.
    let of_process = |value| given(value).filter(|_| process);
    for (at, value) in [
        (0, given(|o| &o.user)),
        (1, of_process(|o| &o.role)),
        (2, of_process(|o| &o.r#type)),
        (3, given(|o| &o.level)),
    ] {
        if let Some(value) = value {
            parts[at] = value;
        }
    }
    parts.join(":")
}

/// Directories whose labels are the whole system's.
const SYSTEM: [&str; 13] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var", "/tmp",
];
const MAX_DEPTH: usize = 64;

/// Gives a file, or a directory and all in it, a label. Does nothing without one.
pub fn relabel(path: &Path, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    if SYSTEM.iter().any(|s| Path::new(s) == path) {
        return invalid(format!("{} is the system's, it cannot be given a label of its own", path.display()));
    }
    walk(path, label, 0)
}

fn walk(path: &Path, label: &str, depth: usize) -> Result<()> {
    match rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty()) {
        // File systems that have no labels, and files that have just gone.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT | rustix::io::Errno::ROFS) => {}
        Err(e) => return Err(Error::io("label", path)(e)),
    }
    let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if !is_dir || depth == MAX_DEPTH {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        walk(&entry.map_err(Error::io("list", path))?.path(), label, depth + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(user: &str, r#type: &str, level: &str) -> cri::SeLinuxOption {
        cri::SeLinuxOption {
            user: user.into(),
            r#type: r#type.into(),
            level: level.into(),
            ..Default::default()
        }
    }

    #[test]
    fn levels_have_a_form() {
        for good in ["s0", "s0-s1", "s0:c1", "s0:c1,c1023", "s0:c1.c5,c7", "s0-s0:c0.c1023"] {
            assert!(valid_level(good), "{good}");
        }
        for wrong in ["", "0", "s10", "s0:", "s0:c", "s0:c12345", "s0:c1.c2.c3", "s0:c1,", "s0-s1-s2", "s0 "]
        {
            assert!(!valid_level(wrong), "{wrong}");
        }
    }

    #[test]
    fn where_it_is_off_there_are_no_labels() {
        let run = |o: &cri::SeLinuxOption, host: &Host, settings: &Settings| {
            labels(host, settings, "pod", Some(o), None)
        };
        let (off, on) = (Settings::default(), Settings::with(|config, _| config.enable_selinux = true));
        let host = Host { selinux: true, ..Host::default() };
        let asked = options("u", "t", "s0");
        assert_eq!(run(&asked, &host, &off).unwrap(), Labels::default());
        assert_eq!(run(&asked, &Host::default(), &on).unwrap(), Labels::default());
        assert!(run(&options("", "", "x"), &Host::default(), &off).is_err());
        assert!(run(&options("a:b", "", ""), &Host::default(), &off).is_err());
        let labels = run(&asked, &host, &on).unwrap();
        assert!(labels.process.starts_with("u:") && labels.process.ends_with(":t:s0"), "{labels:?}");
    }

    #[test]
    fn labels_are_put_together() {
        let base = "system_u:system_r:container_t:s0";
        assert_eq!(label(base, None, "s0:c1,c2", true), "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(
            label(base, Some(&options("", "x_t", "")), "s0:c1,c2", true),
            "system_u:system_r:x_t:s0:c1,c2"
        );
        assert_eq!(
            label(base, Some(&options("", "x_t", "s0:c9")), "-", false),
            "system_u:system_r:container_t:s0:c9"
        );
        let level = categories("pod", 1024);
        assert!(valid_level(&level) && level == categories("pod", 1024), "{level}");
        assert!(valid_level(&categories("pod", 0)));
    }
}
