//! Capabilities: containerd's default set, and what is added and dropped.

use anyhow::{Result, ensure};
use windlass_core::capability::{ALL, DEFAULT};

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
