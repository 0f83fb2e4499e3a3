//! What can be known to be wrong before anything is made.

use super::{Hook, IdMapping, NamespaceKind, Process, Spec};
use crate::error::{Error, Result};
use std::os::unix::fs::MetadataExt;

fn bad<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Spec(message.into()))
}

impl Spec {
    pub(super) fn validate(&self) -> Result<()> {
        let Some(process) = &self.process else { return bad("process is missing") };
        process.validate()?;
        match &self.root {
            None => return bad("root is missing"),
            Some(root) if root.path.is_empty() => return bad("root.path is empty"),
            Some(_) => {}
        }
        if !(self.oci_version.starts_with("1.") || self.oci_version.is_empty()) {
            return bad(format!("ociVersion {:?} is not of the 1.x series", self.oci_version));
        }
        self.validate_namespaces()?;
        self.validate_mounts()?;
        for name in self.linux.sysctl.keys() {
            self.validate_sysctl(name)?;
        }
        for (name, value) in &self.linux.sysctl {
            if value.contains(['\n', '\0']) {
                return bad(format!("sysctl {name} has a line break in its value"));
            }
        }
        let hooks = &self.hooks;
        let lists = [
            &hooks.prestart,
            &hooks.create_runtime,
            &hooks.create_container,
            &hooks.start_container,
            &hooks.poststart,
            &hooks.poststop,
        ];
        lists.into_iter().flatten().try_for_each(Hook::validate)
    }

    fn validate_namespaces(&self) -> Result<()> {
        let linux = &self.linux;
        for (i, namespace) in linux.namespaces.iter().enumerate() {
            if linux.namespaces[..i].iter().any(|n| n.kind == namespace.kind) {
                return bad(format!("namespace {:?} is listed twice", namespace.kind));
            }
            if !namespace.path.is_empty() && !namespace.path.starts_with('/') {
                return bad(format!("namespace path {:?} is not absolute", namespace.path));
            }
        }
        match linux.namespace(NamespaceKind::Mount) {
            Some(n) if n.path.is_empty() => {}
            Some(_) => {
                return Err(Error::Unsupported("joining a mount namespace by path is not supported".into()));
            }
            None => {
                return Err(Error::Unsupported(
                    "a container without a mount namespace of its own is not supported".into(),
                ));
            }
        }
        let mappings = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        match linux.namespace(NamespaceKind::User) {
            Some(user) if user.path.is_empty() => {
                for (name, list) in
                    [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)]
                {
                    validate_mappings(name, list)?;
                    if !list.iter().any(|m| m.container_id == 0) {
                        return bad(format!("{name} must map the container's 0"));
                    }
                }
            }
            // Clients repeat the mappings of the namespace that is joined; they describe it and are not written.
            Some(_) => {}
            None if mappings => return bad("id mappings without a user namespace"),
            None => {}
        }
        let uts = linux.namespace(NamespaceKind::Uts).is_some();
        if !uts && !self.hostname.is_empty() {
            return bad("unable to set hostname without a private UTS namespace");
        }
        if !uts && !self.domainname.is_empty() {
            return bad("unable to set domainname without a private UTS namespace");
        }
        if !linux.time_offsets.is_empty() && !linux.makes(NamespaceKind::Time) {
            return bad("timeOffsets need a new time namespace");
        }
        if let Some(name) =
            linux.time_offsets.keys().find(|n| !matches!(n.as_str(), "monotonic" | "boottime"))
        {
            return bad(format!("timeOffsets: unknown clock {name:?}"));
        }
        if !linux.net_devices.is_empty() {
            if linux.namespace(NamespaceKind::Network).is_none() {
                return bad("unable to move network devices without a NET namespace");
            }
            for (name, device) in &linux.net_devices {
                let target = if device.name.is_empty() { name } else { &device.name };
                if !valid_interface(name) || !valid_interface(target) {
                    return bad(format!("invalid network device name {name:?} or {target:?}"));
                }
            }
        }
        Ok(())
    }

    fn validate_mounts(&self) -> Result<()> {
        for mount in &self.mounts {
            if mount.destination.is_empty() || mount.destination.contains('\0') {
                return bad("a mount has no destination");
            }
            validate_mappings("uidMappings", &mount.uid_mappings)?;
            validate_mappings("gidMappings", &mount.gid_mappings)?;
            if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
                return bad("id-mapped mounts must have both uid and gid mappings specified");
            }
        }
        for path in self.linux.masked_paths.iter().chain(&self.linux.readonly_paths) {
            if !path.starts_with('/') {
                return bad(format!("masked or read-only path {path:?} is not absolute"));
            }
        }
        Ok(())
    }

    /// Only what belongs to a namespace of the container may be set.
    fn validate_sysctl(&self, name: &str) -> Result<()> {
        let dotted = sysctl_dots(name);
        if dotted.is_empty() || dotted.split(['.', '/']).any(|part| part.is_empty()) {
            return bad(format!("sysctl {name:?} is not a name"));
        }
        if !dotted.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b)) {
            return bad(format!("sysctl {name:?} contains what no sysctl name does"));
        }
        let own = |kind| self.linux.namespace(kind).is_some();
        let ipc = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
        if dotted.strip_prefix("kernel.").is_some_and(|n| ipc.contains(&n))
            || dotted.starts_with("fs.mqueue.")
        {
            return if own(NamespaceKind::Ipc) {
                Ok(())
            } else {
                bad(format!("sysctl {name:?} is not allowed in the hosts ipc namespace"))
            };
        }
        if dotted.starts_with("net.") {
            let host = match self.linux.namespace(NamespaceKind::Network) {
                None => true,
                Some(n) if n.path.is_empty() => false,
                Some(n) => same_file(&n.path, "/proc/self/ns/net"),
            };
            return if host {
                bad(format!("sysctl {name:?} not allowed in host network namespace"))
            } else {
                Ok(())
            };
        }
        if dotted == "kernel.domainname" && own(NamespaceKind::Uts) {
            return Ok(());
        }
        if dotted == "kernel.hostname" && own(NamespaceKind::Uts) {
            return bad(
                "sysctl \"kernel.hostname\" is not allowed as it conflicts with the OCI \"hostname\" field",
            );
        }
        if dotted.starts_with("user.") && own(NamespaceKind::User) {
            return Ok(());
        }
        bad(format!("sysctl {name:?} is not in a separate kernel namespace"))
    }
}

