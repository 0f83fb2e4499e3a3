//! The OCI runtime specification of a container, from the image's defaults and the person's options.
//!
//! Defaults are those of containerd's client: its capabilities, mounts, masked and read-only paths.

mod capabilities;
mod devices;
mod limits;
mod mounts;
mod namespaces;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

pub use capabilities::all as all_capabilities;
pub use namespaces::joined;

use super::image::Image;
use super::user::User;
use crate::names;
use crate::output::size;

/// Options that shape a container, shared by `run` and `create`.
#[derive(Args, Default)]
pub struct Options {
    #[command(flatten)]
    pub process: ProcessOptions,
    /// Replace the image's entry point; "" for none
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,
    /// Bind mount: SOURCE:DESTINATION[:ro,rshared,…]
    #[arg(long, short, help_heading = "Files", value_name = "SOURCE:DESTINATION[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount: type=bind,src=/a,dst=/b,ro or type=tmpfs,dst=/c,size=64m
    #[arg(long, help_heading = "Files", value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// Temporary file system in memory: /path[:size=64m,…]
    #[arg(long, help_heading = "Files", value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_parser = size, help_heading = "Files", value_name = "SIZE")]
    pub shm_size: Option<i64>,
    /// Mount the root file system read-only
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// Give a device of this machine: /dev/x[:/dev/y][:rwm]
    #[arg(long, help_heading = "Files", value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Network: none (loopback only), host, or container:ID
    #[arg(long, visible_alias = "net", default_value = "none", help_heading = "Isolation")]
    pub network: namespaces::Choice,
    /// Use the host's network
    #[arg(long, hide = true, conflicts_with = "network")]
    pub net_host: bool,
    /// Processes: private, host, or container:ID
    #[arg(long, default_value = "private", help_heading = "Isolation")]
    pub pid: namespaces::Choice,
    /// Shared memory and queues: private, host, or container:ID
    #[arg(long, default_value = "private", help_heading = "Isolation")]
    pub ipc: namespaces::Choice,
    /// Host name: private, host, or container:ID
    #[arg(long, default_value = "private", help_heading = "Isolation")]
    pub uts: namespaces::Choice,
    /// Host name in the container
    #[arg(long, help_heading = "Isolation")]
    pub hostname: Option<String>,
    /// All capabilities, all devices of this machine, nothing hidden
    #[arg(long, help_heading = "Security")]
    pub privileged: bool,
    /// Add a capability: NET_ADMIN, or ALL
    #[arg(long, help_heading = "Security", value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, help_heading = "Security", value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// seccomp=PROFILE.json, seccomp=unconfined, no-new-privileges=false, apparmor=PROFILE
    #[arg(long, help_heading = "Security", value_name = "OPTION")]
    pub security_opt: Vec<String>,
    #[command(flatten)]
    pub limits: limits::Options,
    /// Annotation of the specification: key=value
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Container")]
    pub annotation: Vec<String>,
}

/// Options of a process; shared by `run`, `create` and `exec`.
#[derive(Args, Default, Clone)]
#[command(next_help_heading = "Process")]
pub struct ProcessOptions {
    /// Environment variable: NAME=value, or NAME to pass on this one's
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// User: name or number, and :group; names are looked up in the container's own /etc/passwd
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory
    #[arg(long, short, visible_alias = "cwd", value_name = "DIRECTORY")]
    pub workdir: Option<String>,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `key=value` lines of a file; empty ones and those with # in front are left out.
pub fn file_lines(path: &std::path::Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

impl ProcessOptions {
    /// Puts the options over an environment.
    pub fn environment(&self, mut env: Vec<String>) -> Result<Vec<String>> {
        let mut entries = Vec::new();
        for file in &self.env_file {
            entries.extend(file_lines(file)?);
        }
        entries.extend(self.env.iter().cloned());
        for entry in entries {
            let pair = match entry.split_once('=') {
                Some(_) => Some(entry.clone()),
                None => std::env::var(&entry).ok().map(|value| format!("{entry}={value}")),
            };
            let name = entry.split('=').next().unwrap_or(&entry);
            ensure!(!name.is_empty(), "environment variable {entry:?} has no name");
            env.retain(|e| e.split('=').next() != Some(name));
            env.extend(pair);
        }
        Ok(env)
    }

    /// The working directory, which must be absolute.
    pub fn directory(&self, default: &str) -> Result<String> {
        let cwd = self.workdir.as_deref().unwrap_or(default);
        let cwd = if cwd.is_empty() { "/" } else { cwd };
        ensure!(cwd.starts_with('/'), "working directory {cwd:?} is not absolute");
        Ok(cwd.to_owned())
    }
}

fn environment(image: &Image, options: &Options, terminal: bool) -> Result<Vec<String>> {
    let mut env: Vec<String> = image.defaults.env.clone().unwrap_or_default();
    let has = |env: &[String], name: &str| env.iter().any(|e| e.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.insert(0, PATH.to_owned());
    }
    if terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    options.process.environment(env)
}

fn arguments(image: &Image, options: &Options, args: &[String]) -> Result<Vec<String>> {
    let entrypoint = match options.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(entry) => vec![entry.to_owned()],
        None => image.defaults.entrypoint.clone().unwrap_or_default(),
    };
    // A new entry point makes nothing of the image's arguments.
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

/// What names a container and its process in the specification.
pub struct Subject<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
    pub args: &'a [String],
    pub user: User,
    pub terminal: bool,
    /// Processes of the containers whose namespaces are joined.
    pub pids: &'a BTreeMap<String, u32>,
}

pub fn user(user: &User) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups})
}

