//! The OCI runtime specification of a container, from the image's defaults and the person's options.
//!
//! Defaults are those of containerd's client: its capabilities, mounts, masked and read-only paths.

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::image::Image;

/// Options that shape a container, shared by `run` and `create`.
#[derive(Args, Default)]
pub struct Options {
    /// Environment variable: NAME=value, or NAME to pass on this one's
    #[arg(long, short)]
    pub env: Vec<String>,
    /// User: uid[:gid] or a name of the image's /etc/passwd
    #[arg(long, short)]
    pub user: Option<String>,
    /// Working directory
    #[arg(long, short)]
    pub workdir: Option<String>,
    /// Host name
    #[arg(long)]
    pub hostname: Option<String>,
    /// Bind mount: SOURCE:DESTINATION[:ro]
    #[arg(long, short)]
    pub volume: Vec<String>,
    /// Memory limit: 64m, 1g
    #[arg(long, short, value_parser = size)]
    pub memory: Option<i64>,
    /// Processors: 0.5, 2
    #[arg(long)]
    pub cpus: Option<f64>,
    /// Most processes
    #[arg(long)]
    pub pids_limit: Option<i64>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// All capabilities and devices; no masks
    #[arg(long)]
    pub privileged: bool,
    /// Add a capability: NET_ADMIN
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Use the host's network
    #[arg(long)]
    pub net_host: bool,
    /// Replace the image's entry point
    #[arg(long)]
    pub entrypoint: Option<String>,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
];
/// All of Linux 6.x, by number.
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `64m` in bytes.
pub fn size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, shift) = match lower.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => (number, 10 * (1 + "kmgt".find(&lower[number.len()..]).unwrap_or(0))),
        None => (lower, 0),
    };
    let number: i64 = number.parse().map_err(|_| format!("{text:?} is not a size: use 64m or 1g"))?;
    number.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is out of range"))
}

/// uid, gid and further groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A numeric `uid[:gid]`; `None` where a name has to be looked up in the image.
pub fn numeric_user(text: &str) -> Option<User> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    let uid = uid.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok())?;
    // Without a group the image's passwd decides, so only root needs no look-up.
    let gid = match gid {
        "" if uid == 0 => 0,
        gid => gid.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok())?,
    };
    Some(User { uid, gid, groups: Vec::new() })
}

fn capabilities(options: &Options) -> Result<Vec<String>> {
    let name = |text: &str| -> Result<String> {
        let upper = text.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        ensure!(full == "CAP_ALL" || ALL_CAPABILITIES.contains(&full.as_str()), "no capability is called {text}");
        Ok(full)
    };
    let mut set: Vec<String> = if options.privileged { &ALL_CAPABILITIES[..] } else { &CAPABILITIES[..] }
        .iter()
        .map(|c| c.to_string())
        .collect();
    for dropped in &options.cap_drop {
        let dropped = name(dropped)?;
        set.retain(|c| dropped != "CAP_ALL" && *c != dropped);
    }
    for added in &options.cap_add {
        match name(added)?.as_str() {
            "CAP_ALL" => set = ALL_CAPABILITIES.iter().map(|c| c.to_string()).collect(),
            added if !set.iter().any(|c| c == added) => set.push(added.to_owned()),
            _ => {}
        }
    }
    Ok(set)
}

fn environment(image: &Image, options: &Options, terminal: bool) -> Vec<String> {
    let mut env: Vec<String> = image.defaults.env.clone().unwrap_or_default();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.insert(0, PATH.to_owned());
    }
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &options.env {
        let pair = match entry.split_once('=') {
            Some(_) => Some(entry.clone()),
            None => std::env::var(entry).ok().map(|value| format!("{entry}={value}")),
        };
        let name = entry.split('=').next().unwrap_or(entry);
        env.retain(|e| e.split('=').next() != Some(name));
        env.extend(pair);
    }
    env
}

fn arguments(image: &Image, options: &Options, args: &[String]) -> Result<Vec<String>> {
    let entrypoint = match &options.entrypoint {
        Some(entry) => vec![entry.clone()],
        None => image.defaults.entrypoint.clone().unwrap_or_default(),
    };
    let command = if args.is_empty() && options.entrypoint.is_none() {
        image.defaults.cmd.clone().unwrap_or_default()
    } else {
        args.to_vec()
    };
    let all: Vec<_> = entrypoint.into_iter().chain(command).collect();
    if all.is_empty() {
        bail!("the image names no command: say one after the image");
    }
    Ok(all)
}