impl Process {
    pub(super) fn validate(&self) -> Result<()> {
        match self.args.first() {
            None => return bad("process.args is empty"),
            Some(name) if name.is_empty() => return bad("process.args[0] is empty"),
            Some(_) => {}
        }
        if !self.cwd.starts_with('/') {
            return bad(format!("process.cwd {:?} is not absolute", self.cwd));
        }
        if self.args.iter().chain(&self.env).chain([&self.cwd]).any(|s| s.contains('\0')) {
            return bad("process args, env and cwd cannot contain NUL");
        }
        if self.user.uid == u32::MAX
            || self.user.gid == u32::MAX
            || self.user.additional_gids.contains(&u32::MAX)
        {
            return bad("user and group ids must be below 4294967295");
        }
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return bad(format!("oomScoreAdj {score} is not within -1000 and 1000"));
        }
        for (i, limit) in self.rlimits.iter().enumerate() {
            if limit.soft > limit.hard {
                return bad(format!("{}: soft limit is above the hard one", limit.name));
            }
            if self.rlimits[..i].iter().any(|l| l.name == limit.name) {
                return bad(format!("{} is listed twice", limit.name));
            }
        }
        Ok(())
    }
}

impl Hook {
    fn validate(&self) -> Result<()> {
        if !self.path.starts_with('/') || self.path.contains('\0') {
            return bad(format!("hook path {:?} is not absolute", self.path));
        }
        if self.timeout.is_some_and(|t| t <= 0) {
            return bad(format!("hook {}: timeout must be above zero", self.path));
        }
        Ok(())
    }
}

