//! Capabilities: names to sets, and sets to the calling process.

use crate::error::{Context, Error, Result};
use crate::spec::Capabilities;
use crate::sys::{check, process};

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The five sets as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

fn bits(names: &[String], unknown: &mut Vec<String>) -> u64 {
    let mut set = 0;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match NAMES.iter().position(|n| *n == short) {
            Some(bit) if bit <= last() => set |= 1 << bit,
            _ if unknown.contains(name) => {}
            _ => unknown.push(name.clone()),
        }
    }
    set
}

/// The highest capability that this kernel knows.
fn last() -> usize {
    static LAST: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *LAST.get_or_init(|| {
        (0..64).take_while(|&bit| process::prctl(libc::PR_CAPBSET_READ, bit, 0).is_ok()).last().unwrap_or(0)
            as usize
    })
}

impl Sets {
    /// Absent means none at all. Names that neither we nor the kernel know come back, for a warning.
    pub fn of(capabilities: Option<&Capabilities>) -> (Sets, Vec<String>) {
        let Some(c) = capabilities else { return (Sets::default(), Vec::new()) };
        let mut unknown = Vec::new();
        let sets = Sets {
            bounding: bits(&c.bounding, &mut unknown),
            effective: bits(&c.effective, &mut unknown),
            inheritable: bits(&c.inheritable, &mut unknown),
            permitted: bits(&c.permitted, &mut unknown),
            ambient: bits(&c.ambient, &mut unknown),
        };
        (sets, unknown)
    }

    /// Before the identity changes: what is not in the bounding set goes, and the rest survives the change.
    pub fn before_identity(&self) -> Result<()> {
        for bit in 0..=last() {
            if self.bounding & 1 << bit == 0
                && let Err(error) = process::prctl(libc::PR_CAPBSET_DROP, bit as libc::c_ulong, 0)
            {
                return Err(error).op("drop capability from bounding set");
            }
        }
        process::prctl(libc::PR_SET_KEEPCAPS, 1, 0).op("keep capabilities").map(drop)
    }

    /// After the identity has changed.
    pub fn after_identity(&self) -> Result<()> {
        process::prctl(libc::PR_SET_KEEPCAPS, 0, 0).op("stop keeping capabilities")?;
        self.set()?;
        const PR_CAP_AMBIENT: i32 = 47;
        const RAISE: libc::c_ulong = 2;
        const CLEAR_ALL: libc::c_ulong = 4;
        process::prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0).op("clear ambient capabilities")?;
        for bit in (0..=last()).filter(|bit| self.ambient & 1 << bit != 0) {
            process::prctl(PR_CAP_AMBIENT, RAISE, bit as libc::c_ulong).map_err(|e| {
                Error::Unsupported(format!(
                    "ambient capability CAP_{} cannot be raised ({e}): it must be permitted and inheritable",
                    NAMES.get(bit).unwrap_or(&"?")
                ))
            })?;
        }
        Ok(())
    }

    fn set(&self) -> Result<()> {
        let header: [u32; 2] = [0x2008_0522, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
        let mut data = [0u32; 6];
        for half in 0..2 {
            data[3 * half] = (self.effective >> (32 * half)) as u32;
            data[3 * half + 1] = (self.permitted >> (32 * half)) as u32;
            data[3 * half + 2] = (self.inheritable >> (32 * half)) as u32;
        }
        // SAFETY: header and data have the layout of version 3: two words, then two triples.
        let result = check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) });
        result.map(drop).map_err(|source| match self.beyond_own() {
            Some(name) => {
                Error::Unsupported(format!("capability CAP_{name} cannot be granted: this host lacks it"))
            }
            None => Error::Sys { op: "set capabilities", source },
        })
    }

    /// A capability that is wanted but that this process does not have itself.
    fn beyond_own(&self) -> Option<&'static str> {
        let header: [u32; 2] = [0x2008_0522, 0];
        let mut data = [0u32; 6];
        // SAFETY: header and data have the layout of version 3, and data is valid for writing.
        check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) }).ok()?;
        let own = u64::from(data[1]) | u64::from(data[4]) << 32;
        let missing = (self.permitted | self.effective) & !own;
        NAMES.get(missing.trailing_zeros() as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits() {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let capabilities = Capabilities {
            bounding: list(&["CAP_CHOWN", "cap_sys_admin"]),
            effective: list(&["KILL", "CAP_NEWER_THAN_US"]),
            ..Capabilities::default()
        };
        let (sets, unknown) = Sets::of(Some(&capabilities));
        assert_eq!(sets.bounding, 1 | 1 << 21);
        assert_eq!(sets.effective, 1 << 5);
        assert_eq!(unknown, ["CAP_NEWER_THAN_US"]);
        assert_eq!(Sets::of(None).0, Sets::default());
    }
}