fn mounts(options: &Options) -> Result<Vec<Value>> {
    let mount = |destination: &str, kind: &str, options: &[&str]| {
        json!({"destination": destination, "type": kind, "source": kind, "options": options})
    };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", if options.privileged { "rw" } else { "ro" }]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ];
    for volume in &options.volume {
        let parts: Vec<_> = volume.split(':').collect();
        let (source, destination, mode) = match parts.as_slice() {
            [source, destination] => (source, destination, "rw"),
            [source, destination, mode @ ("ro" | "rw")] => (source, destination, *mode),
            _ => bail!("volume {volume:?} is not SOURCE:DESTINATION[:ro]"),
        };
        ensure!(destination.starts_with('/'), "volume {volume:?}: the destination must be absolute");
        let source = std::path::absolute(source)?;
        ensure!(source.exists(), "volume {volume:?}: {} does not exist on this machine", source.display());
        all.push(json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", mode]}));
    }
    if options.net_host {
        for file in ["/etc/hosts", "/etc/resolv.conf"].into_iter().filter(|f| std::path::Path::new(f).exists()) {
            all.push(json!({"destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"]}));
        }
    }
    Ok(all)
}

fn resources(options: &Options) -> Value {
    let mut resources = json!({"devices": [{"allow": options.privileged, "access": "rwm"}]});
    if let Some(limit) = options.memory {
        resources["memory"] = json!({"limit": limit});
    }
    if let Some(cpus) = options.cpus {
        resources["cpu"] = json!({"period": 100_000, "quota": (cpus * 100_000.0) as i64});
    }
    if let Some(limit) = options.pids_limit {
        resources["pids"] = json!({"limit": limit});
    }
    resources
}

/// The process part, also for exec.
pub fn process(args: &[String], env: &[String], cwd: &str, user: &User, capabilities: &[String], terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true,
    })
}

/// What names a container and its process in the specification.
pub struct Subject<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
    pub args: &'a [String],
    pub user: User,
    pub terminal: bool,
}

/// The whole specification.
pub fn container(image: &Image, options: &Options, subject: &Subject<'_>) -> Result<Value> {
    let cwd = options.workdir.as_deref().unwrap_or(&image.defaults.working_dir);
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let env = environment(image, options, subject.terminal);
    let args = arguments(image, options, subject.args)?;
    let capabilities = capabilities(options)?;
    let mut process = process(&args, &env, cwd, &subject.user, &capabilities, subject.terminal);
    if options.privileged {
        process["noNewPrivileges"] = json!(false);
    }
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "mount"})];
    if !options.net_host {
        namespaces.push(json!({"type": "network"}));
    }
    let mut linux = json!({
        "cgroupsPath": format!("/{}/{}", subject.namespace, subject.id),
        "resources": resources(options),
        "namespaces": namespaces,
    });
    if !options.privileged {
        linux["maskedPaths"] = json!(["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
            "/sys/devices/virtual/powercap", "/proc/scsi"]);
        linux["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs", "readonly": options.read_only},
        "mounts": mounts(options)?,
        "linux": linux,
    });
    if let Some(name) = &options.hostname {
        spec["hostname"] = json!(name);
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_users_parse() {
        assert_eq!(size("64m"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("7"), Ok(7));
        assert!(size("x").is_err() && size("-1").is_err() && size("9999999999t").is_err());
        assert_eq!(numeric_user("5:6"), Some(User { uid: 5, gid: 6, groups: vec![] }));
        assert_eq!(numeric_user("0"), Some(User::default()));
        for looked_up in ["www", "5", "5:www", "4294967296:1", "2147483648:1"] {
            assert_eq!(numeric_user(looked_up), None, "{looked_up}");
        }
    }

    #[test]
    fn options_shape_the_specification() {
        let image = Image { name: String::new(), defaults: Default::default(), chain: String::new() };
        let options = Options { cap_drop: vec!["ALL".into()], cap_add: vec!["net_admin".into()], memory: Some(5), ..Options::default() };
        let args = ["x".to_owned()];
        let subject = Subject { namespace: "n", id: "i", args: &args, user: User::default(), terminal: false };
        let spec = container(&image, &options, &subject).unwrap();
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_NET_ADMIN"]));
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 5);
        assert_eq!(spec["linux"]["cgroupsPath"], "/n/i");
        let none = Subject { args: &[], ..subject };
        assert!(container(&image, &Options::default(), &none).is_err());
    }
}
