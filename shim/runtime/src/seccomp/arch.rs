//! The architectures a filter may name on this machine, and the system calls each of them has.

#[cfg(target_arch = "aarch64")]
#[path = "table_aarch64.rs"]
mod table;
#[cfg(target_arch = "x86_64")]
#[path = "table_x86_64.rs"]
mod table;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp compiler knows x86_64 and aarch64 only");

/// One way of calling the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What the kernel calls it (`AUDIT_ARCH_*`).
    pub audit: u32,
    /// Or'ed to every number: x32 shares the audit value of x86_64.
    pub bit: u32,
    /// Arguments are compared as 64-bit values.
    pub wide: bool,
    /// `socketcall` and `ipc` are ways round the calls they multiplex.
    pub multiplexed: bool,
    column: usize,
}

#[cfg(target_arch = "x86_64")]
pub const ARCHES: [Arch; 3] = [
    Arch { name: "SCMP_ARCH_X86_64", audit: 0xc000_003e, bit: 0, wide: true, multiplexed: false, column: 0 },
    Arch { name: "SCMP_ARCH_X86", audit: 0x4000_0003, bit: 0, wide: false, multiplexed: true, column: 1 },
    Arch {
        name: "SCMP_ARCH_X32",
        audit: 0xc000_003e,
        bit: X32_BIT,
        wide: false,
        multiplexed: false,
        column: 2,
    },
];

#[cfg(target_arch = "aarch64")]
pub const ARCHES: [Arch; 2] = [
    Arch { name: "SCMP_ARCH_AARCH64", audit: 0xc000_00b7, bit: 0, wide: true, multiplexed: false, column: 0 },
    Arch { name: "SCMP_ARCH_ARM", audit: 0x4000_0028, bit: 0, wide: false, multiplexed: false, column: 1 },
];

pub const X32_BIT: u32 = 0x4000_0000;

/// Every name that the specification knows; those not in `ARCHES` cannot occur here.
pub const FOREIGN: [&str; 24] = [
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_NATIVE",
];

impl Arch {
    /// The number of a call, with the architecture's bit; `None` when the architecture does not have it.
    pub fn number(&self, name: &str) -> Option<u32> {
        let at = table::TABLE.binary_search_by_key(&name, |(n, _)| n).ok()?;
        let number = table::TABLE[at].1[self.column];
        u32::try_from(number).ok().map(|n| n | self.bit)
    }
}

/// Where a multiplexer carries a call: its own name and the value of its first argument (linux/net.h, linux/ipc.h).
pub fn multiplexer(name: &str) -> Option<(&'static str, u64)> {
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(at) = SOCKET.iter().position(|n| *n == name) {
        return Some(("socketcall", at as u64 + 1));
    }
    IPC.iter().find(|(n, _)| *n == name).map(|(_, call)| ("ipc", *call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_right() {
        assert!(table::TABLE.is_sorted_by_key(|(n, _)| n));
        assert_eq!(ARCHES[0].number("execve"), Some(libc::SYS_execve as u32));
        assert_eq!(ARCHES[0].number("openat2"), Some(libc::SYS_openat2 as u32));
        assert_eq!(ARCHES[0].number("no_such_call"), None);
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(ARCHES[1].number("socketcall"), Some(102));
            assert_eq!(ARCHES[2].number("execve"), Some(X32_BIT + 520));
            assert_eq!(ARCHES[2].number("read"), Some(X32_BIT));
            assert_eq!(ARCHES[0].number("socketcall"), None);
        }
    }
}
