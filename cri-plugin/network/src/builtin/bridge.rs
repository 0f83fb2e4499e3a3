//! A pod as a port of a bridge: what the reference plugin `bridge` does, with `host-local`.
//!
//! On an error nothing is taken back here: whoever adds a pod deletes it again, and a deletion takes what there is, also
//! when it has no result to go by.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;

use super::error::Problem;
use super::host_local::{Owner, Store};
use super::settings::{Bridge, is_link_name};
use super::{Rules, blocking, file};
use crate::cni::{Answer, Interface, Ip, Net, Parameters, Route, Version};
use crate::namespaces::inside;
use crate::netlink::route::{Changes, Link, Mac, Pair, Routes};

/// How long a pod's cable may take to carry.
const CARRIER: Duration = Duration::from_secs(2);

pub struct Call {
    pub network: Bridge,
    pub parameters: Parameters,
    pub limit: Duration,
    /// See [`super::Builtin`].
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// What the host's side of an addition came to.
struct Attached {
    routes: Routes,
    /// Since before the pod's end came up.
    changes: Changes,
    bridge: Interface,
    host: String,
    ips: Vec<Ip>,
}

impl Call {
    pub async fn add(self, rules: Arc<Rules>) -> Result<Value, Problem> {
        let interface = self.parameters.if_name.clone();
        if !is_link_name(&interface) {
            return Err(Problem::Config(format!("interface {interface:?} is not a name of a link")));
        }
        let netns = PathBuf::from(&self.parameters.netns);
        let turn = self.turn.clone().lock_owned().await;
        let (call, attached) = blocking(move || {
            let _turn = turn;
            let attached = self.attach(&rules)?;
            Ok((self, attached))
        })
        .await?;
        // The host's socket is taken along: it stays the host's.
        inside(&netns, move || call.configure(attached)).await?
    }

    /// On the host: the bridge, its address, the pair, the pod's addresses, masquerading.
    fn attach(&self, rules: &Rules) -> Result<Attached, Problem> {
        let network = &self.network;
        let mut routes = Routes::open().map_err(Problem::kernel("open", "rtnetlink"))?;
        let bridge = self.ensure_bridge(&mut routes)?;
        let held = Path::new(&self.parameters.netns);
        let ns = std::fs::File::open(held).map_err(file("open", held))?;
        let host = format!("veth{:08x}", random()?);
        let pair = Pair {
            name: &host,
            bridge: bridge.index,
            peer: &self.parameters.if_name,
            peer_mac: network.mac,
            peer_ns: ns.as_fd(),
            mtu: network.mtu,
        };
        routes.add_pair(&pair).map_err(Problem::kernel("make pair of interfaces", &host))?;
        if network.hairpin {
            let port = link(&mut routes, &host)?;
            routes.set_hairpin(port.index).map_err(Problem::kernel("set hairpin mode of", &host))?;
        }
        let ips = self.reserve(rules)?;
        if network.is_gateway {
            for ip in &ips {
                self.ensure_gateway(&mut routes, &bridge, ip)?;
            }
        }
        let bridge = link(&mut routes, &network.bridge)?;
        let changes = Changes::follow().map_err(Problem::kernel("follow", "the links"))?;
        Ok(Attached { routes, changes, bridge: shown(&network.bridge, bridge.mac, ""), host, ips })
    }

    fn ensure_bridge(&self, routes: &mut Routes) -> Result<Link, Problem> {
        let name = &self.network.bridge;
        let found = match routes.link(name).map_err(Problem::kernel("look at", name))? {
            Some(link) => link,
            None => {
                match routes.add_bridge(name, self.network.mtu) {
                    // Made by another meanwhile.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Problem::kernel("make bridge", name)(errno)),
                }
                // Its routes are those that are given to it, not those that others announce.
                set_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0", false)?;
                link(routes, name)?
            }
        };
        if found.kind != "bridge" {
            return Err(Problem::NotBridge(name.clone()));
        }
        if self.network.promiscuous && !found.promiscuous() {
            routes.set_promiscuous(found.index).map_err(Problem::kernel("make promiscuous", name))?;
        }
        if !found.is_up() {
            routes.set_up(found.index).map_err(Problem::kernel("bring up", name))?;
        }
        Ok(found)
    }

