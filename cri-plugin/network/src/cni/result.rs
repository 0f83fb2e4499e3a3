//! What plugins answer, in the shape of every version of CNI, and from one version to another.
//!
//! 0.1 and 0.2 have `ip4` and `ip6`; 0.3 and 0.4 lists, with the family beside each address; 1.0 lists without it; 1.1
//! more about interfaces and routes. What an older version has no words for is left out.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::version::Version;

/// A result as the newest version has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: i64,
    /// Empty for one on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    #[serde(skip_serializing_if = "String::is_empty", rename = "pciID")]
    pub pci_id: String,
}

/// An address of the attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct Ip {
    pub address: Net,
    pub gateway: Option<IpAddr>,
    /// The interface's place in the list.
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub dst: Net,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "address")]
    pub gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub advmss: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub options: Vec<String>,
}

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    pub ip: IpAddr,
    pub prefix: u8,
}

/// What was found wrong, in words.
type Parsed<T> = Result<T, String>;

impl Answer {
    /// Reads a plugin's answer; also says in which version it is. One that names none is in that of the request, as
    /// every caller takes it.
    pub fn parse(value: &Value, requested: Version) -> Parsed<(Self, Version)> {
        if !value.is_object() {
            return Err("it is not an object".into());
        }
        let version = match value.get("cniVersion") {
            None | Some(Value::Null) => requested,
            Some(Value::String(text)) if text.is_empty() => requested,
            Some(Value::String(text)) => {
                Version::parse(text).ok_or_else(|| format!("its version {text:?} is not known"))?
            }
            Some(_) => return Err("`cniVersion` is not a string".into()),
        };
        let answer = if version < Version::V030 { Self::old(value)? } else { Self::new(value)? };
        match answer.ips.iter().filter_map(|ip| ip.interface).find(|i| *i >= answer.interfaces.len()) {
            Some(index) => Err(format!("an address is on interface {index}, of {}", answer.interfaces.len())),
            None => Ok((answer, version)),
        }
    }

    fn new(value: &Value) -> Parsed<Self> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default, deserialize_with = "or_default")]
            interfaces: Vec<Interface>,
            #[serde(default, deserialize_with = "or_default")]
            ips: Vec<WireIp>,
            #[serde(default, deserialize_with = "or_default")]
            routes: Vec<Route>,
            #[serde(default, deserialize_with = "or_default")]
            dns: Dns,
        }
        #[derive(Deserialize)]
        struct WireIp {
            address: Net,
            #[serde(default, deserialize_with = "address")]
            gateway: Option<IpAddr>,
            interface: Option<i64>,
        }
        let wire = Wire::deserialize(value).map_err(|e| e.to_string())?;
        let ip = |ip: WireIp| Ip {
            address: ip.address,
            gateway: ip.gateway,
            // Some write -1 for none.
            interface: ip.interface.and_then(|i| usize::try_from(i).ok()),
        };
        let ips = wire.ips.into_iter().map(ip).collect();
        Ok(Self { interfaces: wire.interfaces, ips, routes: wire.routes, dns: wire.dns })
    }

    fn old(value: &Value) -> Parsed<Self> {
        #[derive(Deserialize)]
        struct Wire {
            ip4: Option<WireIp>,
            ip6: Option<WireIp>,
            #[serde(default, deserialize_with = "or_default")]
            dns: Dns,
        }
        #[derive(Deserialize)]
        struct WireIp {
            ip: Net,
            #[serde(default, deserialize_with = "address")]
            gateway: Option<IpAddr>,
            #[serde(default, deserialize_with = "or_default")]
            routes: Vec<Route>,
        }
        let wire = Wire::deserialize(value).map_err(|e| e.to_string())?;
        let mut answer = Self { dns: wire.dns, ..Self::default() };
        for ip in [wire.ip4, wire.ip6].into_iter().flatten() {
            answer.ips.push(Ip { address: ip.ip, gateway: ip.gateway, interface: None });
            answer.routes.extend(ip.routes);
        }
        Ok(answer)
    }

    /// The answer in the words of a version. The oldest cannot say that there is no address.
    pub fn to_json(&self, version: Version) -> Parsed<Value> {
        let mut result = json!({ "cniVersion": version.as_str() });
        if version < Version::V030 {
            self.write_old(&mut result)?;
        } else {
            self.write_new(version, &mut result);
        }
        if self.dns != Dns::default() {
            result["dns"] = json!(self.dns);
        }
        Ok(result)
    }

    fn write_new(&self, version: Version, result: &mut Value) {
        if !self.interfaces.is_empty() {
            let old = |i: &Interface| Interface {
                mtu: 0,
                socket_path: String::new(),
                pci_id: String::new(),
                ..i.clone()
            };
            result["interfaces"] = match version {
                Version::V110 => json!(self.interfaces),
                _ => json!(self.interfaces.iter().map(old).collect::<Vec<_>>()),
            };
        }
        if !self.ips.is_empty() {
            result["ips"] = self.ips.iter().map(|ip| ip.to_json(version < Version::V100)).collect();
        }
        if !self.routes.is_empty() {
            result["routes"] = match version {
                Version::V110 => json!(self.routes),
                _ => json!(self.routes.iter().map(Route::plain).collect::<Vec<_>>()),
            };
        }
    }

    fn write_old(&self, result: &mut Value) -> Parsed<()> {
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.ip.is_ipv4() == v4) else { continue };
            let mut old = json!({ "ip": ip.address });
            if let Some(gateway) = ip.gateway {
                old["gateway"] = json!(gateway);
            }
            let routes: Vec<_> =
                self.routes.iter().filter(|r| r.dst.ip.is_ipv4() == v4).map(Route::plain).collect();
            if !routes.is_empty() {
                old["routes"] = json!(routes);
            }
            result[key] = old;
        }
        if self.ips.is_empty() {
            return Err("the result has no address, which its version of CNI cannot say".into());
        }
        Ok(())
    }
}