fn validate_mappings(name: &str, list: &[IdMapping]) -> Result<()> {
    for mapping in list {
        let end = |start: u32| u64::from(start) + u64::from(mapping.size);
        if mapping.size == 0 || end(mapping.container_id) > 1 << 32 || end(mapping.host_id) > 1 << 32 {
            return bad(format!("{name}: a range is empty or runs over the end"));
        }
    }
    Ok(())
}

fn valid_interface(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && !name.contains(['/', ':', ' ', '\0'])
}

fn same_file(a: &str, b: &str) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// A sysctl name with dots between its parts, as sysctl.d(5) reads both spellings: when `/` comes first, it separates
/// and `.` is part of a name.
pub fn sysctl_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(i) if name.as_bytes()[i] == b'/' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(linux: &str) -> Result<Spec> {
        Spec::parse(
            format!(
                r#"{{"ociVersion":"1.2.0","process":{{"args":["true"],"cwd":"/","user":{{}}}},
                "root":{{"path":"rootfs"}},"linux":{linux}}}"#
            )
            .as_bytes(),
        )
    }

    const NS: &str = r#""namespaces":[{"type":"mount"},{"type":"uts"},{"type":"ipc"},{"type":"network"}]"#;

    #[test]
    fn namespaces_are_checked() {
        with(&format!("{{{NS}}}")).unwrap();
        assert!(with("{}").is_err());
        assert!(with(r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#).is_err());
        assert!(with(r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#).is_err());
        assert!(
            with(r#"{"namespaces":[{"type":"mount"},{"type":"user","path":"/proc/1/ns/user"}]}"#).is_ok()
        );
    }

    #[test]
    fn sysctls_must_be_namespaced() {
        for good in
            ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/rp_filter", "kernel.sem", "fs.mqueue.msg_max"]
        {
            with(&format!(r#"{{{NS},"sysctl":{{"{good}":"1"}}}}"#)).unwrap();
        }
        for wrong in [
            "kernel.panic",
            "kernel.hostname",
            "vm.swappiness",
            "net..x",
            "net.a+b",
            "user.max_user_namespaces",
        ] {
            assert!(with(&format!(r#"{{{NS},"sysctl":{{"{wrong}":"1"}}}}"#)).is_err(), "{wrong}");
        }
        assert!(with(&format!(r#"{{{NS},"sysctl":{{"kernel.sem":"1\n2"}}}}"#)).is_err());
    }

    #[test]
    fn unknown_fields_are_passed_over_and_nulls_are_absent() {
        // Runtime specification, config.md, "Extensibility": a runtime must not fail over a property it does not know.
        with(&format!(r#"{{{NS},"newThing":true}}"#)).unwrap();
        with(&format!(r#"{{{NS},"devices":null,"resources":null,"sysctl":null,"seccomp":null}}"#)).unwrap();
    }

    #[test]
    fn ids_do_not_overflow() {
        for uid in ["4294967295", "4294967296", "-1"] {
            let json = format!(r#"{{"args":["a"],"cwd":"/","user":{{"uid":{uid}}}}}"#);
            assert!(Process::parse(json.as_bytes()).is_err(), "{uid}");
        }
    }

    #[test]
    fn processes_are_checked() {
        for wrong in [
            r#"{"cwd":"/"}"#,
            r#"{"args":["a"],"cwd":"x"}"#,
            r#"{"args":["a"],"cwd":"/","oomScoreAdj":-1001}"#,
            r#"{"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","soft":2,"hard":1}]}"#,
            r#"{"args":["a\u0000b"],"cwd":"/"}"#,
        ] {
            assert!(Process::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn slashes_and_dots_change_places() {
        assert_eq!(sysctl_dots("net/ipv4/conf/eno2.100/rp_filter"), "net.ipv4.conf.eno2/100.rp_filter");
        assert_eq!(sysctl_dots("net.ipv4.ip_forward"), "net.ipv4.ip_forward");
    }
}
