//! The keys of a bridge network that are known here. Any other makes it the plugin's business.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::error::Problem;
use super::ranges::Range;
use crate::cni::{Dns, Net, Route};
use crate::netlink::route::Mac;

/// A checked configuration.
#[derive(Debug)]
pub struct Bridge {
    pub network: String,
    pub bridge: String,
    pub is_gateway: bool,
    pub force_address: bool,
    pub ip_masq: bool,
    pub hairpin: bool,
    pub promiscuous: bool,
    /// Nought for the kernel's own.
    pub mtu: u32,
    /// What the pod's interface is to have.
    pub mac: Option<Mac>,
    pub dns: Dns,
    /// Where the networks' addresses are kept.
    pub data_dir: PathBuf,
    /// An address is taken from one range of each set.
    pub ranges: Vec<Vec<Range>>,
    pub routes: Vec<Route>,
    /// The bridge is the way to everywhere, in each family that the pod has an address of.
    pub is_default_gateway: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "keys that mean nothing here are known ones all the same")]
struct Wire {
    cni_version: Value,
    cni_versions: Option<Value>,
    name: String,
    r#type: String,
    capabilities: Option<Value>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Value>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default = "cni0")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    dns: Dns,
    ipam: Ipam,
}

/// Only what a plugin declares as its capability comes here.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeConfig {
    #[serde(default)]
    mac: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ipam {
    r#type: String,
    #[serde(default)]
    data_dir: String,
    #[serde(default)]
    ranges: Vec<Vec<WireRange>>,
    #[serde(default)]
    routes: Vec<WireRoute>,
    /// The form of old: one range, its keys beside the others.
    subnet: Option<Net>,
    #[serde(default)]
    range_start: String,
    #[serde(default)]
    range_end: String,
    #[serde(default)]
    gateway: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireRange {
    subnet: Net,
    #[serde(default)]
    range_start: String,
    #[serde(default)]
    range_end: String,
    #[serde(default)]
    gateway: String,
}

/// Without what came in 1.1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRoute {
    dst: Net,
    #[serde(default)]
    gw: String,
}

fn cni0() -> String {
    "cni0".into()
}

impl Bridge {
    /// Reads what a plugin would read.
    pub fn parse(request: &Value) -> Result<Self, Problem> {
        let wire = Wire::deserialize(request).map_err(|error| Problem::Config(error.to_string()))?;
        let config = |why: String| Problem::Config(why);
        if wire.ipam.r#type != "host-local" {
            return Err(config(format!("ipam type {:?} is a plugin's", wire.ipam.r#type)));
        }
        if !is_link_name(&wire.bridge) {
            return Err(config(format!("bridge {:?} is not a name of a link", wire.bridge)));
        }
        let ipam = wire.ipam;
        let mut ranges = ipam.ranges;
        if let Some(subnet) = ipam.subnet {
            let (range_start, range_end) = (ipam.range_start, ipam.range_end);
            let range = WireRange { subnet, range_start, range_end, gateway: ipam.gateway };
            ranges.insert(0, vec![range]);
        }
        if ranges.is_empty() || ranges.iter().any(Vec::is_empty) {
            return Err(config("ipam has no range of addresses".into()));
        }
        let range =
            |r: WireRange| Range::new(r.subnet, &r.range_start, &r.range_end, &r.gateway).map_err(config);
        let set = |set: Vec<WireRange>| set.into_iter().map(range).collect::<Result<Vec<_>, _>>();
        let ranges = ranges.into_iter().map(set).collect::<Result<Vec<_>, _>>()?;
        check(&ranges).map_err(config)?;
        if wire.hairpin_mode && wire.promisc_mode {
            return Err(config("hairpinMode and promiscMode do not go together".into()));
        }
        let routes = ipam.routes.into_iter().map(route).collect::<Result<Vec<_>, _>>().map_err(config)?;
        Ok(Self {
            network: wire.name,
            bridge: wire.bridge,
            is_gateway: wire.is_gateway || wire.is_default_gateway,
            force_address: wire.force_address,
            ip_masq: wire.ip_masq,
            hairpin: wire.hairpin_mode,
            promiscuous: wire.promisc_mode,
            mtu: wire.mtu,
            mac: mac(&wire.runtime_config.mac).map_err(config)?,
            dns: wire.dns,
            data_dir: match ipam.data_dir.as_str() {
                "" => "/var/lib/cni/networks".into(),
                dir => dir.into(),
            },
            ranges,
            routes,
            is_default_gateway: wire.is_default_gateway,
        })
    }
}

/// No address is in two ranges, and those of a set are of one family.
fn check(ranges: &[Vec<Range>]) -> Result<(), String> {
    let all: Vec<_> = ranges.iter().flatten().collect();
    for (i, range) in all.iter().enumerate() {
        if let Some(other) = all[..i].iter().find(|other| other.overlaps(range)) {
            return Err(format!(
                "ranges {}-{} and {}-{} overlap",
                other.start, other.end, range.start, range.end
            ));
        }
    }
    match ranges.iter().any(|set| set.iter().any(|range| range.start.is_ipv4() != set[0].start.is_ipv4())) {
        true => Err("a set of ranges has both families".into()),
        false => Ok(()),
    }
}

fn route(route: WireRoute) -> Result<Route, String> {
    let gw = match route.gw.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("gw {text:?} is not an address"))?),
    };
    Ok(Route { gw, ..Route::to(route.dst) })
}