    /// Gives the bridge the gateway's address and lets it forward.
    fn ensure_gateway(&self, routes: &mut Routes, bridge: &Link, ip: &Ip) -> Result<(), Problem> {
        let name = &self.network.bridge;
        let Some(gateway) = ip.gateway else { return Ok(()) };
        let wanted = Net { ip: gateway, prefix: ip.address.prefix };
        let there = routes.addresses(bridge.index).map_err(Problem::kernel("list addresses of", name))?;
        if !there.contains(&wanted) {
            for other in there.iter().filter(|net| conflicts(**net, wanted)) {
                if self.network.force_address {
                    let removed = routes.delete_address(bridge.index, *other);
                    removed.map_err(Problem::kernel("remove an address of", name))?;
                    continue;
                }
                return Err(Problem::OtherAddress { bridge: name.clone(), found: *other, wanted });
            }
            match (routes.add_address(bridge.index, wanted), bridge.mac) {
                // Set, it stays; otherwise it is the lowest of the ports' and changes as they come and go.
                (Ok(()), Some(mac)) => {
                    routes
                        .set_mac(bridge.index, mac)
                        .map_err(Problem::kernel("keep the address of", name))?;
                }
                // Another pod was quicker.
                (Ok(()), None) | (Err(Errno::EXIST), _) => {}
                (Err(errno), _) => return Err(Problem::kernel("give an address to", name)(errno)),
            }
        }
        let forward = if gateway.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
        set_sysctl(forward, "1", true)
    }

    /// Takes the pod's addresses. The rule for their subnet is there before the lock is given up, as it goes with the last
    /// address of the network.
    fn reserve(&self, rules: &Rules) -> Result<Vec<Ip>, Problem> {
        let network = &self.network;
        let store = Store::open(&network.data_dir, &network.network, self.limit)?;
        let mut ips = Vec::new();
        for (number, set) in network.ranges.iter().enumerate() {
            let (address, gateway) = store.reserve(number, set, self.owner())?;
            ips.push(Ip { address, gateway: Some(gateway), interface: Some(2) });
            if network.ip_masq {
                let subnet = Net { ip: address.network(), ..address };
                let ensured = rules.with(|masquerade| masquerade.ensure(&network.network, subnet));
                ensured.map_err(Problem::kernel("masquerade network", &network.network))?;
            }
        }
        Ok(ips)
    }

    fn owner(&self) -> Owner<'_> {
        Owner { container: &self.parameters.container_id, interface: &self.parameters.if_name }
    }

    /// In the pod: addresses and routes of its interface. Ends when the cable carries.
    fn configure(self, mut attached: Attached) -> Result<Value, Problem> {
        let name = &self.parameters.if_name;
        let mut routes = Routes::open().map_err(Problem::kernel("open", "rtnetlink"))?;
        let own = link(&mut routes, name)?;
        // Neighbours are told of the address when the interface comes up.
        set_sysctl(&format!("net/ipv4/conf/{name}/arp_notify"), "1", false)?;
        set_sysctl(&format!("net/ipv6/conf/{name}/ndisc_notify"), "1", false)?;
        let give = |routes: &mut Routes, ipv4: bool| {
            let given = attached.ips.iter().filter(|ip| ip.address.ip.is_ipv4() == ipv4);
            given.map(|ip| ip.address).try_for_each(|net| {
                let given = routes.add_address(own.index, net);
                given.map_err(Problem::kernel("give an address to", name))
            })
        };
        give(&mut routes, true)?;
        if attached.ips.iter().any(|ip| ip.address.ip.is_ipv6()) {
            for interface in [name.as_str(), "lo"] {
                set_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0", true)?;
            }
            // The pod may take its interface down and up.
            set_sysctl(&format!("net/ipv6/conf/{name}/keep_addr_on_down"), "1", false)?;
        }
        routes.set_up(own.index).map_err(Problem::kernel("bring up", name))?;
        give(&mut routes, false)?;
        let mut ways = self.network.routes;
        if self.network.is_default_gateway {
            add_default_routes(&mut ways, &attached.ips);
        }
        for route in &ways {
            let same = |ip: &&Ip| ip.address.ip.is_ipv4() == route.dst.ip.is_ipv4();
            let gateway = route.gw.or_else(|| attached.ips.iter().find(same).and_then(|ip| ip.gateway));
            let added = routes.add_route(own.index, route.dst, gateway);
            added.map_err(Problem::kernel("add a route to", route.dst.to_string()))?;
        }
        let host = carrying(&mut attached)?;
        let answer = Answer {
            interfaces: vec![
                attached.bridge,
                shown(&attached.host, host.mac, ""),
                shown(name, own.mac, &self.parameters.netns),
            ],
            ips: attached.ips,
            routes: ways,
            dns: self.network.dns,
        };
        answer.to_json(Version::V100).map_err(Problem::Config)
    }

