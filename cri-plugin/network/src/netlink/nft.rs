//! Masquerading, as rules of nftables in tables of our own (`nft list table ip windlass`).
//!
//! A rule belongs to a network, which its comment names, and to one of its subnets: what goes from the subnet to an
//! address outside it, multicast excepted, takes the host's address. Other tables, and rules in ours that have another
//! comment, are left as they are.

use std::net::IpAddr;

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::route::octets;
use super::{APPEND, CREATE, DUMP, Message, Request, Socket};
use crate::cni::Net;

const TABLE: &str = "windlass";
const CHAIN: &str = "masquerade";
/// Of source translation, as nft names it (`srcnat`).
const PRIORITY: i32 = 100;

const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const HEADER: usize = 4;

// linux/netfilter/nf_tables.h: what libc does not have.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const REGISTER: u32 = 1;
/// The type of a comment among a rule's user data (libnftnl/udata.h).
const COMMENT: u8 = 0;

/// The rules of the network namespace that this was opened in. To be kept: when such a socket is closed, the kernel waits
/// until what was deleted through it is really gone.
pub struct Masquerade(Socket);

/// An address family's part of the table.
#[derive(Clone, Copy)]
struct Family {
    number: u8,
    source: u32,
    destination: u32,
    length: u32,
    multicast: Net,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        // Where the addresses stand in the header, from RFC 791 and RFC 8200.
        match ip {
            IpAddr::V4(_) => Self {
                number: libc::NFPROTO_IPV4 as u8,
                source: 12,
                destination: 16,
                length: 4,
                multicast: Net { ip: IpAddr::from([224, 0, 0, 0]), prefix: 4 },
            },
            IpAddr::V6(_) => Self {
                number: libc::NFPROTO_IPV6 as u8,
                source: 8,
                destination: 24,
                length: 16,
                multicast: Net { ip: IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), prefix: 8 },
            },
        }
    }

    fn message(self, kind: i32, flags: u16) -> Request {
        let kind = SUBSYSTEM << 8 | kind as u16;
        Request::new(kind, flags, &[self.number, libc::NFNETLINK_V0 as u8, 0, 0])
    }
}

impl Masquerade {
    /// Of the calling thread's network namespace; an error where the kernel has no nftables.
    pub fn open() -> Result<Self, Errno> {
        let mut socket = Socket::open(Some(NETFILTER))?;
        let any = Family { number: libc::NFPROTO_UNSPEC as u8, ..Family::of([0; 4].into()) };
        socket.fetch(any.message(libc::NFT_MSG_GETTABLE, DUMP))?;
        Ok(Self(socket))
    }

    /// Has the network's rule for a subnet, if it is not there.
    pub fn ensure(&mut self, network: &str, subnet: Net) -> Result<(), Errno> {
        let (family, comment) = (Family::of(subnet.ip), comment(network, subnet));
        if self.rules(family)?.iter().any(|rule| rule.userdata == comment) {
            return Ok(());
        }
        let table = family.message(libc::NFT_MSG_NEWTABLE, CREATE).text(TABLE_NAME, TABLE);
        let chain = family.message(libc::NFT_MSG_NEWCHAIN, CREATE);
        let chain = chain.text(CHAIN_TABLE, TABLE).text(CHAIN_NAME, CHAIN).text(CHAIN_TYPE, "nat");
        let chain = chain.nested(CHAIN_HOOK, |r| {
            let r = r.attribute(HOOK_NUMBER, &(libc::NF_INET_POST_ROUTING as u32).to_be_bytes());
            r.attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes())
        });
        let rule = family.message(libc::NFT_MSG_NEWRULE, CREATE | APPEND);
        let rule = rule.text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN);
        let rule = rule.nested(RULE_EXPRESSIONS, |r| {
            let r = matched(r, family, family.source, subnet, true);
            let r = matched(r, family, family.destination, subnet, false);
            let r = matched(r, family, family.destination, family.multicast, false);
            expression(r, "masq", |r| r)
        });
        self.commit(vec![table, chain, rule.attribute(RULE_USERDATA, &comment)])
    }

    /// Takes all rules of a network away, and what holds no rule any more.
    pub fn remove(&mut self, network: &str) -> Result<(), Errno> {
        [IpAddr::from([0; 4]), IpAddr::from([0; 16])]
            .into_iter()
            .try_for_each(|any| self.remove_in(Family::of(any), &comment_start(network)))
    }

    fn remove_in(&mut self, family: Family, start: &str) -> Result<(), Errno> {
        let rules = self.rules(family)?;
        let (own, others): (Vec<_>, Vec<_>) = rules
            .into_iter()
            .partition(|rule| rule.userdata.get(2..).is_some_and(|text| text.starts_with(start.as_bytes())));
        if own.is_empty() {
            return Ok(());
        }
        let delete = |rule: Rule| {
            let request = family.message(libc::NFT_MSG_DELRULE, 0);
            let request = request.text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN);
            request.attribute(RULE_HANDLE, &rule.handle)
        };
        let mut all: Vec<_> = own.into_iter().map(delete).collect();
        if others.is_empty() {
            all = vec![family.message(libc::NFT_MSG_DELTABLE, 0).text(TABLE_NAME, TABLE)];
        }
        self.commit(all)
    }

    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, Errno> {
        let request =
            || family.message(libc::NFT_MSG_GETRULE, DUMP).text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN);
        match self.0.dump(request) {
            Ok(told) => Ok(told.iter().filter_map(Rule::read).collect()),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    fn commit(&mut self, changes: Vec<Request>) -> Result<(), Errno> {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        let mark = |kind: i32| Request::new(kind as u16, 0, &[0, libc::NFNETLINK_V0 as u8, high, low]);
        let mut all = vec![mark(libc::NFNL_MSG_BATCH_BEGIN)];
        all.extend(changes);
        all.push(mark(libc::NFNL_MSG_BATCH_END));
        self.0.batch(all)
    }
}

