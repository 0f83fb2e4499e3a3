//! Ranges of addresses, as host-local has them.

use std::net::IpAddr;

use crate::cni::Net;

/// Addresses of one subnet that may be given to pods: from the first to the last, the gateway's excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub subnet: Net,
    pub start: IpAddr,
    pub end: IpAddr,
    pub gateway: IpAddr,
}

impl Range {
    /// Empty words are host-local's defaults: the subnet's first address is the gateway's, and all but the network's own
    /// and IPv4's broadcast may be given away.
    pub fn new(subnet: Net, start: &str, end: &str, gateway: &str) -> Result<Self, String> {
        let bits: u8 = if subnet.ip.is_ipv4() { 32 } else { 128 };
        if subnet.network() != subnet.ip {
            return Err(format!("subnet {subnet} has host bits set"));
        }
        if subnet.prefix > bits - 2 {
            return Err(format!("subnet {subnet} is too small to take addresses from"));
        }
        let hosts = u128::MAX.checked_shr(u32::from(128 - bits + subnet.prefix)).unwrap_or_default();
        let at = |offset: u128| address(number(subnet.ip) + offset, bits);
        let read = |what: &str, text: &str, default: IpAddr| match text {
            "" => Ok(default),
            text => match text.parse::<IpAddr>() {
                Ok(ip) if Net { ip, prefix: subnet.prefix }.network() == subnet.ip => Ok(ip),
                _ => Err(format!("{what} {text:?} is not in {subnet}")),
            },
        };
        let broadcast = u128::from(bits == 32);
        let range = Self {
            subnet,
            start: read("rangeStart", start, at(1))?,
            end: read("rangeEnd", end, at(hosts - broadcast))?,
            gateway: read("gateway", gateway, at(1))?,
        };
        if range.start > range.end {
            Err(format!("range of {subnet} ends before it begins"))
        } else {
            Ok(range)
        }
    }

    fn has(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4() && (self.start..=self.end).contains(&ip)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.has(other.start) || other.has(self.start)
    }

    /// The pod's address with the length of the subnet's prefix.
    pub fn net(&self, ip: IpAddr) -> Net {
        Net { ip, prefix: self.subnet.prefix }
    }
}

/// All addresses of a set once, beginning behind the one that was given away last.
pub fn after(set: &[Range], last: Option<IpAddr>) -> impl Iterator<Item = (&Range, IpAddr)> {
    let place = last.and_then(|last| Some((set.iter().position(|range| range.has(last))?, last)));
    let (first, from) = match place {
        // Behind the last of a range comes the first of the next.
        Some((index, last)) if last == set[index].end => ((index + 1) % set.len(), None),
        Some((index, last)) => (index, next(last)),
        None => (0, None),
    };
    let count = set.len();
    let begin = from.unwrap_or(set[first].start);
    let upper = std::iter::once((&set[first], begin, set[first].end));
    let whole =
        (1..count).map(move |i| &set[(first + i) % count]).map(|range| (range, range.start, range.end));
    // What was left out at first comes at the end.
    let lower = (begin > set[first].start).then(|| previous(begin)).flatten();
    let lower = lower.map(|end| (&set[first], set[first].start, end));
    let spans = upper.chain(whole).chain(lower);
    spans.flat_map(|(range, start, end)| {
        let walk = std::iter::successors(Some(start), move |ip| if *ip == end { None } else { next(*ip) });
        walk.filter(|ip| *ip != range.gateway).map(move |ip| (range, ip))
    })
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(number: u128, bits: u8) -> IpAddr {
    if bits == 32 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().checked_add(1)?.into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().checked_add(1)?.into()),
    })
}

fn previous(ip: IpAddr) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().checked_sub(1)?.into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().checked_sub(1)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Result<Range, String> {
        Range::new(serde_json::from_value(subnet.into()).unwrap(), start, end, gateway)
    }

    fn walked(set: &[Range], last: &str) -> Vec<String> {
        after(set, last.parse().ok()).map(|(_, ip)| ip.to_string()).collect()
    }

    #[test]
    fn defaults_are_those_of_host_local() {
        let four = range("10.1.0.0/24", "", "", "").unwrap();
        let words = [four.gateway, four.start, four.end].map(|ip| ip.to_string());
        assert_eq!(words, ["10.1.0.1", "10.1.0.1", "10.1.0.254"]);
        let six = range("fd00:1::/64", "", "", "").unwrap();
        let words = [six.gateway, six.start, six.end].map(|ip| ip.to_string());
        assert_eq!(words, ["fd00:1::1", "fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff"]);
        assert!(range("0.0.0.0/0", "", "", "").is_ok() && range("::/0", "", "", "").is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for (subnet, start, end, gateway) in [
            ("10.1.0.1/24", "", "", ""),
            ("10.1.0.0/31", "", "", ""),
            ("fd00::/127", "", "", ""),
            ("10.1.0.0/24", "10.1.1.0", "", ""),
            ("10.1.0.0/24", "fd00::1", "", ""),
            ("10.1.0.0/24", "10.1.0.9", "10.1.0.8", ""),
            ("10.1.0.0/24", "", "", "door"),
        ] {
            assert!(range(subnet, start, end, gateway).is_err(), "{subnet} {start} {end} {gateway}");
        }
    }

    #[test]
    fn every_address_comes_once_and_the_next_one_first() {
        let set = [
            range("10.1.0.0/30", "", "", "").unwrap(),
            range("10.2.0.0/24", "10.2.0.5", "10.2.0.7", "10.2.0.6").unwrap(),
        ];
        assert_eq!(walked(&set, ""), ["10.1.0.2", "10.2.0.5", "10.2.0.7"]);
        assert_eq!(walked(&set, "10.1.0.2"), ["10.2.0.5", "10.2.0.7", "10.1.0.2"]);
        assert_eq!(walked(&set, "10.2.0.5"), ["10.2.0.7", "10.1.0.2", "10.2.0.5"]);
        assert_eq!(walked(&set, "10.2.0.7"), ["10.1.0.2", "10.2.0.5", "10.2.0.7"]);
        assert_eq!(walked(&set, "172.16.0.1"), walked(&set, ""), "no address of it");
        let top = [range("255.255.255.0/24", "255.255.255.253", "", "").unwrap()];
        assert_eq!(walked(&top, "255.255.255.254"), ["255.255.255.253", "255.255.255.254"]);
    }
}
