//! Limits as v1 files take them.

use super::dir::Dir;
use super::v1::Groups;
use crate::error::{Error, Result};
use crate::spec::{BlockIo, Cpu, Memory, NetworkClass, Resources};
use crate::sys::errno;

pub fn set(groups: &Groups, resources: &Resources) -> Result<()> {
    if !resources.unified.is_empty() {
        return Err(Error::Unsupported("resources.unified needs cgroup v2".into()));
    }
    if let Some(memory) = &resources.memory {
        set_memory(groups, memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        set_cpu(groups, cpu)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit) {
        groups.dir("pids")?.write("pids.max", super::convert::pids_max(limit))?;
    }
    if let Some(block) = &resources.block_io {
        set_block_io(groups, block)?;
    }
    for limit in &resources.hugepage_limits {
        let dir = groups.dir("hugetlb")?;
        let value = limit.limit.to_string();
        dir.write(&format!("hugetlb.{}.limit_in_bytes", limit.page_size), &value)?;
        let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", limit.page_size);
        if dir.exists(&reserved) {
            dir.write(&reserved, &value)?;
        }
    }
    if let Some(network) = &resources.network {
        set_network(groups, network)?;
    }
    for (device, limit) in &resources.rdma {
        groups.dir("rdma")?.write("rdma.max", super::convert::rdma_max(device, limit))?;
    }
    Ok(())
}

const LIMIT: &str = "memory.limit_in_bytes";
const SWAP: &str = "memory.memsw.limit_in_bytes";

fn set_memory(groups: &Groups, memory: &Memory) -> Result<()> {
    let value = |n: Option<i64>| n.filter(|&n| n != 0);
    let limit = value(memory.limit);
    let mut swap = value(memory.swap);
    let asked = limit.or(swap).or(value(memory.reservation)).or(value(memory.kernel_tcp)).is_some()
        || memory.swappiness.is_some()
        || memory.disable_oom_killer == Some(true);
    if !asked {
        return Ok(());
    }
    let dir = groups.dir("memory")?;
    if let Some(limit) = limit.filter(|&l| l > 0)
        && memory.check_before_update == Some(true)
    {
        let usage = dir.number("memory.usage_in_bytes").unwrap_or(0);
        super::convert::check_usage(usage, limit)?;
    }
    // No limit at all means no limit of swap either.
    if limit == Some(-1) && swap.is_none() && dir.exists(SWAP) {
        swap = Some(-1);
    }
    // The kernel keeps limit <= limit with swap at every moment, so the order depends on the direction.
    let current = dir.number(LIMIT).unwrap_or(u64::MAX);
    let swap_first = swap.is_some_and(|s| s == -1 || limit.is_some() && current < s as u64);
    if swap_first {
        write_swap(&dir, swap)?;
    }
    if let Some(limit) = limit {
        write_limit(&dir, limit)?;
    }
    if !swap_first {
        write_swap(&dir, swap)?;
    }
    if let Some(reservation) = value(memory.reservation) {
        dir.write("memory.soft_limit_in_bytes", reservation.to_string())?;
    }
    if let Some(tcp) = value(memory.kernel_tcp) {
        dir.write("memory.kmem.tcp.limit_in_bytes", tcp.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            return Err(Error::Spec(format!("memory swappiness {swappiness} is above 100")));
        }
        dir.write("memory.swappiness", swappiness.to_string())?;
    }
    if memory.disable_oom_killer == Some(true) {
        dir.write("memory.oom_control", "1")?;
    }
    Ok(())
}

fn write_swap(dir: &Dir, swap: Option<i64>) -> Result<()> {
    swap.map_or(Ok(()), |swap| dir.write(SWAP, swap.to_string()))
}

fn write_limit(dir: &Dir, limit: i64) -> Result<()> {
    match dir.try_write(LIMIT, limit.to_string()) {
        Err(e) if errno(&e) == libc::EBUSY => Err(Error::State(format!(
            "unable to set memory limit to {limit} (current usage: {}, peak usage: {})",
            dir.number("memory.usage_in_bytes").unwrap_or(0),
            dir.number("memory.max_usage_in_bytes").unwrap_or(0)
        ))),
        Ok(()) => Ok(()),
        Err(_) => dir.write(LIMIT, limit.to_string()),
    }
}

/// Two values that bound each other: when the first is refused (EINVAL) as long as the second is old, it is written
/// again after it.
fn write_pair(dir: &Dir, first: (&str, Option<String>), second: (&str, Option<String>)) -> Result<()> {
    let mut again = None;
    if let Some(value) = first.1 {
        match dir.try_write(first.0, &value) {
            Err(e) if errno(&e) == libc::EINVAL && second.1.is_some() => again = Some(value),
            Ok(()) => {}
            Err(_) => dir.write(first.0, &value)?,
        }
    }
    if let Some(value) = second.1 {
        dir.write(second.0, value)?;
    }
    again.map_or(Ok(()), |value| dir.write(first.0, value))
}

fn set_cpu(groups: &Groups, cpu: &Cpu) -> Result<()> {
    let text = |n: Option<u64>| n.filter(|&n| n != 0).map(|n| n.to_string());
    let signed = |n: Option<i64>| n.filter(|&n| n != 0).map(|n| n.to_string());
    let (shares, period, quota) = (text(cpu.shares), text(cpu.period), signed(cpu.quota));
    let (rt_period, rt_runtime) = (text(cpu.realtime_period), signed(cpu.realtime_runtime));
    let burst = cpu.burst.map(|n| n.to_string());
    let idle = cpu.idle.map(|n| n.to_string());
    if [&shares, &period, &quota, &rt_period, &rt_runtime, &burst, &idle].iter().any(|v| v.is_some()) {
        let dir = groups.dir("cpu")?;
        write_pair(&dir, ("cpu.rt_period_us", rt_period), ("cpu.rt_runtime_us", rt_runtime))?;
        if let Some(shares) = shares {
            dir.write("cpu.shares", &shares)?;
            let taken = dir.number("cpu.shares").unwrap_or(0);
            let asked = cpu.shares.unwrap_or(0);
            if asked != taken {
                let bound = if asked > taken { "maximum" } else { "minimum" };
                return Err(Error::Spec(format!("the {bound} allowed cpu-shares is {taken}")));
            }
        }
        write_pair(&dir, ("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota))?;
        if let Some(burst) = burst {
            dir.write("cpu.cfs_burst_us", burst)?;
        }
        if let Some(idle) = idle {
            dir.write("cpu.idle", idle)?;
        }
    }
    for (name, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !value.is_empty() {
            groups.dir("cpuset")?.write(name, value)?;
        }
    }
    Ok(())
}

fn set_block_io(groups: &Groups, block: &BlockIo) -> Result<()> {
    let dir = groups.dir("blkio")?;
    // The scheduler that is in use decides under which name its weight goes.
    let plain = dir.exists("blkio.weight");
    let prefix = if plain { "blkio" } else { "blkio.bfq" };
    let bfq = ("blkio.bfq.weight", dir.exists("blkio.bfq.weight"));
    super::convert::check_weights(block, [("blkio.weight", plain), bfq])?;
    if let Some(weight) = block.weight.filter(|&w| w != 0) {
        dir.write(&format!("{prefix}.weight"), weight.to_string())?;
    }
    if let Some(weight) = block.leaf_weight.filter(|&w| w != 0) {
        dir.write("blkio.leaf_weight", weight.to_string())?;
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight.filter(|&w| w != 0) {
            dir.write(
                &format!("{prefix}.weight_device"),
                format!("{}:{} {weight}", device.major, device.minor),
            )?;
        }
        if let Some(weight) = device.leaf_weight.filter(|&w| w != 0) {
            dir.write("blkio.leaf_weight_device", format!("{}:{} {weight}", device.major, device.minor))?;
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &block.throttle_write_iops_device),
    ];
    for (name, list) in throttles {
        for device in list {
            dir.write(name, format!("{}:{} {}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

fn set_network(groups: &Groups, network: &NetworkClass) -> Result<()> {
    if let Some(class) = network.class_id.filter(|&c| c != 0) {
        groups.dir("net_cls")?.write("net_cls.classid", class.to_string())?;
    }
    for priority in &network.priorities {
        groups
            .dir("net_prio")?
            .write("net_prio.ifpriomap", format!("{} {}", priority.name, priority.priority))?;
    }
    Ok(())
}
