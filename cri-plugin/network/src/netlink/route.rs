//! Links, addresses and routes of the network namespace that a [`Routes`] was made in (rtnetlink(7)).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::{APPEND, CREATE, DUMP, EXCLUSIVE, Message, Request, Socket};
use crate::cni::Net;

// linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/veth.h: what libc does not have.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const IF_OPER_UP: u8 = 6;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Nobody else is looked for who has the address: whoever gave it knows.
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const RTMGRP_LINK: u32 = 1;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const UP: u32 = libc::IFF_UP as u32;

/// An address of hardware.
pub type Mac = [u8; 6];

/// What is known of a link.
#[derive(Debug)]
pub struct Link {
    pub index: i32,
    /// None where it has none of six bytes.
    pub mac: Option<Mac>,
    /// `bridge`, `veth` and so on; empty for hardware.
    pub kind: String,
    flags: u32,
    /// It is up, and so is what it is connected with.
    pub carries: bool,
}

impl Link {
    fn read(message: &Message) -> Option<Self> {
        let header: [u8; LINK_HEADER] = message.header()?;
        let four = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let info = message.attribute(LINK_HEADER, IFLA_LINKINFO);
        let kind = info.and_then(|info| super::find(info, IFLA_INFO_KIND)).unwrap_or_default();
        let kind = kind.strip_suffix(&[0]).unwrap_or(kind);
        Some(Self {
            index: i32::from_ne_bytes(four(4)),
            mac: message.attribute(LINK_HEADER, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
            kind: String::from_utf8_lossy(kind).into_owned(),
            flags: u32::from_ne_bytes(four(8)),
            carries: message.attribute(LINK_HEADER, IFLA_OPERSTATE) == Some(&[IF_OPER_UP]),
        })
    }

    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }

    pub fn promiscuous(&self) -> bool {
        self.flags & libc::IFF_PROMISC as u32 != 0
    }
}

/// ifinfomsg: the flags in `mask` are set to those in `flags`.
pub(super) fn link_header(index: i32, flags: u32, mask: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

/// A pair of interfaces with a cable between them.
pub struct Pair<'a> {
    /// Here, as a port of the bridge of this index.
    pub name: &'a str,
    pub bridge: i32,
    /// There.
    pub peer: &'a str,
    pub peer_mac: Option<Mac>,
    pub peer_ns: BorrowedFd<'a>,
    /// Nought for the kernel's own.
    pub mtu: u32,
}

/// Tells of every change of a link.
pub struct Changes(OwnedFd);

