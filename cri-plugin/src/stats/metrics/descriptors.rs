//! The metrics: names and labels are cAdvisor's, as the kubelet expects them of a runtime (KEP-2371).

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only upwards.
    Counter,
    Gauge,
}

/// A metric.
#[derive(Debug)]
pub struct Descriptor {
    pub name: &'static str,
    pub kind: Kind,
    /// Labels beside those that all have.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const NONE: &[&str] = &[];
const DEVICE: &[&str] = &["device"];
const BLKIO: &[&str] = &["device", "major", "minor", "operation"];
const INTERFACE: &[&str] = &["interface"];
const FAILURE: &[&str] = &["failure_type", "scope"];
const ULIMIT: &[&str] = &["ulimit"];

macro_rules! descriptors {
    ($($id:ident $kind:ident $labels:ident $name:literal $help:literal)*) => {
        $(pub const $id: Descriptor = Descriptor { name: $name, kind: Kind::$kind, labels: $labels, help: $help };)*
        /// All there are.
        pub const ALL: &[Descriptor] = &[$($id),*];
    };
}

descriptors! {
    CPU_USER Counter NONE "container_cpu_user_seconds_total" "Seconds of CPU time spent in user mode."
    CPU_SYSTEM Counter NONE "container_cpu_system_seconds_total" "Seconds of CPU time spent in the kernel."
    CPU_USAGE Counter NONE "container_cpu_usage_seconds_total" "Seconds of CPU time used in all."
    CPU_PERIODS Counter NONE "container_cpu_cfs_periods_total" "Periods of the CPU quota that have passed."
    CPU_THROTTLED_PERIODS Counter NONE "container_cpu_cfs_throttled_periods_total" "Periods in which the CPU quota ran out."
    CPU_THROTTLED Counter NONE "container_cpu_cfs_throttled_seconds_total" "Seconds spent waiting for the next period of the CPU quota."

    MEMORY_CACHE Gauge NONE "container_memory_cache" "Bytes of page cache."
    MEMORY_RSS Gauge NONE "container_memory_rss" "Bytes of anonymous memory."
    MEMORY_KERNEL Gauge NONE "container_memory_kernel_usage" "Bytes that the kernel holds for the container."
    MEMORY_MAPPED_FILE Gauge NONE "container_memory_mapped_file" "Bytes of files that are mapped."
    MEMORY_SWAP Gauge NONE "container_memory_swap" "Bytes that are swapped out."
    MEMORY_FAILCNT Counter NONE "container_memory_failcnt" "How often the memory limit was met."
    MEMORY_USAGE Gauge NONE "container_memory_usage_bytes" "Bytes of memory in use, page cache included."
    MEMORY_MAX_USAGE Gauge NONE "container_memory_max_usage_bytes" "Most bytes of memory that were ever in use."
    MEMORY_WORKING_SET Gauge NONE "container_memory_working_set_bytes" "Bytes of memory in use, inactive page cache excluded."
    MEMORY_ACTIVE_FILE Gauge NONE "container_memory_total_active_file_bytes" "Bytes of page cache that were used lately."
    MEMORY_INACTIVE_FILE Gauge NONE "container_memory_total_inactive_file_bytes" "Bytes of page cache that were not used lately."
    MEMORY_FAILURES Counter FAILURE "container_memory_failures_total" "Page faults."
    OOM_EVENTS Counter NONE "container_oom_events_total" "Processes that the kernel has killed for want of memory."

    NETWORK_RECEIVE_BYTES Counter INTERFACE "container_network_receive_bytes_total" "Bytes received."
    NETWORK_RECEIVE_PACKETS Counter INTERFACE "container_network_receive_packets_total" "Packets received."
    NETWORK_RECEIVE_DROPPED Counter INTERFACE "container_network_receive_packets_dropped_total" "Packets that were dropped on arrival."
    NETWORK_RECEIVE_ERRORS Counter INTERFACE "container_network_receive_errors_total" "Packets that arrived broken."
    NETWORK_TRANSMIT_BYTES Counter INTERFACE "container_network_transmit_bytes_total" "Bytes sent."
    NETWORK_TRANSMIT_PACKETS Counter INTERFACE "container_network_transmit_packets_total" "Packets sent."
    NETWORK_TRANSMIT_DROPPED Counter INTERFACE "container_network_transmit_packets_dropped_total" "Packets that were dropped before they were sent."
    NETWORK_TRANSMIT_ERRORS Counter INTERFACE "container_network_transmit_errors_total" "Packets that could not be sent."

    FS_INODES_FREE Gauge DEVICE "container_fs_inodes_free" "Inodes that are free in the file system of the writable layer."
    FS_INODES Gauge DEVICE "container_fs_inodes_total" "Inodes of the file system of the writable layer."
    FS_LIMIT Gauge DEVICE "container_fs_limit_bytes" "Bytes that the file system of the writable layer holds."
    FS_USAGE Gauge DEVICE "container_fs_usage_bytes" "Bytes that the writable layer takes up."

    FS_READ_BYTES Counter DEVICE "container_fs_reads_bytes_total" "Bytes read from the device."
    FS_READS Counter DEVICE "container_fs_reads_total" "Reads from the device."
    FS_WRITTEN_BYTES Counter DEVICE "container_fs_writes_bytes_total" "Bytes written to the device."
    FS_WRITES Counter DEVICE "container_fs_writes_total" "Writes to the device."
    BLKIO_USAGE Counter BLKIO "container_blkio_device_usage_total" "Bytes moved by operations on the device."

    PROCESSES Gauge NONE "container_processes" "Processes that run."
    FILE_DESCRIPTORS Gauge NONE "container_file_descriptors" "File descriptors that are open."
    SOCKETS Gauge NONE "container_sockets" "Sockets that are open."
    THREADS_MAX Gauge NONE "container_threads_max" "Most threads that may run; nought for no limit."
    THREADS Gauge NONE "container_threads" "Threads that run."
    ULIMITS Gauge ULIMIT "container_ulimits_soft" "Soft limits of the first process."

    LAST_SEEN Gauge NONE "container_last_seen" "When the container was last looked at, in seconds since 1970."
    START_TIME Gauge NONE "container_start_time_seconds" "When the container was started, in seconds since 1970."

    SPEC_CPU_PERIOD Gauge NONE "container_spec_cpu_period" "Microseconds of a period of the CPU quota."
    SPEC_CPU_SHARES Gauge NONE "container_spec_cpu_shares" "Weight among those who want the CPU."
    SPEC_MEMORY_LIMIT Gauge NONE "container_spec_memory_limit_bytes" "Bytes of memory that may be used."
    SPEC_MEMORY_RESERVATION Gauge NONE "container_spec_memory_reservation_limit_bytes" "Bytes of memory that are left alone as long as possible."
    SPEC_MEMORY_SWAP_LIMIT Gauge NONE "container_spec_memory_swap_limit_bytes" "Bytes of memory and swap that may be used together."

    PRESSURE_CPU_WAITING Counter NONE "container_pressure_cpu_waiting_seconds_total" "Seconds in which some threads waited for the CPU."
    PRESSURE_CPU_STALLED Counter NONE "container_pressure_cpu_stalled_seconds_total" "Seconds in which all threads waited for the CPU."
    PRESSURE_MEMORY_WAITING Counter NONE "container_pressure_memory_waiting_seconds_total" "Seconds in which some threads waited for memory."
    PRESSURE_MEMORY_STALLED Counter NONE "container_pressure_memory_stalled_seconds_total" "Seconds in which all threads waited for memory."
    PRESSURE_IO_WAITING Counter NONE "container_pressure_io_waiting_seconds_total" "Seconds in which some threads waited for devices."
    PRESSURE_IO_STALLED Counter NONE "container_pressure_io_stalled_seconds_total" "Seconds in which all threads waited for devices."
}
