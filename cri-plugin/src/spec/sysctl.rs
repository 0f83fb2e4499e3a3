//! Kernel parameters of a pod. Only such as belong to a namespace of the pod's own are taken, and only names and values
//! that can mean one thing: whoever hands them on must not be made to see two where there is one.

use std::collections::BTreeMap;

use windlass_api::cri;

use super::error::{Result, invalid};
use super::settings::Settings;

/// Kernel parameters of System V IPC.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// All that a pod has set: what it asks for, checked, and what configuration adds.
pub fn sysctls(settings: &Settings, config: &cri::PodSandboxConfig) -> Result<BTreeMap<String, String>> {
    let linux = config.linux.as_ref();
    let options = linux.and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.as_ref());
    let node = cri::NamespaceMode::Node as i32;
    let own = Own {
        network: options.is_none_or(|o| o.network != node),
        ipc: options.is_none_or(|o| o.ipc != node),
        user: options
            .and_then(|o| o.userns_options.as_ref())
            .is_some_and(|u| u.mode == cri::NamespaceMode::Pod as i32),
    };
    let mut all = linux.map(|l| l.sysctls.clone()).unwrap_or_default();
    for (name, value) in &all {
        own.check(name)?;
        if value.is_empty() || value.contains('+') || value.chars().any(|c| c.is_control() && c != '\t') {
            return invalid(format!("value {value:?} of sysctl {name} is not one value"));
        }
    }
    if own.network {
        let mut default = |name: &str, value: &str| {
            if !all.keys().any(|k| dotted(k) == name) {
                all.insert(name.into(), value.into());
            }
        };
        if settings.config.enable_unprivileged_ports {
            default("net.ipv4.ip_unprivileged_port_start", "0");
        }
        // Within a user namespace the upper groups of the range do not exist.
        if settings.config.enable_unprivileged_icmp && !own.user {
            default("net.ipv4.ping_group_range", "0 2147483647");
        }
    }
    Ok(all)
}

/// Which namespaces a pod has of its own.
struct Own {
    network: bool,
    ipc: bool,
    user: bool,
}

impl Own {
    fn check(&self, name: &str) -> Result<()> {
        let dotted = dotted(name);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
        if dotted.split(['.', '/']).any(str::is_empty) || !dotted.bytes().all(plain) {
            return invalid(format!("{name:?} is not the name of a sysctl"));
        }
        let allowed = if dotted.starts_with("net.") {
            ("network", self.network)
        } else if dotted.starts_with("fs.mqueue.")
            || dotted.strip_prefix("kernel.").is_some_and(|n| IPC.contains(&n))
        {
            ("IPC", self.ipc)
        } else if dotted == "kernel.domainname" {
            ("UTS", self.network)
        } else if dotted.starts_with("user.") {
            ("user", self.user)
        } else {
            return invalid(format!(
                "sysctl {name} does not belong to a namespace: it would be the whole node's"
            ));
        };
        match allowed {
            (_, true) => Ok(()),
            (namespace, false) => {
                invalid(format!("sysctl {name} is not for a pod without a {namespace} namespace of its own"))
            }
        }
    }
}

/// A name with dots between its parts. Where a slash comes first it separates, and dots belong to names (sysctl.d(5)).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|i| name.as_bytes()[i]) {
        Some(b'/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(host_network: bool, host_ipc: bool, pairs: &[(&str, &str)]) -> cri::PodSandboxConfig {
        let mode = |host| if host { cri::NamespaceMode::Node as i32 } else { 0 };
        let options =
            cri::NamespaceOption { network: mode(host_network), ipc: mode(host_ipc), ..Default::default() };
        cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                sysctls: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn run(host_network: bool, host_ipc: bool, pair: (&str, &str)) -> Result<BTreeMap<String, String>> {
        sysctls(&Settings::default(), &pod(host_network, host_ipc, &[pair]))
    }

    #[test]
    fn only_what_is_the_pods_own() {
        for (name, plain, host_network, host_ipc) in [
            ("net.core.somaxconn", true, false, true),
            ("net/ipv4/conf/eth0.1/rp_filter", true, false, true),
            ("kernel.shm_rmid_forced", true, true, false),
            ("kernel.sem", true, true, false),
            ("fs.mqueue.msg_max", true, true, false),
            ("kernel/msgmax", true, true, false),
            ("kernel.domainname", true, false, true),
            ("kernel.hostname", false, false, false),
            ("kernel.panic", false, false, false),
            ("vm.swappiness", false, false, false),
            ("user.max_user_namespaces", false, false, false),
            ("fs.file-max", false, false, false),
        ] {
            assert_eq!(run(false, false, (name, "1")).is_ok(), plain, "{name}");
            assert_eq!(run(true, false, (name, "1")).is_ok(), host_network, "{name} on the host's network");
            assert_eq!(run(false, true, (name, "1")).is_ok(), host_ipc, "{name} with the host's IPC");
        }
    }

    #[test]
    fn nothing_is_smuggled() {
        for name in [
            "",
            ".",
            "net",
            "net.",
            "net..x",
            "net.a+b",
            "net.a\nb",
            "net/../kernel/panic",
            "net.x/../y",
            "net.a=b",
        ] {
            assert!(run(false, false, (name, "1")).is_err(), "{name:?}");
        }
        for value in ["", "1\n", "1\nkernel.panic=1", "1+kernel.panic=1", "1\0", "\r1"] {
            assert!(run(false, false, ("net.core.somaxconn", value)).is_err(), "{value:?}");
        }
        assert!(run(false, false, ("net.ipv4.tcp_rmem", "4096\t131072 6291456")).is_ok());
    }

    #[test]
    fn defaults_go_where_the_pod_says_nothing() {
        let names = |map: BTreeMap<String, String>| map.into_iter().collect::<Vec<_>>();
        let port = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        let ping = ("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        let settings = Settings::default();
        assert_eq!(names(sysctls(&settings, &Default::default()).unwrap()), [port.clone(), ping.clone()]);
        assert!(sysctls(&settings, &pod(true, false, &[])).unwrap().is_empty());
        let own = pod(false, false, &[("net/ipv4/ping_group_range", "0 0")]);
        let all = sysctls(&settings, &own).unwrap();
        assert_eq!(all.get("net/ipv4/ping_group_range").unwrap(), "0 0");
        assert!(!all.contains_key(&ping.0));
        let off = Settings::with(|config, _| {
            config.enable_unprivileged_icmp = false;
            config.enable_unprivileged_ports = false;
        });
        assert!(sysctls(&off, &Default::default()).unwrap().is_empty());
        let mut mapped = pod(false, false, &[]);
        let security = mapped.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().userns_options = Some(Default::default());
        assert_eq!(names(sysctls(&settings, &mapped).unwrap()), [port]);
    }
}
