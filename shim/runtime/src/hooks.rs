//! Hooks: programs of the configuration that get the container's state on their standard input.

use crate::error::{Context, Error, Result};
use crate::spec::Hook;
use crate::sys::{check, file, process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// For a hook that names no limit of its own.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// As much of a failed hook's output as goes into the error.
const MAX_OUTPUT: u64 = 4096;

/// The OCI state of a container.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState<'a> {
    pub oci_version: &'a str,
    pub id: &'a str,
    pub status: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: u32,
    pub bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
}

fn is_zero(pid: &u32) -> bool {
    *pid == 0
}

/// Runs hooks in order; the first that fails ends it.
pub fn run(hooks: &[Hook], state: &OciState<'_>) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(|e| Error::State(format!("state of container: {e}")))?;
    hooks.iter().try_for_each(|hook| run_one(hook, &state))
}

/// A file in memory: unlike a pipe it blocks nobody, however much or little the hook reads or writes.
fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal.
    let fd = check(unsafe { libc::memfd_create(c"hook".as_ptr(), libc::MFD_CLOEXEC).into() })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let failed = |message: String| Error::Hook { path: hook.path.clone(), message };
    let prepare = || -> std::io::Result<(File, File)> {
        let (mut input, output) = (memory_file()?, memory_file()?);
        input.write_all(state)?;
        input.rewind()?;
        Ok((input, output))
    };
    let (input, mut output) = prepare().at("prepare hook", &hook.path)?;
    let clone = |f: &File| f.try_clone().at("prepare hook", &hook.path);
    let mut command = Command::new(&hook.path);
    command
        .env_clear()
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(clone(&output)?))
        .stderr(Stdio::from(clone(&output)?));
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    for (name, value) in hook.env.iter().filter_map(|e| e.split_once('=')).filter(|(n, _)| !n.is_empty()) {
        command.env(name, value);
    }
    let mut child = command.spawn().at("run hook", &hook.path)?;
    let limit = hook.timeout.map_or(DEFAULT_LIMIT, |s| Duration::from_secs(s.max(1) as u64));
    let pidfd = process::pidfd_open(child.id()).at("watch hook", &hook.path);
    let ended = pidfd.and_then(|fd| process::wait_for(fd, libc::POLLIN, limit).at("watch hook", &hook.path));
    if !matches!(ended, Ok(true)) {
        // It may have ended in between; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
        ended?;
        return Err(failed(format!("timed out after {} s", limit.as_secs())));
    }
    let status = child.wait().at("wait for hook", &hook.path)?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    // The position is shared with the hook, which has moved it.
    let read = output.rewind().and_then(|()| output.take(MAX_OUTPUT).read_to_end(&mut text));
    let text = if read.is_ok() { String::from_utf8_lossy(&text).trim().to_string() } else { String::new() };
    Err(failed(format!("{status}{}{text}", if text.is_empty() { "" } else { ": " })))
}

/// Sends the seccomp agent its descriptor, as the specification describes it.
pub fn notify_seccomp_agent(path: &str, metadata: &str, state: &OciState<'_>, fd: RawFd) -> Result<()> {
    let message = serde_json::json!({
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": state.pid,
        "metadata": metadata,
        "state": state,
    });
    let socket = crate::sys::socket::connect(path).at("connect to seccomp listener", path)?;
    let data = message.to_string();
    crate::sys::socket::send(&socket, data.as_bytes(), &[fd]).at("send to seccomp listener", path)
}

/// Sends a terminal's master to a console socket; the text is the terminal's name.
pub fn send_console(socket: &OwnedFd, master: RawFd) -> Result<()> {
    crate::sys::socket::send(socket, b"/dev/ptmx", &[master]).op("send terminal to console socket")
}

/// Writes the score of a process that is waiting for us. With `clamp` a forbidden score becomes the nearest permitted
/// one, and the text says so.
pub fn set_oom_score(pid: u32, score: i32, clamp: bool) -> Result<Option<String>> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match file::write_file_at(file::cwd(), &path, score.to_string().as_bytes()) {
        Ok(()) => Ok(None),
        Err(e) if clamp && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            let current = file::open(&path, libc::O_RDONLY, 0)
                .and_then(|fd| file::read_all(fd, 64))
                .at("read", &path)?;
            let current = String::from_utf8_lossy(&current).trim().to_string();
            Ok(Some(format!(
                "oomScoreAdj {score} is not permitted here (no CAP_SYS_RESOURCE), it stays {current}"
            )))
        }
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Err(Error::Unsupported(format!(
            "oomScoreAdj {score} is not permitted here: lowering it needs CAP_SYS_RESOURCE"
        ))),
        Err(e) => Err(e).at("write", &path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["A=b".into(), "PATH=/bin:/usr/bin".into()],
            timeout,
        }
    }

    fn state(annotations: &BTreeMap<String, String>) -> OciState<'_> {
        OciState {
            oci_version: "1.2.0",
            id: "c1",
            status: "created",
            pid: 7,
            bundle: Path::new("/b"),
            annotations,
        }
    }

    #[test]
    fn state_arrives_and_environment_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let none = BTreeMap::new();
        run(&[hook(&format!("cat > {0}; env | sort >> {0}", out.display()), None)], &state(&none)).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        assert!(
            text.starts_with(
                r#"{"ociVersion":"1.2.0","id":"c1","status":"created","pid":7,"bundle":"/b"}A=b"#
            ),
            "{text}"
        );
        assert!(!text.contains("CARGO"));
    }

    #[test]
    fn failures_and_timeouts_are_told() {
        let none = BTreeMap::new();
        let error = run(&[hook("echo too bad >&2; exit 3", None)], &state(&none)).unwrap_err();
        assert_eq!(error.to_string(), "hook /bin/sh: exit status: 3: too bad");
        let error = run(&[hook("sleep 60", Some(1))], &state(&none)).unwrap_err();
        assert!(error.to_string().contains("timed out after 1 s"), "{error}");
    }
}