impl Ip {
    fn to_json(&self, family: bool) -> Value {
        let mut ip = json!({ "address": self.address });
        if family {
            ip["version"] = if self.address.ip.is_ipv4() { "4" } else { "6" }.into();
        }
        if let Some(gateway) = self.gateway {
            ip["gateway"] = json!(gateway);
        }
        if let Some(interface) = self.interface {
            ip["interface"] = interface.into();
        }
        ip
    }
}

impl Route {
    /// One that has nothing but its end.
    pub fn to(dst: Net) -> Self {
        Self { dst, gw: None, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// Without what came in 1.1.
    fn plain(&self) -> Self {
        Self { mtu: 0, advmss: 0, priority: 0, table: None, scope: None, ..self.clone() }
    }
}

impl Net {
    /// The network's own address: the one without the host's bits.
    pub fn network(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or_default();
                IpAddr::V4((ip.to_bits() & !host).into())
            }
            IpAddr::V6(ip) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or_default();
                IpAddr::V6((ip.to_bits() & !host).into())
            }
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Serialize for Net {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let net = text.split_once('/').and_then(|(ip, prefix)| {
            let (ip, prefix) = (ip.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
            (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Self { ip, prefix })
        });
        net.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an address with a prefix")))
    }
}

/// An address, where nothing and an empty string are none.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Some(ip.to_canonical())),
            Err(_) => Err(serde::de::Error::custom(format!("{text:?} is not an address"))),
        },
    }
}

/// `null` is nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cni0", "mac": "00:11:22:33:44:55"},
                {"name": "eth0", "mac": "99:88:77:66:55:44", "mtu": 1500, "sandbox": "/run/netns/x", "pciID": "p"},
            ],
            "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                {"address": "fd00::5/64", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "table": 7}, {"dst": "::/0", "gw": "fd00::1"}],
            "dns": {"nameservers": ["10.1.0.1"]},
        })
    }

    fn convert(value: &Value, to: Version) -> Value {
        Answer::parse(value, Version::V110).unwrap().0.to_json(to).unwrap()
    }

    #[test]
    fn the_newest_form_survives() {
        assert_eq!(convert(&full(), Version::V110), full());
    }

    #[test]
    fn older_forms() {
        let one = convert(&full(), Version::V100);
        assert_eq!(
            one["interfaces"][1],
            json!({"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/run/netns/x"})
        );
        assert_eq!(one["routes"][0], json!({"dst": "0.0.0.0/0"}));
        assert_eq!(one["ips"][0].get("version"), None);
        let four = convert(&full(), Version::V040);
        assert_eq!(four["cniVersion"], "0.4.0");
        assert_eq!(
            four["ips"],
            json!([
                {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                {"version": "6", "address": "fd00::5/64", "interface": 1},
            ])
        );
        let two = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
            "dns": {"nameservers": ["10.1.0.1"]},
        });
        assert_eq!(convert(&full(), Version::V020), two);
        // And up again, without the interfaces that 0.2 does not know.
        let up = convert(&two, Version::V031);
        assert_eq!(up["ips"][1], json!({"version": "6", "address": "fd00::5/64"}));
        assert_eq!(up["routes"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn no_address_has_no_old_form() {
        let (answer, _) = Answer::parse(&json!({"cniVersion": "1.0.0"}), Version::V110).unwrap();
        assert!(answer.to_json(Version::V020).is_err());
        assert_eq!(answer.to_json(Version::V100).unwrap(), json!({"cniVersion": "1.0.0"}));
    }

    #[test]
    fn a_version_that_is_missing_is_that_of_the_request() {
        let old = json!({"ip4": {"ip": "10.0.0.2/24"}});
        assert_eq!(Answer::parse(&old, Version::V020).unwrap().1, Version::V020);
        let null = json!({"cniVersion": "", "interfaces": null, "ips": null, "routes": null, "dns": null});
        assert_eq!(Answer::parse(&null, Version::V040).unwrap(), (Answer::default(), Version::V040));
    }

    #[test]
    fn nonsense_is_refused() {
        for value in [
            json!([]),
            json!("x"),
            json!({"cniVersion": "7.0.0"}),
            json!({"cniVersion": 1}),
            json!({"ips": "x"}),
            json!({"ips": [{"address": "10.0.0.1"}]}),
            json!({"ips": [{"address": "10.0.0.1/33"}]}),
            json!({"ips": [{"address": "10.0.0.1/24", "gateway": "door"}]}),
            json!({"ips": [{"address": "10.0.0.1/24", "interface": 0}]}),
            json!({"routes": [{}]}),
        ] {
            assert!(Answer::parse(&value, Version::V100).is_err(), "{value}");
        }
    }
}
