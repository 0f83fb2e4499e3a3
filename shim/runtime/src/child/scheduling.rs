//! Limits and scheduling of a process: names of the configuration to numbers of the kernel.

use crate::error::{Context, Error, Result};
use crate::spec::{IoPriority, MemoryPolicy, Personality, Rlimit, Scheduler};
use crate::sys::{check, process};

/// Sets the limits of a process that is waiting for us.
pub fn set_rlimits(pid: u32, limits: &[Rlimit]) -> Result<()> {
    for limit in limits {
        process::set_rlimit(pid, rlimit(&limit.name)?, limit.soft, limit.hard).map_err(|source| {
            if source.raw_os_error() == Some(libc::EPERM) {
                Error::Unsupported(format!(
                    "{} cannot be raised to {} (hard {}): this host lacks CAP_SYS_RESOURCE or the value is above the kernel's own limit",
                    limit.name, limit.soft, limit.hard
                ))
            } else {
                Error::Path { op: "set limit", path: limit.name.clone().into(), source }
            }
        })?;
    }
    Ok(())
}

fn rlimit(name: &str) -> Result<u32> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let short = name.strip_prefix("RLIMIT_").unwrap_or("");
    NAMES
        .iter()
        .position(|n| *n == short)
        .map(|n| n as u32)
        .ok_or_else(|| Error::Spec(format!("unknown resource limit {name:?}")))
}

/// Checks every name; for the time before anything is made.
pub fn check_rlimits(limits: &[Rlimit]) -> Result<()> {
    limits.iter().try_for_each(|l| rlimit(&l.name).map(drop))
}

#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

pub fn set_scheduler(scheduler: &Scheduler) -> Result<()> {
    let unknown = |what: &str, name: &str| Error::Spec(format!("scheduler: unknown {what} {name:?}"));
    let mut attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: match scheduler.policy.as_str() {
            "SCHED_OTHER" => 0,
            "SCHED_FIFO" => 1,
            "SCHED_RR" => 2,
            "SCHED_BATCH" => 3,
            "SCHED_ISO" => 4,
            "SCHED_IDLE" => 5,
            "SCHED_DEADLINE" => 6,
            other => return Err(unknown("policy", other)),
        },
        nice: scheduler.nice,
        priority: scheduler.priority as u32,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedAttr::default()
    };
    for flag in &scheduler.flags {
        attr.flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(unknown("flag", other)),
        };
    }
    // SAFETY: `attr` is a valid sched_attr that carries its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr, 0) }).op("set scheduler").map(drop)
}

pub fn set_io_priority(priority: &IoPriority) -> Result<()> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::Spec(format!("ioPriority: unknown class {other:?}"))),
    };
    if !(0..8).contains(&priority.priority) {
        return Err(Error::Spec(format!("ioPriority {} is not within 0 and 7", priority.priority)));
    }
    // 1: one process, the calling one.
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | priority.priority) })
        .op("set io priority")
        .map(drop)
}

pub fn set_personality(personality: &Personality) -> Result<()> {
    if !personality.flags.is_empty() {
        return Err(Error::Unsupported("personality flags are not supported".into()));
    }
    let domain: libc::c_ulong = match personality.domain.as_str() {
        "LINUX" => 0,
        "LINUX32" => 8,
        other => return Err(Error::Spec(format!("unknown personality {other:?}"))),
    };
    // SAFETY: takes no pointers.
    check(unsafe { libc::personality(domain).into() }).op("set personality").map(drop)
}

/// Numbers as `0-3,7` writes them.
fn list(text: &str, limit: usize) -> Result<Vec<usize>> {
    let wrong = || Error::Spec(format!("{text:?} is not a list of numbers below {limit}"));
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if first > last || last >= limit {
            return Err(wrong());
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

fn mask(numbers: &[usize], limit: usize) -> Vec<libc::c_ulong> {
    let bits = libc::c_ulong::BITS as usize;
    let mut mask = vec![0; limit / bits];
    for n in numbers {
        mask[n / bits] |= 1 << (n % bits);
    }
    mask
}

const MAX_CPUS: usize = 8192;
const MAX_NODES: usize = 1024;

/// The CPUs that the calling process may use; an empty list changes nothing.
pub fn set_affinity(cpus: &str) -> Result<()> {
    let cpus = list(cpus, MAX_CPUS)?;
    if cpus.is_empty() {
        return Ok(());
    }
    let mask = mask(&cpus, MAX_CPUS);
    // SAFETY: the mask is valid for reading its whole length.
    check(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask.as_slice()), mask.as_ptr())
    })
    .op("set cpu affinity")
    .map(drop)
}

pub fn set_memory_policy(policy: &MemoryPolicy) -> Result<()> {
    let mut mode: libc::c_int = match policy.mode.as_str() {
        "MPOL_DEFAULT" => 0,
        "MPOL_PREFERRED" => 1,
        "MPOL_BIND" => 2,
        "MPOL_INTERLEAVE" => 3,
        "MPOL_LOCAL" => 4,
        "MPOL_PREFERRED_MANY" => 5,
        "MPOL_WEIGHTED_INTERLEAVE" => 6,
        other => return Err(Error::Spec(format!("memoryPolicy: unknown mode {other:?}"))),
    };
    for flag in &policy.flags {
        mode |= match flag.as_str() {
            "MPOL_F_STATIC_NODES" => 1 << 15,
            "MPOL_F_RELATIVE_NODES" => 1 << 14,
            "MPOL_F_NUMA_BALANCING" => 1 << 13,
            other => return Err(Error::Spec(format!("memoryPolicy: unknown flag {other:?}"))),
        };
    }
    let nodes = list(&policy.nodes, MAX_NODES)?;
    let mask = mask(&nodes, MAX_NODES);
    let (pointer, size) =
        if nodes.is_empty() { (std::ptr::null(), 0) } else { (mask.as_ptr(), MAX_NODES + 1) };
    // SAFETY: the mask is null or valid for reading MAX_NODES bits; the kernel takes one more than it reads.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, size) })
        .op("set memory policy")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks() {
        assert_eq!(list("0-2, 7", 8).unwrap(), [0, 1, 2, 7]);
        assert_eq!(list("", 8).unwrap(), [] as [usize; 0]);
        for wrong in ["8", "3-1", "a", "-1"] {
            assert!(list(wrong, 8).is_err(), "{wrong}");
        }
        assert_eq!(mask(&[0, 65], 128), [1, 2]);
    }

    #[test]
    fn limits_have_numbers() {
        assert_eq!(rlimit("RLIMIT_NOFILE").unwrap(), 7);
        assert_eq!(rlimit("RLIMIT_RTTIME").unwrap(), 15);
        assert!(rlimit("NOFILE").is_err());
    }
}
