//! What a pod's networks came to: all results in one view.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::result::{Answer, Dns, Route};
use super::version::Version;

/// The interface that a pod's own addresses are on.
pub const DEFAULT_INTERFACE: &str = "eth0";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// By name, those of the host included; a sandbox tells them apart.
    pub interfaces: BTreeMap<String, InterfaceConfig>,
    /// One for each network.
    pub dns: Vec<Dns>,
    pub routes: Vec<Route>,
    /// The results as the networks' last plugins gave them, in the order of the interfaces.
    pub raw: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceConfig {
    pub ips: Vec<IpConfig>,
    pub mac: String,
    pub sandbox: String,
    pub pci_id: String,
    pub socket_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    pub ip: IpAddr,
    pub gateway: Option<IpAddr>,
}

/// Which of a pod's addresses is the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpPreference {
    #[default]
    Ipv4,
    Ipv6,
    /// As the plugins had them.
    Cni,
}

impl IpPreference {
    /// The names of the configuration key `ip_pref`; none is IPv4.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "ipv4" => Some(Self::Ipv4),
            "ipv6" => Some(Self::Ipv6),
            "cni" => Some(Self::Cni),
            _ => None,
        }
    }
}

impl Outcome {
    /// Joins results with the names that their interfaces were asked to have. Loopback is added: it is brought up with
    /// the namespace, not by a plugin.
    pub(super) fn new(
        netns: &Path,
        results: impl IntoIterator<Item = (String, Value, Version)>,
    ) -> Result<Self, String> {
        let mut outcome = Self::default();
        outcome.interfaces.insert("lo".into(), loopback(netns));
        for (ifname, raw, version) in results {
            let (answer, _) = Answer::parse(&raw, version)?;
            outcome.interfaces.entry(ifname.clone()).or_default();
            for interface in &answer.interfaces {
                let entry = outcome.interfaces.entry(interface.name.clone()).or_default();
                entry.mac.clone_from(&interface.mac);
                entry.sandbox.clone_from(&interface.sandbox);
                entry.pci_id.clone_from(&interface.pci_id);
                entry.socket_path.clone_from(&interface.socket_path);
            }
            for ip in &answer.ips {
                let name = ip.interface.map_or(&ifname, |index| &answer.interfaces[index].name);
                let entry = outcome.interfaces.entry(name.clone()).or_default();
                entry.ips.push(IpConfig { ip: ip.address.ip, gateway: ip.gateway });
            }
            outcome.dns.push(answer.dns);
            outcome.routes.extend(answer.routes);
            outcome.raw.push(raw);
        }
        Ok(outcome)
    }

    /// The addresses of `eth0`, the pod's own first. Empty where the plugins gave it none.
    pub fn primary_ips(&self, preference: IpPreference) -> Vec<IpAddr> {
        let configs = self.interfaces.get(DEFAULT_INTERFACE).map_or(&[][..], |config| &config.ips);
        let mut ips: Vec<IpAddr> = configs.iter().map(|config| config.ip).collect();
        let first = match preference {
            IpPreference::Ipv4 => ips.iter().position(IpAddr::is_ipv4),
            IpPreference::Ipv6 => ips.iter().position(IpAddr::is_ipv6),
            IpPreference::Cni => None,
        };
        if let Some(first) = first {
            ips[..=first].rotate_right(1);
        }
        ips
    }

    /// The form in which a verbose status has it (`cniResult`).
    pub fn to_json(&self) -> Value {
        let interface = |config: &InterfaceConfig| {
            let ip = |ip: &IpConfig| {
                let gateway = ip.gateway.map_or(String::new(), |gateway| gateway.to_string());
                json!({ "IP": ip.ip, "Gateway": gateway })
            };
            let ips: Option<Vec<Value>> =
                (!config.ips.is_empty()).then(|| config.ips.iter().map(ip).collect());
            json!({
                "IPConfigs": ips,
                "Mac": config.mac,
                "Sandbox": config.sandbox,
                "PciID": config.pci_id,
                "SocketPath": config.socket_path,
            })
        };
        let interfaces: serde_json::Map<_, _> =
            self.interfaces.iter().map(|(name, config)| (name.clone(), interface(config))).collect();
        let routes = (!self.routes.is_empty()).then_some(&self.routes);
        json!({ "Interfaces": interfaces, "DNS": self.dns, "Routes": routes })
    }
}

fn loopback(netns: &Path) -> InterfaceConfig {
    static IPV6: OnceLock<bool> = OnceLock::new();
    let ipv6 =
        *IPV6.get_or_init(|| rustix::fs::access("/proc/net/if_inet6", rustix::fs::Access::EXISTS).is_ok());
    let v4 = IpConfig { ip: Ipv4Addr::LOCALHOST.into(), gateway: None };
    let v6 = IpConfig { ip: Ipv6Addr::LOCALHOST.into(), gateway: None };
    InterfaceConfig {
        ips: [Some(v4), ipv6.then_some(v6)].into_iter().flatten().collect(),
        mac: "00:00:00:00:00:00".into(),
        sandbox: netns.display().to_string(),
        ..InterfaceConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let first = json!({
            "interfaces": [{"name": "veth1"}, {"name": "eth0", "mac": "aa:bb:cc:dd:ee:ff", "sandbox": "/n"}],
            "ips": [
                {"address": "fd00::5/64", "interface": 1},
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                {"address": "10.1.0.6/16", "interface": 1},
            ],
        });
        let second = json!({"ip4": {"ip": "10.2.0.5/16", "routes": [{"dst": "0.0.0.0/0"}]}});
        let results = [("eth0".to_owned(), first, Version::V100), ("eth1".to_owned(), second, Version::V020)];
        Outcome::new(Path::new("/n"), results).unwrap()
    }

    #[test]
    fn addresses_are_where_they_belong() {
        let outcome = outcome();
        let names: Vec<_> = outcome.interfaces.keys().map(String::as_str).collect();
        assert_eq!(names, ["eth0", "eth1", "lo", "veth1"]);
        assert_eq!(outcome.interfaces["eth0"].ips[1].gateway, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(outcome.interfaces["eth1"].ips[0].ip.to_string(), "10.2.0.5");
        assert_eq!(outcome.interfaces["lo"].sandbox, "/n");
        let json = outcome.to_json();
        assert_eq!(json["Interfaces"]["eth0"]["Mac"], "aa:bb:cc:dd:ee:ff");
        assert_eq!(
            json["Interfaces"]["eth0"]["IPConfigs"][1],
            json!({"IP": "10.1.0.5", "Gateway": "10.1.0.1"})
        );
        assert_eq!(json["Routes"], json!([{"dst": "0.0.0.0/0"}]));
    }

    #[test]
    fn the_first_address_is_the_preferred_one() {
        let ips = |preference| {
            let ips = outcome().primary_ips(preference);
            ips.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ips(IpPreference::Cni), ["fd00::5", "10.1.0.5", "10.1.0.6"]);
        assert_eq!(ips(IpPreference::Ipv6), ["fd00::5", "10.1.0.5", "10.1.0.6"]);
        assert_eq!(ips(IpPreference::Ipv4), ["10.1.0.5", "fd00::5", "10.1.0.6"]);
    }
}