fn process(
    image: &Image,
    options: &Options,
    subject: &Subject<'_>,
    security: &security::Security,
) -> Result<Value> {
    let capabilities = capabilities::set(options.privileged, &options.cap_add, &options.cap_drop)?;
    let cwd = options.process.directory(image.defaults.working_dir.as_deref().unwrap_or_default())?;
    let mut process = json!({
        "terminal": subject.terminal,
        "user": user(&subject.user),
        "args": arguments(image, options, subject.args)?,
        "env": environment(image, options, subject.terminal)?,
        "cwd": cwd,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": options.limits.rlimits()?,
        "noNewPrivileges": security.no_new_privileges.unwrap_or(!options.privileged),
    });
    if let Some(score) = options.limits.oom_score_adj {
        process["oomScoreAdj"] = json!(score);
    }
    if let Some(profile) = &security.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(process)
}

fn linux(
    options: &Options,
    subject: &Subject<'_>,
    security: security::Security,
    host_net: bool,
) -> Result<Value> {
    let (devices, rules) = devices::all(options)?;
    let parent = options.limits.cgroup_parent.clone().unwrap_or_else(|| format!("/{}", subject.namespace));
    ensure!(
        parent.starts_with('/') && !parent.split('/').any(|p| p == ".."),
        "cgroup parent {parent:?} is not an absolute path"
    );
    let mut linux = json!({
        "cgroupsPath": format!("{}/{}", parent.trim_end_matches('/'), subject.id),
        "resources": options.limits.resources(rules),
        "namespaces": namespaces::all(options, host_net, subject.pids)?,
    });
    if !devices.is_empty() {
        linux["devices"] = Value::Array(devices);
    }
    let sysctls: BTreeMap<String, String> = names::pairs("sysctl", &options.limits.sysctl)?;
    for (key, value) in &sysctls {
        ensure!(
            !value.is_empty()
                && !value.contains(|c: char| c.is_control())
                && !key.contains(char::is_whitespace),
            "sysctl {key:?} has no usable value"
        );
    }
    if !sysctls.is_empty() {
        linux["sysctl"] = json!(sysctls);
    }
    if let Some(profile) = security.seccomp {
        linux["seccomp"] = profile;
    }
    if !options.privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    Ok(linux)
}

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The whole specification.
pub fn container(image: &Image, options: &Options, subject: &Subject<'_>) -> Result<Value> {
    let host_net = options.net_host || options.network == namespaces::Choice::Host;
    let capabilities = capabilities::set(options.privileged, &options.cap_add, &options.cap_drop)?;
    let security = security::parse(&options.security_opt, &capabilities)?;
    let process = process(image, options, subject, &security)?;
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs", "readonly": options.read_only},
        "mounts": mounts::all(options, host_net)?,
        "linux": linux(options, subject, security, host_net)?,
    });
    if let Some(name) = &options.hostname {
        ensure!(
            options.uts == namespaces::Choice::Private,
            "--hostname needs a host name of its own: leave --uts out"
        );
        ensure!(!name.is_empty() && name.len() <= 64, "a host name has 1 to 64 characters");
        spec["hostname"] = json!(name);
    }
    let annotations: Map<String, Value> = names::pairs::<Vec<_>>("annotation", &options.annotation)?
        .into_iter()
        .map(|(k, v)| (k, Value::String(v)))
        .collect();
    if !annotations.is_empty() {
        spec["annotations"] = Value::Object(annotations);
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(format!("x {line}").split_whitespace())
            .unwrap_or_else(|e| panic!("{line}: {e}"))
            .options
    }

    fn spec(line: &str) -> Result<Value> {
        let args = ["x".to_owned()];
        let pids = BTreeMap::from([("other".to_owned(), 42)]);
        let user = User { uid: 1, gid: 2, groups: vec![2, 3] };
        let subject = Subject { namespace: "n", id: "i", args: &args, user, terminal: false, pids: &pids };
        container(&Image::default(), &options(line), &subject)
    }

    #[test]
    fn options_shape_the_specification() {
        let spec = spec(
            "--cap-drop ALL --cap-add net_admin -m 5m --cpus 1.5 --pids-limit 7 -w /w -e A=b --read-only",
        )
        .unwrap();
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_NET_ADMIN"]));
        assert_eq!(spec["process"]["user"], json!({"uid": 1, "gid": 2, "additionalGids": [2, 3]}));
        assert_eq!(spec["process"]["cwd"], "/w");
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("A=b")));
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 5 << 20);
        assert_eq!(spec["linux"]["resources"]["cpu"], json!({"period": 100_000, "quota": 150_000}));
        assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 7);
        assert_eq!(spec["linux"]["cgroupsPath"], "/n/i");
        assert_eq!(spec["root"]["readonly"], true);
    }

    #[test]
    fn a_privileged_container_has_it_all() {
        let spec = spec("--privileged").unwrap();
        assert!(spec["linux"].get("maskedPaths").is_none());
        assert_eq!(spec["process"]["noNewPrivileges"], false);
        assert!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len() > 20);
        let devices = spec["linux"]["devices"].as_array().unwrap();
        assert!(devices.iter().any(|d| d["path"] == "/dev/null" && d["type"] == "c"), "{devices:?}");
        assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": true, "access": "rwm"}));
    }

    #[test]
    fn namespaces_are_chosen() {
        let kinds = |line: &str| spec(line).unwrap()["linux"]["namespaces"].clone();
        assert!(!kinds("--network host").to_string().contains("network"));
        assert!(!kinds("--net-host").to_string().contains("network"));
        assert!(!kinds("--pid host").to_string().contains("\"pid\""));
        assert!(kinds("--pid container:other").to_string().contains("/proc/42/ns/pid"));
        assert!(spec("--uts host --hostname x").is_err());
        assert_eq!(spec("--hostname x").unwrap()["hostname"], "x");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "-w relative",
            "--cap-add nope",
            "--cgroup-parent x/../..",
            "--sysctl a=",
            "-e =x",
            "--security-opt label=x",
            "--ulimit nofile",
            "--volume a",
            "--mount type=bind,dst=/x",
            "--tmpfs x",
            "--device /no/such/device",
            "--mount type=volume,src=a,dst=/b",
            "-v /no/such/path:/x",
        ] {
            assert!(spec(line).is_err(), "{line}");
        }
    }

    #[test]
    fn commands_come_from_image_and_person() {
        let mut image = Image::default();
        image.defaults.entrypoint = Some(vec!["entry".into()]);
        image.defaults.cmd = Some(vec!["cmd".into()]);
        let run = |line: &str, args: &[&str]| {
            let args: Vec<_> = args.iter().map(|a| (*a).to_owned()).collect();
            arguments(&image, &options(line), &args).unwrap()
        };
        assert_eq!(run("", &[]), ["entry", "cmd"]);
        assert_eq!(run("", &["a"]), ["entry", "a"]);
        assert_eq!(run("--entrypoint e", &[]), ["e"]);
        assert_eq!(run("--entrypoint e", &["a"]), ["e", "a"]);
        let none = Options { entrypoint: Some(String::new()), ..Options::default() };
        assert!(arguments(&image, &none, &[]).is_err());
    }

    #[test]
    fn environment_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\nB=2\nWINDLASS_NOT_SET\n").unwrap();
        let process = ProcessOptions { env: vec!["B=3".into()], env_file: vec![file], ..Default::default() };
        assert_eq!(process.environment(vec!["A=0".into(), "C=4".into()]).unwrap(), ["C=4", "A=1", "B=3"]);
    }
}