    /// Takes away whatever there is of the pod: its interface, its addresses, and the rules with the network's last one.
    pub async fn del(self, rules: Arc<Rules>, request: &Value) -> Result<(), Problem> {
        let netns = PathBuf::from(&self.parameters.netns);
        let previous = previous(request);
        if !self.parameters.netns.is_empty() {
            let name = self.parameters.if_name.clone();
            inside(&netns, move || {
                let mut routes = Routes::open().map_err(Problem::kernel("open", "rtnetlink"))?;
                routes.delete(&name).map_err(Problem::kernel("delete interface", name))
            })
            .await??;
        }
        let turn = self.turn.clone().lock_owned().await;
        blocking(move || {
            let _turn = turn;
            let network = &self.network;
            let store = Store::open(&network.data_dir, &network.network, self.limit)?;
            let likely: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.ip).collect();
            store.release(self.owner(), &likely)?;
            if !network.ip_masq || !store.is_empty()? {
                return Ok(());
            }
            let removed = rules.with(|masquerade| masquerade.remove(&network.network));
            removed.map_err(Problem::kernel("end masquerading of", &network.network))
        })
        .await
    }

    /// Whether the pod's interface has the addresses and routes that it was given.
    pub async fn check(self, request: &Value) -> Result<(), Problem> {
        let (netns, name) = (PathBuf::from(&self.parameters.netns), self.parameters.if_name.clone());
        let previous = previous(request);
        inside(&netns, move || {
            let mut routes = Routes::open().map_err(Problem::kernel("open", "rtnetlink"))?;
            let own = link(&mut routes, &name)?;
            let there = routes.addresses(own.index).map_err(Problem::kernel("list addresses of", &name))?;
            if let Some(ip) = previous.ips.iter().find(|ip| !there.contains(&ip.address)) {
                return Err(Problem::Changed(format!("{name} has no longer {}", ip.address.ip)));
            }
            let there = routes.destinations(own.index).map_err(Problem::kernel("list routes of", &name))?;
            match previous.routes.iter().find(|route| !there.contains(&route.dst)) {
                None => Ok(()),
                Some(Route { dst, .. }) => {
                    Err(Problem::Changed(format!("{name} has no longer a route to {dst}")))
                }
            }
        })
        .await?
    }
}

/// The pod's gateways are its ways to everywhere.
fn add_default_routes(routes: &mut Vec<Route>, ips: &[Ip]) {
    for gateway in ips.iter().filter_map(|ip| ip.gateway) {
        let any = if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let dst = Net { ip: any, prefix: 0 };
        if !routes.iter().any(|route| route.dst == dst) {
            routes.push(Route { gw: Some(gateway), ..Route::to(dst) });
        }
    }
}

fn link(routes: &mut Routes, name: &str) -> Result<Link, Problem> {
    let found = routes.link(name).map_err(Problem::kernel("look at", name))?;
    found.ok_or_else(|| Problem::Changed(format!("interface {name:?} is gone")))
}

fn carrying(attached: &mut Attached) -> Result<Link, Problem> {
    let begun = Instant::now();
    loop {
        let found = link(&mut attached.routes, &attached.host)?;
        let left = CARRIER.saturating_sub(begun.elapsed());
        if found.carries {
            return Ok(found);
        }
        if left.is_zero() {
            return Err(Problem::Down(attached.host.clone()));
        }
        attached.changes.wait(left).map_err(Problem::kernel("wait for", &attached.host))?;
    }
}

/// The result of the addition; empty if there was none.
fn previous(request: &Value) -> Answer {
    let raw = request.get("prevResult").cloned().unwrap_or_default();
    Answer::parse(&raw, Version::V100).map(|(answer, _)| answer).unwrap_or_default()
}

/// An address that a bridge cannot have beside another: of IPv4 any, of IPv6 one of the same network.
fn conflicts(there: Net, wanted: Net) -> bool {
    match (there.ip, wanted.ip) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(ip), IpAddr::V6(_)) => {
            let within = |net: Net, prefix| Net { prefix, ..net }.network();
            let prefix = there.prefix.min(wanted.prefix);
            !ip.is_unicast_link_local() && within(there, prefix) == within(wanted, prefix)
        }
        _ => false,
    }
}

fn shown(name: &str, mac: Option<Mac>, sandbox: &str) -> Interface {
    let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    Interface {
        name: name.into(),
        mac: mac.unwrap_or_default(),
        sandbox: sandbox.into(),
        ..Interface::default()
    }
}

/// Sets a parameter of the calling thread's network namespace that does not have the value yet. One that is not there is an
/// error only where it is `needed`.
fn set_sysctl(name: &str, value: &str, needed: bool) -> Result<(), Problem> {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => return Ok(()),
        _ => {}
    }
    std::fs::write(&path, value).map_err(file("write", &path))
}

fn random() -> Result<u32, Problem> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Problem::Random(error.to_string()))?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_do_not_go_together() {
        let net = |text: &str| serde_json::from_value::<Net>(text.into()).unwrap();
        for (there, wanted, expected) in [
            ("10.1.0.1/16", "10.2.0.1/16", true),
            ("fd00::2/64", "fd00::1/64", true),
            ("fd00:1::1/64", "fd00:2::1/64", false),
            ("fe80::1/64", "fe80::2/64", false),
            ("10.1.0.1/16", "fd00::1/64", false),
        ] {
            assert_eq!(conflicts(net(there), net(wanted)), expected, "{there} {wanted}");
        }
    }
}
