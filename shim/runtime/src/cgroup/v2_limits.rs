//! Limits as v2 files take them.

use super::convert::{check_usage, check_weights, cpu_weight, io_weight, pids_max, rdma_max, swap_max};
use super::dir::Dir;
use crate::error::{Error, Result};
use crate::spec::{BlockIo, Cpu, Memory, Resources};
use crate::sys::errno;

pub fn set(dir: &Dir, resources: &Resources) -> Result<()> {
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit) {
        dir.write("pids.max", pids_max(limit))?;
    }
    if let Some(memory) = &resources.memory {
        set_memory(dir, memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        set_cpu(dir, cpu)?;
    }
    if let Some(block) = &resources.block_io {
        set_io(dir, block)?;
    }
    for limit in &resources.hugepage_limits {
        dir.write(&format!("hugetlb.{}.max", limit.page_size), limit.limit.to_string())?;
        let reserved = format!("hugetlb.{}.rsvd.max", limit.page_size);
        if dir.exists(&reserved) {
            dir.write(&reserved, limit.limit.to_string())?;
        }
    }
    if let Some(network) = &resources.network
        && (network.class_id.is_some_and(|c| c != 0) || !network.priorities.is_empty())
    {
        return Err(Error::Unsupported("network classes and priorities need cgroup v1".into()));
    }
    for (device, limit) in &resources.rdma {
        dir.write("rdma.max", rdma_max(device, limit))?;
    }
    for (name, value) in &resources.unified {
        if name.contains('/') || !name.contains('.') || name.starts_with("cgroup.") {
            return Err(Error::Spec(format!(
                "unified resource {name:?} is not the name of a controller's file"
            )));
        }
        // Several values come as lines, and the kernel takes one a call.
        for line in value.lines() {
            dir.write(name, line)?;
        }
    }
    Ok(())
}

fn limit_text(value: Option<i64>) -> Option<String> {
    match value? {
        0 => None,
        n if n < 0 => Some("max".into()),
        n => Some(n.to_string()),
    }
}

pub fn check_memory(dir: &Dir, memory: &Memory) -> Result<()> {
    if memory.check_before_update == Some(true) {
        check_usage(dir.number("memory.current").unwrap_or(0), memory.limit.unwrap_or(0))?;
    }
    Ok(())
}

fn set_memory(dir: &Dir, memory: &Memory) -> Result<()> {
    check_memory(dir, memory)?;
    if memory.disable_oom_killer == Some(true) {
        return Err(Error::Unsupported("disableOOMKiller needs cgroup v1".into()));
    }
    if let Some(swap) = swap_max(memory.limit, memory.swap)? {
        match dir.try_write("memory.swap.max", &swap) {
            // Without swap accounting there is nothing to limit.
            Err(e) if errno(&e) == libc::ENOENT && (swap == "max" || swap == "0") => {}
            Ok(()) => {}
            Err(_) => dir.write("memory.swap.max", swap)?,
        }
    }
    if let Some(limit) = limit_text(memory.limit) {
        dir.write("memory.max", limit)?;
    }
    if let Some(reservation) = limit_text(memory.reservation) {
        dir.write("memory.low", reservation)?;
    }
    // Kernel memory, its TCP buffers and swappiness have no file of their own on v2; runtimes pass them over there.
    Ok(())
}

fn set_cpu(dir: &Dir, cpu: &Cpu) -> Result<()> {
    if cpu.realtime_runtime.is_some_and(|r| r != 0) || cpu.realtime_period.is_some_and(|p| p != 0) {
        return Err(Error::Unsupported("realtime limits need cgroup v1".into()));
    }
    if let Some(idle) = cpu.idle {
        dir.write("cpu.idle", idle.to_string())?;
    }
    if let Some(shares) = cpu.shares.filter(|&s| s != 0) {
        dir.write("cpu.weight", cpu_weight(shares).to_string())?;
    }
    let quota = cpu.quota.filter(|&q| q != 0);
    let period = cpu.period.filter(|&p| p != 0);
    let mut burst = cpu.burst.map(|b| b.to_string());
    if let Some(value) = &burst
        && (quota.is_none() || dir.try_write("cpu.max.burst", value).is_ok())
    {
        dir.write("cpu.max.burst", value)?;
        burst = None;
    }
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|&q| q > 0).map_or("max".into(), |q| q.to_string());
        dir.write("cpu.max", format!("{quota} {}", period.unwrap_or(100_000)))?;
    }
    if let Some(value) = burst {
        dir.write("cpu.max.burst", value)?;
    }
    for (name, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !value.is_empty() {
            dir.write(name, value)?;
        }
    }
    Ok(())
}

fn set_io(dir: &Dir, block: &BlockIo) -> Result<()> {
    let bfq = dir.exists("io.bfq.weight");
    check_weights(block, [("io.weight", dir.exists("io.weight")), ("io.bfq.weight", bfq)])?;
    if let Some(weight) = block.weight.filter(|&w| w != 0) {
        if bfq {
            dir.write("io.bfq.weight", weight.to_string())?;
        } else {
            dir.write("io.weight", io_weight(weight).to_string())?;
        }
    }
    if block.leaf_weight.is_some_and(|w| w != 0) {
        return Err(Error::Unsupported("blockIO.leafWeight needs cgroup v1".into()));
    }
    for device in &block.weight_device {
        if device.leaf_weight.is_some_and(|w| w != 0) {
            return Err(Error::Unsupported("blockIO.weightDevice.leafWeight needs cgroup v1".into()));
        }
        let Some(weight) = device.weight.filter(|&w| w != 0) else { continue };
        let (name, weight) =
            if bfq { ("io.bfq.weight", u64::from(weight)) } else { ("io.weight", io_weight(weight)) };
        dir.write(name, format!("{}:{} {weight}", device.major, device.minor))?;
    }
    let throttles = [
        ("rbps", &block.throttle_read_bps_device),
        ("wbps", &block.throttle_write_bps_device),
        ("riops", &block.throttle_read_iops_device),
        ("wiops", &block.throttle_write_iops_device),
    ];
    for (key, list) in throttles {
        for device in list {
            let rate = if device.rate == 0 { "max".into() } else { device.rate.to_string() };
            dir.write("io.max", format!("{}:{} {key}={rate}", device.major, device.minor))?;
        }
    }
    Ok(())
}
