//! What went through a pod's network interfaces, read inside of its network namespace.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use windlass_api::cri;

use super::figures::value;
use super::files::Reader;

/// The interface that pods are reached by.
const USUAL: &str = "eth0";
/// Not told of: nothing leaves the pod through it.
const LOOPBACK: &str = "lo";

/// An interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Moves this thread into the namespace held at `net` and reads its interfaces there. `None` where there is no such
/// namespace any more. The thread is of no use to anybody afterwards.
pub fn inside(reader: &mut Reader, net: &Path) -> Option<Vec<Interface>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(net, flags, Mode::empty()).ok()?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
    // Looked up anew below the thread: where that is now.
    reader.enter(&["/proc/thread-self"], "net");
    reader.text("dev").map(parse)
}

/// Reads `/proc/net/dev`: two lines of headings, then `name:` and sixteen numbers, eight for each direction.
pub fn parse(text: &str) -> Vec<Interface> {
    let interfaces = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let mut each = numbers.split_ascii_whitespace().map(|n| n.parse::<u64>().ok());
        let mut all = [0; 16];
        for number in &mut all {
            *number = each.next()??;
        }
        let traffic = |from: usize| Traffic {
            bytes: all[from],
            packets: all[from + 1],
            errors: all[from + 2],
            dropped: all[from + 3],
        };
        let name = name.trim();
        (name != LOOPBACK).then(|| Interface {
            name: name.to_owned(),
            received: traffic(0),
            sent: traffic(8),
        })
    });
    interfaces.collect()
}

/// As CRI tells it. `None` where there is no interface: the kubelet cannot do without a first one.
pub fn usage(interfaces: &[Interface], at: i64) -> Option<cri::NetworkUsage> {
    let default = interfaces.iter().find(|one| one.name == USUAL).or(interfaces.first())?;
    Some(cri::NetworkUsage {
        timestamp: at,
        default_interface: Some(default.to_cri()),
        interfaces: interfaces.iter().map(Interface::to_cri).collect(),
    })
}

impl Interface {
    fn to_cri(&self) -> cri::NetworkInterfaceUsage {
        cri::NetworkInterfaceUsage {
            name: self.name.clone(),
            rx_bytes: value(self.received.bytes),
            rx_errors: value(self.received.errors),
            tx_bytes: value(self.sent.bytes),
            tx_errors: value(self.sent.errors),
        }
    }
}
