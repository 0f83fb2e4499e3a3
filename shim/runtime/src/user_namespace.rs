//! User namespaces: writing id maps, and namespaces made only for the sake of their maps.

use crate::error::{Context, Result};
use crate::spec::IdMapping;
use crate::sys::file;
use crate::sys::process::{self, Clone};
use std::fmt::Write;
use std::os::fd::OwnedFd;

fn text(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, m| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
        text
    })
}

/// Writes both maps of a process that has just been made in a new user namespace. `setgroups` stays allowed: it is a
/// privileged caller that writes.
pub fn write_maps(pid: u32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    for (name, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{name}");
        file::write_file_at(file::cwd(), &path, text(mappings).as_bytes()).at("write id map", &path)?;
    }
    Ok(())
}

/// A user namespace with these maps and no process in it.
pub fn with_mappings(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    // SAFETY: the child does nothing but wait to be killed, which is fine even beside other threads.
    let (pid, pidfd) =
        match unsafe { process::clone3(libc::CLONE_NEWUSER as u64, None, false) }.op("clone3")? {
            Clone::Child => loop {
                // SAFETY: takes no pointers.
                unsafe { libc::pause() };
            },
            Clone::Parent { pid, pidfd } => (pid, pidfd),
        };
    let path = format!("/proc/{pid}/ns/user");
    let opened =
        write_maps(pid, uids, gids).and_then(|()| file::open(&path, libc::O_RDONLY, 0).at("open", &path));
    process::pidfd_signal(&pidfd, libc::SIGKILL).op("kill")?;
    process::reap(&pidfd).op("reap")?;
    opened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_lines() {
        let map = [
            IdMapping { container_id: 0, host_id: 100000, size: 65536 },
            IdMapping { container_id: 65536, host_id: 5, size: 1 },
        ];
        assert_eq!(text(&map), "0 100000 65536\n65536 5 1\n");
    }
}