impl Changes {
    /// Of the calling thread's network namespace.
    pub fn follow() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        Ok(Self(fd))
    }

    /// Waits for the next one, but no longer than `limit`. What it was is to be looked at.
    pub fn wait(&self, limit: Duration) -> Result<(), Errno> {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                // More than the kernel kept, or than fits: it is not read anyhow.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

pub struct Routes(Socket);

impl Routes {
    /// Of the calling thread's network namespace.
    pub fn open() -> Result<Self, Errno> {
        Socket::open(None).map(Self)
    }

    /// None if there is no such link.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Errno> {
        let request = Request::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.fetch(request) {
            Ok(told) => Ok(told.first().and_then(Link::read)),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a bridge, down. `EEXIST` if there is a link of that name.
    pub fn add_bridge(&mut self, name: &str, mtu: u32) -> Result<(), Errno> {
        let request = Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, name);
        let request = if mtu > 0 { request.attribute(IFLA_MTU, &mtu.to_ne_bytes()) } else { request };
        self.0.ask(request.nested(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, "bridge")))
    }

    /// Makes a pair whose one end is a port of a bridge here and up, and whose other lies, down, in another namespace.
    pub fn add_pair(&mut self, pair: &Pair<'_>) -> Result<(), Errno> {
        let mtu = |r: Request| {
            if pair.mtu > 0 { r.attribute(IFLA_MTU, &pair.mtu.to_ne_bytes()) } else { r }
        };
        let peer = |r: Request| {
            let r = mtu(r.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, pair.peer));
            let r = r.attribute(IFLA_NET_NS_FD, &(pair.peer_ns.as_raw_fd() as u32).to_ne_bytes());
            match &pair.peer_mac {
                Some(mac) => r.attribute(IFLA_ADDRESS, mac),
                None => r,
            }
        };
        let request = Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, UP, UP));
        let request = mtu(request.text(IFLA_IFNAME, pair.name));
        let request = request.attribute(IFLA_MASTER, &pair.bridge.to_ne_bytes());
        self.0.ask(request.nested(IFLA_LINKINFO, |r| {
            let r = r.text(IFLA_INFO_KIND, "veth");
            r.nested(IFLA_INFO_DATA, |r| r.nested(VETH_INFO_PEER, peer))
        }))
    }

    pub fn set_up(&mut self, index: i32) -> Result<(), Errno> {
        self.0.ask(Request::new(libc::RTM_NEWLINK, 0, &link_header(index, UP, UP)))
    }

    /// The link takes what is meant for others.
    pub fn set_promiscuous(&mut self, index: i32) -> Result<(), Errno> {
        let flag = libc::IFF_PROMISC as u32;
        self.0.ask(Request::new(libc::RTM_NEWLINK, 0, &link_header(index, flag, flag)))
    }

    pub fn set_mac(&mut self, index: i32, mac: Mac) -> Result<(), Errno> {
        let header = link_header(index, 0, 0);
        self.0.ask(Request::new(libc::RTM_NEWLINK, 0, &header).attribute(IFLA_ADDRESS, &mac))
    }

    /// A port of a bridge sends back where it came from.
    pub fn set_hairpin(&mut self, index: i32) -> Result<(), Errno> {
        let mut header = link_header(index, 0, 0);
        header[0] = libc::AF_BRIDGE as u8;
        let request = Request::new(libc::RTM_SETLINK, 0, &header);
        self.0.ask(request.nested(IFLA_PROTINFO, |r| r.attribute(IFLA_BRPORT_MODE, &[1])))
    }

    /// Deletes a link, and with it the other end of a pair. False if there is none.
    pub fn delete(&mut self, name: &str) -> Result<bool, Errno> {
        let request = Request::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.ask(request) {
            Ok(()) => Ok(true),
            Err(Errno::NODEV) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The addresses of a link.
    pub fn addresses(&mut self, index: i32) -> Result<Vec<Net>, Errno> {
        let told = self.0.dump(|| Request::new(libc::RTM_GETADDR, DUMP, &[0; ADDRESS_HEADER]))?;
        let own = |message: &Message| {
            let header: [u8; ADDRESS_HEADER] = message.header()?;
            let of = i32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            let local = message.attribute(ADDRESS_HEADER, IFA_LOCAL);
            let bytes = local.or_else(|| message.attribute(ADDRESS_HEADER, IFA_ADDRESS))?;
            (of == index).then(|| Some(Net { ip: address(bytes)?, prefix: header[1] }))?
        };
        Ok(told.iter().filter_map(own).collect())
    }

    /// Gives a link an address. `EEXIST` if it has it.
    pub fn add_address(&mut self, index: i32, net: Net) -> Result<(), Errno> {
        let bytes = octets(net.ip);
        let request = Request::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &address_header(index, net));
        let mut request = request.attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
        request = match net.ip {
            IpAddr::V4(ip) if net.prefix < 31 => {
                let last = ip.to_bits() | u32::MAX.checked_shr(net.prefix.into()).unwrap_or_default();
                request.attribute(IFA_BROADCAST, &last.to_be_bytes())
            }
            IpAddr::V4(_) => request,
            IpAddr::V6(_) => request.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()),
        };
        self.0.ask(request)
    }

    pub fn delete_address(&mut self, index: i32, net: Net) -> Result<(), Errno> {
        let request = Request::new(libc::RTM_DELADDR, 0, &address_header(index, net));
        self.0.ask(request.attribute(IFA_LOCAL, &octets(net.ip)))
    }

    /// A way to a network: by a gateway, or straight; one more where there is one already.
    pub fn add_route(&mut self, index: i32, dst: Net, gateway: Option<IpAddr>) -> Result<(), Errno> {
        let straight = gateway.is_none();
        let mut header = [0; ROUTE_HEADER];
        header[0] = family(dst.ip);
        header[1] = dst.prefix;
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = libc::RTPROT_BOOT;
        header[6] = if straight { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
        header[7] = libc::RTN_UNICAST;
        let mut request = Request::new(libc::RTM_NEWROUTE, CREATE | APPEND, &header);
        if dst.prefix > 0 {
            request = request.attribute(RTA_DST, &octets(dst.ip));
        }
        if let Some(gateway) = gateway {
            request = request.attribute(RTA_GATEWAY, &octets(gateway));
        }
        self.0.ask(request.attribute(RTA_OIF, &index.to_ne_bytes()))
    }

    /// Where the main table's routes over a link lead to.
    pub fn destinations(&mut self, index: i32) -> Result<Vec<Net>, Errno> {
        let told = self.0.dump(|| Request::new(libc::RTM_GETROUTE, DUMP, &[0; ROUTE_HEADER]))?;
        let own = |message: &Message| {
            let header: [u8; ROUTE_HEADER] = message.header()?;
            let over = message.attribute(ROUTE_HEADER, RTA_OIF)?;
            if over != index.to_ne_bytes() || header[4] != libc::RT_TABLE_MAIN {
                return None;
            }
            let any = if header[0] == libc::AF_INET as u8 { [0; 4].into() } else { [0; 16].into() };
            let ip = message.attribute(ROUTE_HEADER, RTA_DST).map_or(Some(any), address)?;
            Some(Net { ip, prefix: header[1] })
        };
        Ok(told.iter().filter_map(own).collect())
    }
}

/// ifaddrmsg.
fn address_header(index: i32, net: Net) -> [u8; ADDRESS_HEADER] {
    let mut header = [0; ADDRESS_HEADER];
    header[0] = family(net.ip);
    header[1] = net.prefix;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
