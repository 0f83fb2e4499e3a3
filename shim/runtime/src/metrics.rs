//! Figures of a container's control group: plain structs that carry what containerd's metrics messages carry.
//! Bytes are bytes; times are nanoseconds in V1 and microseconds in V2, as the kernel and containerd give them.

/// Which of the two forms depends on the machine, not on the container.
#[derive(Debug, Clone, PartialEq)]
pub enum Metrics {
    V1(Box<MetricsV1>),
    V2(Box<MetricsV2>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsV1 {
    pub hugetlb: Vec<Hugetlb>,
    pub pids: Option<Pids>,
    pub cpu: Option<CpuV1>,
    pub memory: Option<MemoryV1>,
    pub blkio: Option<BlkioV1>,
    pub rdma: Option<Rdma>,
    pub memory_oom_control: Option<OomControl>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hugetlb {
    pub pagesize: String,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// A limit of `u64::MAX` means none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pids {
    pub current: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuV1 {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// Fields are named as in the kernel's `memory.stat`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryV1 {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pgpgin: u64,
    pub pgpgout: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pgpgin: u64,
    pub total_pgpgout: u64,
    pub total_pgfault: u64,
    pub total_pgmajfault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: MemoryEntry,
    pub swap: MemoryEntry,
    pub kernel: MemoryEntry,
    pub kernel_tcp: MemoryEntry,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct OomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlkioEntry {
    pub op: String,
    pub device: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlkioV1 {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsV2 {
    pub pids: Option<Pids>,
    pub cpu: Option<CpuV2>,
    pub memory: Option<MemoryV2>,
    pub rdma: Option<Rdma>,
    pub io: Vec<IoEntry>,
    pub io_psi: Option<Psi>,
    pub hugetlb: Vec<Hugetlb>,
    pub memory_events: Option<MemoryEvents>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Psi {
    pub some: PsiData,
    pub full: PsiData,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuV2 {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub nr_bursts: u64,
    pub burst_usec: u64,
    pub psi: Option<Psi>,
}

/// Fields are named as in the kernel's `memory.stat`; a limit of `u64::MAX` means none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryV2 {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub max_usage: u64,
    pub swap_max_usage: u64,
    pub psi: Option<Psi>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}
