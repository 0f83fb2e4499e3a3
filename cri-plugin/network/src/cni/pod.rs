//! What a plugin is told about a pod.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::config::is_name;
use crate::error::{Error, Result};

/// A pod as plugins know it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The sandbox's id, never used again for another.
    pub id: String,
    /// Where its network namespace is held.
    pub netns: PathBuf,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `CNI_ARGS` beyond those that every pod has.
    pub args: Vec<(String, String)>,
    pub capabilities: Capabilities,
}

/// What plugins get if they declare the capability of that name. The forms are those of CNI's conventions.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsServers>,
    /// Addresses to be given, with or without a prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "infinibandGUID")]
    pub infiniband_guid: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "deviceID")]
    pub device_id: Option<String>,
    /// Any other, by its name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Empty for every address of the host.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// Bits a second, and bits. Nought is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DnsServers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    pub subnet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_start: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_end: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
}

impl Pod {
    /// `CNI_ARGS`, as pairs.
    pub(super) fn args(&self) -> Vec<(String, String)> {
        let known = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &self.namespace),
            ("K8S_POD_NAME", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.id),
            ("K8S_POD_UID", &self.uid),
        ];
        let known = known.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        known.chain(self.args.iter().cloned()).collect()
    }

    pub(super) fn capability_args(&self) -> Map<String, Value> {
        match serde_json::to_value(&self.capabilities) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !is_name(&self.id) {
            return Err(Error::invalid("pod id", &self.id, "letters, digits, `_`, `.` and `-` are possible"));
        }
        // Such a character would begin another argument.
        let smuggles = |text: &str| text.contains(['=', ';', '\n', '\0']);
        match self.args().into_iter().find(|(name, value)| smuggles(name) || smuggles(value)) {
            Some((name, value)) => Err(Error::invalid(
                "CNI argument",
                format!("{name}={value}"),
                "`=` and `;` separate arguments",
            )),
            None => Ok(()),
        }
    }
}

/// `CNI_ARGS`, as the environment has it.
pub(super) fn join(args: &[(String, String)]) -> String {
    let each: Vec<_> = args.iter().map(|(name, value)| format!("{name}={value}")).collect();
    each.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_names_of_the_conventions() {
        let capabilities = Capabilities {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".into(),
                host_ip: "127.0.0.1".into(),
            }],
            bandwidth: Some(Bandwidth { ingress_rate: 1, ..Bandwidth::default() }),
            device_id: Some("0000:04:00.5".into()),
            other: [("io.kubernetes.cri.pod-annotations".into(), serde_json::json!({"a": "b"}))]
                .into_iter()
                .collect(),
            ..Capabilities::default()
        };
        let pod = Pod { capabilities, ..Pod::default() };
        let expected = serde_json::json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
            "bandwidth": {"ingressRate": 1, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0},
            "deviceID": "0000:04:00.5",
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
        });
        assert_eq!(Value::Object(pod.capability_args()), expected);
        assert!(Pod::default().capability_args().is_empty());
    }

    #[test]
    fn arguments_cannot_be_smuggled_in() {
        let pod = Pod { id: "a1".into(), name: "web".into(), ..Pod::default() };
        pod.validate().unwrap();
        let args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=a1;K8S_POD_UID=";
        assert_eq!(join(&pod.args()), args);
        assert!(Pod { name: "x;IP=10.0.0.1".into(), ..pod.clone() }.validate().is_err());
        assert!(Pod { id: "../x".into(), ..pod.clone() }.validate().is_err());
        assert!(Pod { id: String::new(), ..pod }.validate().is_err());
    }
}