struct Rule {
    handle: [u8; 8],
    userdata: Vec<u8>,
}

impl Rule {
    fn read(message: &Message) -> Option<Self> {
        // A kernel that does not filter tells of all tables.
        let is = |kind, text: &str| {
            message.attribute(HEADER, kind).and_then(|name| name.strip_suffix(&[0])) == Some(text.as_bytes())
        };
        if !is(RULE_TABLE, TABLE) || !is(RULE_CHAIN, CHAIN) {
            return None;
        }
        let handle = message.attribute(HEADER, RULE_HANDLE)?.try_into().ok()?;
        let userdata = message.attribute(HEADER, RULE_USERDATA).unwrap_or_default().to_vec();
        Some(Self { handle, userdata })
    }
}

/// How the comments of a network's rules begin.
fn comment_start(network: &str) -> String {
    format!("network {network} ")
}

/// A rule's comment as nft shows it: type, length, text with a nought.
fn comment(network: &str, subnet: Net) -> Vec<u8> {
    let mut text = format!("{}{subnet}", comment_start(network)).into_bytes();
    // A network's name may have 200 bytes, a comment 255.
    text.push(0);
    let mut all = vec![COMMENT, text.len() as u8];
    all.extend(text);
    all
}

/// The address at `offset` of the packet's header is in a network, or is not.
fn matched(request: Request, family: Family, offset: u32, net: Net, inside: bool) -> Request {
    let be = |number: u32| number.to_be_bytes();
    let mask: Vec<u8> = octets(net.ip)
        .iter()
        .enumerate()
        .map(|(i, _)| {
            let bits = usize::from(net.prefix).saturating_sub(i * 8).min(8);
            (0xff00_u16 >> bits) as u8
        })
        .collect();
    let request = expression(request, "payload", |r| {
        let network_header = be(libc::NFT_PAYLOAD_NETWORK_HEADER as u32);
        let r = r.attribute(1, &be(REGISTER)).attribute(2, &network_header);
        r.attribute(3, &be(offset)).attribute(4, &be(family.length))
    });
    let request = expression(request, "bitwise", |r| {
        let r = r.attribute(1, &be(REGISTER)).attribute(2, &be(REGISTER)).attribute(3, &be(family.length));
        let r = r.nested(4, |r| r.attribute(DATA_VALUE, &mask));
        r.nested(5, |r| r.attribute(DATA_VALUE, &vec![0; mask.len()]))
    });
    expression(request, "cmp", |r| {
        let operation = if inside { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
        let r = r.attribute(1, &be(REGISTER)).attribute(2, &be(operation as u32));
        r.nested(3, |r| r.attribute(DATA_VALUE, &octets(net.network())))
    })
}

fn expression(request: Request, name: &str, data: impl FnOnce(Request) -> Request) -> Request {
    request.nested(LIST_ELEMENT, |r| r.text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, data))
}
