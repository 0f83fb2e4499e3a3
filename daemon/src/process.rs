//! What the daemon asks of the kernel for itself: memory arenas, file limit, out-of-memory score, cgroup.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit};

use crate::config::Settings;

/// glibc makes an arena per thread, and each keeps what was freed in it.
const ARENAS: i32 = 2;
/// Blocks of this size and more go back to the kernel when they are freed.
const MAPPED: i32 = 128 << 10;

/// Keeps glibc's allocator small. Before any thread is started.
pub fn restrain_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator and takes any values.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED);
    }
}

/// Gives memory that is free back to the kernel.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the code that only the start needed. Code pages are files' pages: the kernel keeps them as long as it has room
/// and maps those that run again, a few at a time.
pub fn forget_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(mode), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let of_a_file = fields.nth(2).is_some_and(|path| path.starts_with('/'));
        let bounds = range.split_once('-').and_then(|(from, to)| {
            Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
        });
        // Code, and the constants that a program's file begins with; nothing that the loader may have written to.
        let clean = mode == "r-xp" || (mode == "r--p" && offset == "00000000");
        if clean
            && of_a_file
            && let Some((from, to)) = bounds
        {
            // SAFETY: the range is a mapping of a file that nobody writes to, so every page of it can be had again from the
            // file; a thread that runs in it takes a fault and goes on.
            unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
        }
    }
}

/// Sets `TMPDIR` for this process and its children. Before any thread is started.
pub fn set_temp(settings: &Settings) {
    if !settings.temp.as_os_str().is_empty() {
        // SAFETY: the process has one thread yet, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var("TMPDIR", &settings.temp) };
    }
}

/// Everything here makes the daemon's life better and is not worth refusing to start for.
pub fn settle(settings: &Settings) {
    raise_file_limit();
    if settings.oom_score != 0
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", settings.oom_score.to_string())
    {
        tracing::warn!(score = settings.oom_score, %error, "out-of-memory score not set: the kernel does not permit it");
    }
    if !settings.cgroup.is_empty()
        && let Err(error) = join_cgroup(Path::new("/sys/fs/cgroup"), &settings.cgroup)
    {
        tracing::warn!(cgroup = %settings.cgroup, error = format!("{error:#}"), "cgroup not joined");
    }
}

/// Every client, container and log takes descriptors.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "limit of open files not raised");
    }
}

/// Makes the group in every hierarchy and moves the daemon there. One hierarchy that refuses does not stop the others.
fn join_cgroup(top: &Path, group: &str) -> Result<()> {
    let group = group.trim_start_matches('/');
    let unified = top.join("cgroup.controllers").exists();
    let hierarchies: Vec<_> = if unified {
        vec![top.to_owned()]
    } else {
        let entries = std::fs::read_dir(top).context("list the cgroup hierarchies")?;
        // `cpu` and others may be links to `cpu,cpuacct`: the same group twice.
        entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| !p.is_symlink() && p.join("cgroup.procs").exists())
            .collect()
    };
    let results: Vec<_> =
        hierarchies.iter().map(|hierarchy| join(hierarchy, &hierarchy.join(group))).collect();
    results.into_iter().collect()
}

fn join(hierarchy: &Path, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    // A new group of this controller has no processors, and takes no process before it has.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(all) = std::fs::read(hierarchy.join(file)) {
            drop(std::fs::write(dir.join(file), all));
        }
    }
    let procs = dir.join("cgroup.procs");
    std::fs::write(&procs, std::process::id().to_string())
        .with_context(|| format!("write {}", procs.display()))
}

/// What the kernel counts for this process.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes.
    pub resident: u64,
    /// Bytes that belong to no file.
    pub anonymous: u64,
    pub threads: u64,
    pub files: u64,
}

pub fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Usage {
        resident: number("VmRSS") << 10,
        anonymous: number("RssAnon") << 10,
        threads: number("Threads"),
        files: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_counted() {
        let usage = usage();
        assert!(
            usage.resident >= usage.anonymous && usage.anonymous > 0 && usage.threads > 0 && usage.files > 2,
            "{usage:?}"
        );
    }
}
