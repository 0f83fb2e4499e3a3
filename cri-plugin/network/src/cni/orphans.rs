//! Plugins that outlive a daemon that was killed: one that goes on adding a pod would take an address again after the next
//! daemon has given the pod's back.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// In a plugin's environment: the directory of the attachments that it works for.
pub const OWNER: &str = "WINDLASS_CNI_CACHE";
/// A killed process goes at once, unless it hangs in the kernel.
const LIMIT: Duration = Duration::from_secs(5);

/// Kills what works for the attachments in `owner`, and waits until it is gone. Only before any plugin is run: all that is
/// there is an earlier daemon's. What a plugin has started in a session of its own, as services do, is left. Blocks.
pub fn end(owner: &Path) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let mut mark = format!("{OWNER}=").into_bytes();
    mark.extend_from_slice(owner.as_os_str().as_encoded_bytes());
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let killed: Vec<OwnedFd> = pids.filter_map(Pid::from_raw).filter_map(|pid| kill(pid, &mark)).collect();
    if killed.is_empty() {
        return;
    }
    tracing::warn!(
        count = killed.len(),
        "processes of network plugins that an earlier daemon had left were killed"
    );
    let begun = Instant::now();
    for process in killed {
        let left = LIMIT.saturating_sub(begun.elapsed());
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&wait));
    }
}

fn kill(pid: Pid, mark: &[u8]) -> Option<OwnedFd> {
    // Held before it is looked at: the number may become another's.
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let of = |file: &str| fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
    if !is_marked(pid.as_raw_nonzero().get(), mark) {
        return None;
    }
    let (group, session) = groups(&String::from_utf8_lossy(&of("stat").ok()?))?;
    // A plugin is made the leader of a group; its session is the daemon's.
    if group == session || is_marked(session, mark) {
        return None;
    }
    pidfd_send_signal(&process, Signal::KILL).ok()?;
    Some(process)
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

/// Group and session of a process, out of its `stat`.
fn groups(stat: &str) -> Option<(i32, i32)> {
    // The name in brackets may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn group_and_session_are_read_whatever_the_name() {
        assert_eq!(groups("7 (a b) S) S 1 7 3 0"), Some((7, 3)));
        assert_eq!(groups("7 (a)"), None);
    }

    #[test]
    fn only_plugins_of_the_same_attachments_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper = |owner: &Path| {
            let mut command = Command::new("sleep");
            command.arg("1000").env(OWNER, owner).process_group(0).spawn().unwrap()
        };
        let (mut own, mut other) = (sleeper(dir.path()), sleeper(&dir.path().join("other")));
        end(dir.path());
        assert!(own.try_wait().unwrap().is_some(), "it was waited for");
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
