//! What is measured of a container or a pod, whatever it was read from, and how CRI tells it.

use windlass_api::cri;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// For stats of pods: without threads and swap.
    Less,
    /// For stats: what the kubelet asks for every few seconds.
    Usual,
    /// For metrics.
    Everything,
}

/// All figures there may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub swap: Option<Swap>,
    pub pids: Option<Pids>,
    pub io_pressure: Option<Pressure>,
    /// Only read for [`Detail::Everything`].
    pub devices: Vec<Device>,
}

/// Times in nanoseconds. All but the usage, and the pressure, only for [`Detail::Everything`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    pub usage: u64,
    pub user: u64,
    pub system: u64,
    pub throttling: Option<Throttling>,
    pub pressure: Option<Pressure>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled: u64,
    /// Nanoseconds.
    pub time: u64,
}

/// Bytes, and counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub usage: u64,
    pub limit: Option<u64>,
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub faults: u64,
    pub major_faults: u64,
    /// Of the group without those below it, where that can be told apart.
    pub own_faults: Option<(u64, u64)>,
    pub kernel: Option<u64>,
    pub max_usage: Option<u64>,
    /// How often the limit was met.
    pub failures: Option<u64>,
    pub oom_kills: Option<u64>,
    pub pressure: Option<Pressure>,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Swap {
    pub usage: u64,
    pub limit: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pids {
    /// Threads.
    pub current: u64,
    pub limit: Option<u64>,
}

/// How much a group waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some of its threads.
    pub some: Option<Stall>,
    /// All of them.
    pub full: Option<Stall>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Microseconds, as the kernel tells it.
    pub total: u64,
}

/// What went from and to a block device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Figures {
    /// Nothing at all: there is no such group any more.
    pub fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none() && self.pids.is_none()
    }

    /// Adds another's: for pods that have no group of their own. Waiting cannot be added up, limits are several.
    pub fn add(&mut self, other: &Figures) {
        if let Some(theirs) = &other.cpu {
            let cpu = self.cpu.get_or_insert_default();
            cpu.usage = cpu.usage.saturating_add(theirs.usage);
        }
        if let Some(theirs) = &other.memory {
            let memory = self.memory.get_or_insert_default();
            for (sum, more) in [
                (&mut memory.usage, theirs.usage),
                (&mut memory.rss, theirs.rss),
                (&mut memory.inactive_file, theirs.inactive_file),
                (&mut memory.faults, theirs.faults),
                (&mut memory.major_faults, theirs.major_faults),
            ] {
                *sum = sum.saturating_add(more);
            }
        }
        if let Some(theirs) = &other.pids {
            let pids = self.pids.get_or_insert_default();
            pids.current = pids.current.saturating_add(theirs.current);
        }
    }

    /// `at`: nanoseconds since 1970. `rate`: nanoseconds per second.
    pub fn cpu_usage(&self, at: i64, rate: Option<u64>) -> Option<cri::CpuUsage> {
        let cpu = self.cpu.as_ref()?;
        Some(cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: value(cpu.usage),
            usage_nano_cores: rate.and_then(value),
            psi: cpu.pressure.as_ref().map(Pressure::to_cri),
        })
    }

    pub fn memory_usage(&self, at: i64) -> Option<cri::MemoryUsage> {
        let memory = self.memory.as_ref()?;
        let working_set = memory.working_set();
        Some(cri::MemoryUsage {
            timestamp: at,
            working_set_bytes: value(working_set),
            // Nought also where there is no limit: so it is with containerd, and so readers know it.
            available_bytes: value(memory.limit.map_or(0, |limit| limit.saturating_sub(working_set))),
            usage_bytes: value(memory.usage),
            rss_bytes: value(memory.rss),
            page_faults: value(memory.faults),
            major_page_faults: value(memory.major_faults),
            psi: memory.pressure.as_ref().map(Pressure::to_cri),
        })
    }

    pub fn swap_usage(&self, at: i64) -> Option<cri::SwapUsage> {
        let swap = self.swap.as_ref()?;
        Some(cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: swap.limit.and_then(|limit| value(limit.saturating_sub(swap.usage))),
            swap_usage_bytes: value(swap.usage),
        })
    }

    pub fn io_usage(&self, at: i64) -> Option<cri::IoUsage> {
        let pressure = self.io_pressure.as_ref()?;
        Some(cri::IoUsage { timestamp: at, psi: Some(pressure.to_cri()) })
    }
}

impl Memory {
    /// What the kernel could not take back at once.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

impl Pressure {
    fn to_cri(&self) -> cri::PsiStats {
        let data = |stall: &Stall| cri::PsiData {
            total: stall.total.saturating_mul(1000),
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
        };
        cri::PsiStats { full: self.full.as_ref().map(data), some: self.some.as_ref().map(data) }
    }
}

/// A number as CRI wraps it.
pub fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}
