//! Capabilities: containerd's default set, and what is added and dropped.

use anyhow::{Result, ensure};

const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// All of Linux 6.x, in the kernel's order.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// All that we have ourselves: the kernel does not give what its giver lacks.
pub fn all() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).map(str::trim);
    let bounding = bounding.and_then(|b| u64::from_str_radix(b, 16).ok()).unwrap_or(u64::MAX);
    ALL.iter().enumerate().filter(|(n, _)| bounding & (1 << n) != 0).map(|(_, c)| (*c).to_owned()).collect()
}

fn name(text: &str) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    ensure!(full == "CAP_ALL" || ALL.contains(&full.as_str()), "no capability is called {text}");
    Ok(full)
}

/// The capabilities of a container's process.
pub fn set(privileged: bool, add: &[String], drop: &[String]) -> Result<Vec<String>> {
    let add = add.iter().map(|c| name(c)).collect::<Result<Vec<_>>>()?;
    let drop = drop.iter().map(|c| name(c)).collect::<Result<Vec<_>>>()?;
    let everything = privileged || add.iter().any(|c| c == "CAP_ALL");
    let mut set: Vec<String> =
        if everything { all() } else { DEFAULT.iter().map(|c| (*c).to_owned()).collect() };
    set.retain(|c| !drop.iter().any(|d| d == "CAP_ALL" || d == c));
    for added in add {
        if added == "CAP_ALL" || set.contains(&added) || (drop.contains(&added)) {
            continue;
        }
        set.push(added);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        set(false, &owned(add), &owned(drop)).unwrap()
    }

    #[test]
    fn sets_are_put_together() {
        assert_eq!(of(&[], &[]).len(), DEFAULT.len());
        assert_eq!(of(&["sys_admin"], &["ALL"]), ["CAP_SYS_ADMIN"]);
        assert!(!of(&["ALL"], &["CAP_MKNOD"]).contains(&"CAP_MKNOD".to_owned()));
        assert!(!of(&["SYS_ADMIN"], &["SYS_ADMIN"]).contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(set(false, &["NOPE".to_owned()], &[]).is_err());
    }
}
