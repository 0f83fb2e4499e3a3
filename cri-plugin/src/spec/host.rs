//! Facts about this machine, found out once at start.

use std::fs;
use std::path::Path;

use windlass_core::capability;

/// What this machine, and this daemon on it, can do.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Control groups are of version 2 alone.
    pub cgroup_v2: bool,
    /// Options of the host's cgroup mount that another mount of it must repeat, or the host would lose them.
    pub cgroup_options: Vec<String>,
    pub apparmor: bool,
    pub selinux: bool,
    pub seccomp: bool,
    /// The daemon's own score.
    pub oom_score_adj: i64,
    /// The lowest that its children can be given.
    pub min_oom_score_adj: i64,
    /// Control groups limit swap.
    pub swap: bool,
    pub userns: bool,
    /// Control groups limit huge pages.
    pub hugetlb: bool,
    /// The capabilities that the daemon has: all that it can give.
    pub capabilities: Vec<String>,
    /// A mount can be made read-only with all below it.
    pub rro_mounts: bool,
    pub idmap_mounts: bool,
    pub hostname: String,
}

impl Host {
    /// Blocks for some file reads. The daemon's own OOM score is lowered for a moment to see whether that is allowed.
    pub fn detect() -> Self {
        let status = read("/proc/self/status");
        let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let recent = release(&read("/proc/sys/kernel/osrelease")) >= (5, 12);
        let (oom_score_adj, min_oom_score_adj) = oom_scores("/proc/self/oom_score_adj");
        if min_oom_score_adj > -1000 {
            tracing::warn!(
                lowest = min_oom_score_adj,
                "OOM scores cannot be lowered here (CAP_SYS_RESOURCE is missing); lower ones that pods ask for are raised"
            );
        }
        Self {
            cgroup_v2,
            cgroup_options: if cgroup_v2 { cgroup_options(&read("/proc/self/mounts")) } else { Vec::new() },
            apparmor: apparmor(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            seccomp: field(&status, "Seccomp").is_some(),
            oom_score_adj,
            min_oom_score_adj,
            swap: swap(cgroup_v2),
            userns: Path::new("/proc/self/ns/user").exists()
                && read("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0_u64) > 0,
            hugetlb: hugetlb(cgroup_v2),
            capabilities: field(&status, "CapEff").map(capabilities).unwrap_or_default(),
            rro_mounts: recent && sets_mounts(),
            idmap_mounts: recent && sets_mounts(),
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }

    /// A score that can be set: what was asked for, or the lowest there is.
    pub fn clamp_oom_score_adj(&self, asked: i64, restrict: bool) -> i64 {
        let lowest = if restrict { self.oom_score_adj } else { self.min_oom_score_adj };
        asked.max(lowest).clamp(-1000, 1000)
    }
}

/// Whether `mount_setattr` can be called: a filter of system calls may keep a recent kernel from it.
fn sets_mounts() -> bool {
    // SAFETY: neither pointer is followed: the size of nought is refused before anything is read.
    let answer = unsafe {
        libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0_usize)
    };
    let error = std::io::Error::last_os_error().raw_os_error();
    answer == 0 || !matches!(error, Some(libc::ENOSYS | libc::EPERM))
}

/// Empty where there is nothing to read: a feature that the kernel does not tell of is one that it does not have.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn capabilities(mask: &str) -> Vec<String> {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    let held = capability::ALL.iter().enumerate().filter(|(bit, _)| mask & 1 << bit != 0);
    held.map(|(_, name)| (*name).to_owned()).collect()
}

fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn cgroup_options(mounts: &str) -> Vec<String> {
    let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let own = all.rfind(|fields| fields.get(1) == Some(&"/sys/fs/cgroup"));
    let options = own.and_then(|fields| fields.get(3).copied()).unwrap_or_default();
    let kept = options.split(',').filter(|o| matches!(*o, "nsdelegate" | "memory_recursiveprot"));
    kept.map(str::to_owned).collect()
}

fn apparmor() -> bool {
    Path::new("/sys/kernel/security/apparmor").exists()
        && std::env::var_os("container").is_none()
        && super::apparmor::parser().is_some()
        && read("/sys/module/apparmor/parameters/enabled").starts_with('Y')
}

fn swap(v2: bool) -> bool {
    if !v2 {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root group has no such file, so that any group below it has to tell.
    let root = Path::new("/sys/fs/cgroup");
    let own = read("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(root.join(own)).chain(below).any(|group| group.join("memory.swap.max").exists())
}

fn hugetlb(v2: bool) -> bool {
    if v2 {
        read("/sys/fs/cgroup/cgroup.controllers").split_whitespace().any(|c| c == "hugetlb")
    } else {
        Path::new("/sys/fs/cgroup/hugetlb").is_dir()
    }
}

/// The own score and the lowest that can be had, found by trying: what a capability is worth depends on where it
/// comes from.
fn oom_scores(path: &str) -> (i64, i64) {
    let own = read(path).trim().parse().unwrap_or(0);
    if own == -1000 {
        return (own, own);
    }
    if fs::write(path, "-1000").is_err() {
        return (own, own);
    }
    if let Err(error) = fs::write(path, own.to_string()) {
        tracing::error!(%error, "the daemon's own OOM score could not be put back");
    }
    (own, -1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(release("6.18.0-cloud\n"), (6, 18));
        assert_eq!(release("5.4"), (5, 4));
        assert_eq!(release(""), (0, 0));
        assert_eq!(field("Name:\tx\nCapEff:\t0000000000000003\n", "CapEff"), Some("0000000000000003"));
        assert_eq!(capabilities("0000000000000003"), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate,memory_recursiveprot 0 0\n";
        assert_eq!(cgroup_options(mounts), ["nsdelegate", "memory_recursiveprot"]);
    }

    #[test]
    fn scores_are_raised_to_what_is_possible() {
        let host = Host { oom_score_adj: -200, min_oom_score_adj: -500, ..Host::default() };
        assert_eq!(host.clamp_oom_score_adj(-998, false), -500);
        assert_eq!(host.clamp_oom_score_adj(-998, true), -200);
        assert_eq!(host.clamp_oom_score_adj(300, true), 300);
        assert_eq!(host.clamp_oom_score_adj(5000, false), 1000);
    }

    #[test]
    fn this_machine_is_found_out_and_left_as_it_was() {
        let before = read("/proc/self/oom_score_adj");
        let host = Host::detect();
        assert_eq!(read("/proc/self/oom_score_adj"), before);
        assert!(host.seccomp && host.min_oom_score_adj <= host.oom_score_adj);
        assert!(host.capabilities.iter().any(|c| c == "CAP_SYS_ADMIN"), "tests are run by root");
    }
}