fn mac(text: &str) -> Result<Option<Mac>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| format!("mac {text:?} is not six bytes"))?;
    }
    if parts.next().is_some() { Err(format!("mac {text:?} is not six bytes")) } else { Ok(Some(mac)) }
}

/// What the kernel takes as a link's name; it becomes part of paths.
pub fn is_link_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    !name.is_empty() && name.len() < 16 && !matches!(name, "." | "..") && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "subnet": "10.1.0.0/16", "rangeStart": "10.1.2.0",
                "routes": [{"dst": "192.168.0.0/16", "gw": "10.1.0.9"}],
            },
        })
    }

    #[test]
    fn a_network_is_read() {
        let mut conf = request();
        conf["runtimeConfig"] = json!({"mac": "02:00:00:00:00:0a"});
        let bridge = Bridge::parse(&conf).unwrap();
        assert!(bridge.is_gateway && bridge.ip_masq && !bridge.hairpin);
        assert_eq!(bridge.mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(bridge.data_dir, PathBuf::from("/var/lib/cni/networks"));
        let routes: Vec<_> =
            bridge.routes.iter().map(|r| (r.dst.prefix, r.gw.unwrap().to_string())).collect();
        assert_eq!((routes, bridge.is_default_gateway), (vec![(16, "10.1.0.9".to_owned())], true));
        assert_eq!(bridge.ranges[0][0].start.to_string(), "10.1.2.0");
    }

    #[test]
    fn what_is_not_known_is_the_plugins_business() {
        assert!(Bridge::parse(&request()).is_ok());
        for (pointer, value) in [
            ("", json!({"vlan": 7})),
            ("", json!({"macspoofchk": true})),
            ("", json!({"args": {"cni": {"ips": ["10.1.0.7"]}}})),
            ("", json!({"runtimeConfig": {"ips": ["10.1.0.7"]}})),
            ("", json!({"bridge": "../x"})),
            ("", json!({"bridge": "a-name-that-is-too-long"})),
            ("", json!({"runtimeConfig": {"mac": "02:00"}})),
            ("", json!({"hairpinMode": true, "promiscMode": true})),
            ("/ipam", json!({"ranges": [[{"subnet": "10.1.4.0/24"}]]})),
            ("/ipam", json!({"ranges": [[{"subnet": "10.2.0.0/24"}, {"subnet": "fd00::/64"}]]})),
            ("/ipam", json!({"type": "dhcp"})),
            ("/ipam", json!({"resolvConf": "/etc/resolv.conf"})),
            ("/ipam", json!({"subnet": "10.1.0.0/33"})),
            ("/ipam", json!({"rangeStart": "10.2.0.0"})),
            ("/ipam", json!({"routes": [{"dst": "0.0.0.0/0", "mtu": 1400}]})),
        ] {
            let mut conf = request();
            let map = conf.pointer_mut(pointer).and_then(Value::as_object_mut).unwrap();
            map.extend(value.as_object().unwrap().clone());
            assert!(Bridge::parse(&conf).is_err(), "{value}");
        }
    }
}
