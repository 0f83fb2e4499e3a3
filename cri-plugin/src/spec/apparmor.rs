//! AppArmor: the name of the profile that a container's process runs under, and the default one, loaded when it is
//! first needed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use windlass_api::cri;
use windlass_api::cri::security_profile::ProfileType;

use super::error::{Error, Result, invalid, unsupported};
use super::host::Host;
use super::seccomp::{by_name, kind};
use super::settings::Settings;

/// The name that containerd gives its default profile: tools look for it.
const DEFAULT: &str = "cri-containerd.apparmor.d";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// `process.apparmorProfile`. May load the default profile, which blocks for as long as the parser takes.
pub fn profile(
    host: &Host,
    settings: &Settings,
    asked: Option<&cri::SecurityProfile>,
    older: &str,
    privileged: bool,
) -> Result<Option<String>> {
    let older = if asked.is_none() { by_name(older)? } else { None };
    let asked = asked.or(older.as_ref());
    let kind = asked.map(|p| kind(p, "apparmor")).transpose()?;
    if !host.apparmor || settings.config.disable_apparmor {
        return match kind {
            None | Some(ProfileType::Unconfined) => Ok(None),
            Some(_) => unsupported("apparmor is not supported: this node has none, or it is disabled"),
        };
    }
    match kind {
        Some(ProfileType::Unconfined) => Ok(None),
        Some(ProfileType::Localhost) => {
            let name = asked.map_or("", |p| &p.localhost_ref);
            let name = name.strip_prefix("localhost/").unwrap_or(name);
            if name.is_empty() || !loaded(name)? {
                return invalid(format!("apparmor profile not found {name}"));
            }
            Ok(Some(name.to_owned()))
        }
        // Also those who said nothing.
        _ if privileged => Ok(None),
        _ => {
            if !loaded(DEFAULT)? {
                load(&default_profile())?;
            }
            Ok(Some(DEFAULT.to_owned()))
        }
    }
}

/// The program that loads profiles, where it is installed.
pub fn parser() -> Option<&'static Path> {
    ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].map(Path::new).into_iter().find(|p| p.exists())
}

fn loaded(name: &str) -> Result<bool> {
    let file = File::open(LOADED).map_err(Error::io("open", LOADED))?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(Error::io("read", LOADED))?;
        if line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" (")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn load(profile: &str) -> Result<()> {
    let Some(program) = parser() else {
        return unsupported("apparmor_parser is not installed");
    };
    let failed = |e: std::io::Error| Error::io("run", program)(e);
    let mut child = Command::new(program)
        .arg("-Kr")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut written = Ok(());
    if let Some(mut stdin) = child.stdin.take() {
        // It fits into a pipe, so that a parser that does not read holds nobody up.
        written = stdin.write_all(profile.as_bytes());
    }
    if !ended(child.id())? {
        // It is not waited for longer than this, and what is killed can be waited for.
        let _ = child.kill();
        let _ = child.wait();
        return unsupported("apparmor_parser did not end in time");
    }
    let status = child.wait().map_err(failed)?;
    written.map_err(failed)?;
    if !status.success() {
        return unsupported(format!("apparmor_parser refused the default profile: {status}"));
    }
    Ok(())
}

fn ended(pid: u32) -> Result<bool> {
    let failed = |e: rustix::io::Errno| Error::io("wait for", "apparmor_parser")(e);
    let pid = Pid::from_raw(pid as i32).expect("a child has a pid");
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    let limit = Timespec { tv_sec: LOAD_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let ready = retry_on_intr(|| poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)));
    Ok(ready.map_err(failed)? > 0)
}

/// Everything but what reaches beyond the container: mounts, and the kernel's own files.
fn default_profile() -> String {
    let exists = |part: &str| Path::new("/etc/apparmor.d").join(part).exists();
    let tunables = if exists("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if exists("abstractions/base") { "  #include <abstractions/base>\n" } else { "" };
    let abi = if exists("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let mut rules = String::new();
    for rule in [
        "network,",
        "capability,",
        "file,",
        "umount,",
        "signal (receive) peer=unconfined,",
        "signal (receive) peer=runc,",
        "signal (receive) peer=crun,",
    ] {
        rules.push_str(&format!("  {rule}\n"));
    }
    rules.push_str(&format!("  signal (send, receive) peer={DEFAULT},\n"));
    rules.push_str(&format!("  ptrace (trace, tracedby, read, readby) peer={DEFAULT},\n"));
    // Of /proc the processes' own directories and sys/kernel/shm* can be written to, and nothing else.
    for denied in [
        "mount,",
        "@{PROC}/* w,",
        "@{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,",
        "@{PROC}/sys/[^k]** w,",
        "@{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,",
        "@{PROC}/sysrq-trigger rwklx,",
        "@{PROC}/kcore rwklx,",
        "/sys/[^f]*/** wklx,",
        "/sys/f[^s]*/** wklx,",
        "/sys/fs/[^c]*/** wklx,",
        "/sys/fs/c[^g]*/** wklx,",
        "/sys/fs/cg[^r]*/** wklx,",
        "/sys/firmware/** rwklx,",
        "/sys/devices/virtual/powercap/** rwklx,",
        "/sys/kernel/security/** rwklx,",
    ] {
        rules.push_str(&format!("  deny {denied}\n"));
    }
    format!(
        "{abi}{tunables}\nprofile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n{base}{rules}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ProfileType, name: &str) -> cri::SecurityProfile {
        cri::SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() }
    }

    #[test]
    fn without_apparmor_only_nothing_can_be_had() {
        let run = |asked: Option<cri::SecurityProfile>, older: &str| {
            profile(&Host::default(), &Settings::default(), asked.as_ref(), older, false)
        };
        assert_eq!(run(None, "").unwrap(), None);
        assert_eq!(run(None, "unconfined").unwrap(), None);
        assert_eq!(run(Some(of(ProfileType::Unconfined, "")), "localhost/x").unwrap(), None);
        for asked in [of(ProfileType::RuntimeDefault, ""), of(ProfileType::Localhost, "x")] {
            assert!(matches!(run(Some(asked), ""), Err(Error::Unsupported(_))));
        }
        assert!(matches!(run(None, "runtime/default"), Err(Error::Unsupported(_))));
        assert!(matches!(run(None, "nonsense"), Err(Error::Invalid(_))));
        assert!(run(Some(of(ProfileType::Unconfined, "x")), "").is_err());
        assert!(run(Some(cri::SecurityProfile { profile_type: 9, ..Default::default() }), "").is_err());
    }

    #[test]
    fn with_apparmor_the_privileged_and_the_unconfined_have_none() {
        let host = Host { apparmor: true, ..Host::default() };
        let run = |asked: cri::SecurityProfile, privileged| {
            profile(&host, &Settings::default(), Some(&asked), "", privileged)
        };
        assert_eq!(run(of(ProfileType::RuntimeDefault, ""), true).unwrap(), None);
        assert_eq!(run(of(ProfileType::Unconfined, ""), false).unwrap(), None);
        assert!(run(of(ProfileType::Localhost, ""), false).is_err());
        let disabled = Settings::with(|config, _| config.disable_apparmor = true);
        assert_eq!(profile(&host, &disabled, None, "", false).unwrap(), None);
    }

    #[test]
    fn the_default_profile_fits_into_a_pipe() {
        let text = default_profile();
        assert!(text.len() < 4096 && text.matches('{').count() == text.matches('}').count());
    }
}
