//! Id mappings, and the user namespaces that carry them into the kernel.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use crate::{Error, Result};

/// Most lines of a mapping that the kernel takes.
const MAX_LINES: usize = 340;

/// One line of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

impl IdMap {
    /// Parses `container:host:size` lines joined by commas.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let list: Vec<Self> = text.split(',').map(Self::parse).collect::<Result<_>>()?;
        if list.len() > MAX_LINES {
            return Err(Error::invalid(format!("id mapping of {} lines: at most {MAX_LINES}", list.len())));
        }
        Ok(list)
    }

    fn parse(line: &str) -> Result<Self> {
        let bad =
            || Error::invalid(format!("id mapping {line:?} is not of the form container-id:host-id:size"));
        let mut parts = line.split(':').map(|p| p.parse::<u32>().map_err(|_| bad()));
        let mut next = || parts.next().unwrap_or_else(|| Err(bad()));
        let map = Self { container: next()?, host: next()?, size: next()? };
        match parts.next() {
            None => Ok(map),
            Some(_) => Err(bad()),
        }
    }

    /// What the container's root is outside.
    pub fn host_root(list: &[Self]) -> Result<u32> {
        let found = list.iter().find(|m| m.container == 0 && m.size > 0);
        found
            .map(|m| m.host)
            .ok_or_else(|| Error::invalid("id mapping has no line for the container's root (0)"))
    }

    fn lines(list: &[Self]) -> String {
        list.iter().map(|m| format!("{} {} {}\n", m.container, m.host, m.size)).collect()
    }
}

/// A user namespace with these mappings. Forks a child that only lives until the namespace is open.
pub fn user_namespace(uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd> {
    let child = Child::start().map_err(|e| Error::io("make a user namespace", e))?;
    let write = |file: &str, list: &[IdMap]| {
        std::fs::write(format!("/proc/{}/{file}", child.0), IdMap::lines(list))
            .map_err(|e| Error::io(format!("write {file} of a user namespace"), e))
    };
    write("uid_map", uids)?;
    write("gid_map", gids)?;
    let namespace = File::open(format!("/proc/{}/ns/user", child.0))
        .map_err(|e| Error::io("open a user namespace", e))?;
    Ok(namespace.into())
}

/// A child in a user namespace of its own that waits to be killed.
struct Child(libc::pid_t);

impl Child {
    fn start() -> io::Result<Self> {
        let flags = libc::CLONE_NEWUSER as libc::c_long;
        // SAFETY: a clone without CLONE_VM is a fork: the child has its own copy of memory. Until it is killed it makes
        // raw system calls only, no allocation and no locks, so the state that other threads left behind is not used.
        // No exit signal: nobody's SIGCHLD handler hears of it.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            loop {
                // SAFETY: plain system calls without pointers to anything; see above.
                unsafe {
                    libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
                }
            }
        }
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(pid as libc::pid_t)) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not yet waited for, so its id names nobody else.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            while libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL) < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed() {
        let list = IdMap::parse_list("0:1000:1,1:5000:65535").unwrap();
        assert_eq!(IdMap::host_root(&list).unwrap(), 1000);
        for bad in ["", "0:1", "0:1:2:3", "a:1:2", "-1:0:1", "0:1:2,", "0:1:4294967296"] {
            assert!(IdMap::parse_list(bad).is_err(), "{bad}");
        }
        assert!(IdMap::host_root(&IdMap::parse_list("1:1:1").unwrap()).is_err());
    }
}
