//! Networks of plugins that fail, hang, flood, print garbage and die.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass_core::Class;
use windlass_network::cni::{Capabilities, IpPreference, Limits, Network, Pod, Settings};
use windlass_network::{Error, Result};

const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration directory, plugins and a cache of their own.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a network of these plugins, whole.
    fn network(&self, file: &str, name: &str, version: &str, plugins: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/plugin.sh");
        for plugin in plugins {
            let _ = std::os::unix::fs::symlink(&script, self.path("bin").join(plugin));
        }
        let plugins: Vec<_> =
            plugins.iter().map(|p| json!({"type": p, "capabilities": {"mac": true, "dns": false}})).collect();
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        self.write(file, &list.to_string());
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::create_dir_all(self.path("conf")).unwrap();
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path("conf").join(file)).unwrap();
    }

    async fn open(&self) -> Network {
        self.open_with(|_| {}).await
    }

    async fn open_with(&self, change: impl FnOnce(&mut Settings)) -> Network {
        let mut settings = Settings {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("none"), self.path("bin")],
            cache_dir: self.path("cache"),
            limits: Limits { exec: PATIENCE, status: PATIENCE },
            ..Settings::default()
        };
        change(&mut settings);
        Network::open(settings).await.unwrap()
    }

    /// The calls of plugins, as "plugin COMMAND pod interface".
    fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("bin/log")).unwrap_or_default();
        let begun = log.lines().filter_map(|line| line.strip_prefix("begin "));
        begun.map(|line| line.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("bin/log")).unwrap_or_default()
    }

    /// What a plugin read.
    fn request(&self, plugin: &str, command: &str, pod: &str) -> Value {
        let text = std::fs::read(self.path(&format!("bin/{plugin}-{command}-{pod}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn cached(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.path("cache/results")) else { return BTreeSet::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn gate(&self) -> PathBuf {
        let gate = self.path("bin/gate");
        if !gate.exists() {
            rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }
        gate
    }

    /// Lets a gated plugin go on, once it is at the gate.
    async fn open_gate(&self) -> impl FnOnce() + use<> {
        let gate = self.gate();
        let opened = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(gate));
        let mut file = tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().unwrap();
        move || std::io::Write::write_all(&mut file, b"go\n").unwrap()
    }

    /// The process that a plugin started.
    fn sleeper(&self) -> Option<rustix::fd::OwnedFd> {
        let text = std::fs::read_to_string(self.path("bin/sleeper")).unwrap();
        pidfd_open(Pid::from_raw(text.trim().parse().unwrap()).unwrap(), PidfdFlags::empty()).ok()
    }
}

fn pod(id: &str) -> Pod {
    let capabilities = Capabilities { mac: Some("02:00:00:00:00:09".into()), ..Capabilities::default() };
    Pod {
        id: id.into(),
        netns: "/nowhere/net".into(),
        namespace: "ns".into(),
        name: "web".into(),
        uid: "u1".into(),
        capabilities,
        ..Pod::default()
    }
}

async fn failed(site: &Site, network: &Network) -> (Error, Vec<String>) {
    let before = site.calls().len();
    let error = network.attach(pod("p1")).await.unwrap_err();
    (error, site.calls().split_off(before))
}

#[tokio::test]
async fn a_pod_is_attached_and_detached() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["first", "second"]);
    let network = site.open().await;
    let outcome = network.attach(pod("p1")).await?;
    assert_eq!(outcome.primary_ips(IpPreference::Ipv4), ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(outcome.interfaces["eth0"].sandbox, "/nowhere/net");
    assert_eq!(outcome.raw[0]["extra"], "second");
    assert_eq!(site.cached(), BTreeSet::from(["net-p1-eth0".to_owned()]));
    let first = site.request("first", "ADD", "p1");
    assert_eq!(first.get("prevResult"), None);
    assert_eq!((&first["name"], &first["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert_eq!(first["runtimeConfig"], json!({"mac": "02:00:00:00:00:09"}));
    assert_eq!(site.request("second", "ADD", "p1")["prevResult"]["extra"], "first");
    let args = "args=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u1";
    assert!(
        site.log().contains(&format!("begin first ADD p1 eth0 netns=/nowhere/net {args}")),
        "{}",
        site.log()
    );
    network.check(pod("p1")).await?;
    assert_eq!(site.request("first", "CHECK", "p1")["prevResult"]["extra"], "second");

    // Another process, another configuration: the attachment is undone as it was made.
    drop(network);
    site.network("1.conflist", "net", "1.0.0", &["third"]);
    let network = site.open().await;
    assert_eq!(network.outcome("p1").await?, Some(outcome));
    assert_eq!(network.outcome("p2").await?, None);
    network.detach(pod("p1")).await?;
    assert_eq!(site.calls()[4..], ["second DEL p1 eth0", "first DEL p1 eth0"]);
    assert_eq!(site.request("second", "DEL", "p1")["prevResult"]["extra"], "second");
    // Its namespace is gone: plugins are told so.
    assert!(site.log().contains("begin first DEL p1 eth0 netns= args=Ign"), "{}", site.log());
    assert!(site.cached().is_empty());
    network.check(pod("p1")).await?;
    // Once more, and one that never was.
    network.detach(pod("p1")).await?;
    network.detach(pod("p7")).await?;
    assert_eq!(site.calls()[6..], ["third DEL p1 eth0", "third DEL p7 eth0"]);
    Ok(())
}

#[tokio::test]
async fn failures_say_what_and_are_undone() {
    let site = Site::new();
    for (bad, words) in [
        ("fail", r#"plugin type="fail" failed (add): bad config; subnet is missing (code 7)"#),
        ("garbage", r#"plugin type="garbage" (add) printed what is not an answer: "#),
        ("wrong", r#"plugin type="wrong" (add) printed what is not an answer: "nowhere" is not an address"#),
        ("flood", r#"plugin type="flood" (add) printed more than 1048576 bytes and was killed"#),
        (
            "silent",
            r#"plugin type="silent" failed (add) without an error message: exit status: 3: cannot go on"#,
        ),
        ("dies", r#"plugin type="dies" failed (add) without an error message: signal: 9 (SIGKILL)"#),
        ("absent", r#"failed to find plugin "absent" in path"#),
    ] {
        site.network("1.conflist", "net", "1.0.0", &["first", bad, "never"]);
        if bad == "absent" {
            std::fs::remove_file(site.path("bin/absent")).unwrap();
        }
        let network = site.open().await;
        let (error, calls) = failed(&site, &network).await;
        assert!(error.to_string().starts_with(words), "{error}");
        assert!(error.to_string().ends_with(r#"; network "net""#), "{error}");
        assert_eq!(calls[0], "first ADD p1 eth0");
        assert!(!calls.iter().any(|call| call.starts_with("never ADD")), "{calls:?}");
        if bad == "absent" {
            // It was never run, so it holds nothing; the others are asked to undo what they did.
            let back: Vec<_> = calls.iter().rev().take(2).rev().collect();
            assert_eq!(back, ["never DEL p1 eth0", "first DEL p1 eth0"]);
            assert!(site.cached().is_empty());
            continue;
        }
        let back: Vec<_> = calls.iter().rev().take(3).rev().collect();
        assert_eq!(back, ["never DEL p1 eth0", &format!("{bad} DEL p1 eth0"), "first DEL p1 eth0"]);
        assert_eq!(site.request("first", "DEL", "p1")["prevResult"]["extra"], "first");
        assert!(site.cached().is_empty(), "{bad}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["hang"]);
    let network = site.open_with(|settings| settings.limits.exec = Duration::from_secs(1)).await;
    let begun = Instant::now();
    let (error, calls) = failed(&site, &network).await;
    assert_eq!(error.class(), Class::DeadlineExceeded);
    assert!(error.to_string().contains("did not end within 1s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(calls, ["hang ADD p1 eth0", "hang DEL p1 eth0"]);
    if let Some(sleeper) = site.sleeper() {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let ended = poll(&mut [PollFd::new(&sleeper, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "the plugin's child lives on");
    }
}

#[tokio::test]
async fn a_child_that_stays_holds_nobody_up() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["leaves"]);
    let network = site.open().await;
    let begun = Instant::now();
    network.attach(pod("p1")).await?;
    assert!(begun.elapsed() < PATIENCE);
    let sleeper = site.sleeper().expect("what a plugin leaves running on purpose is left alone");
    rustix::process::pidfd_send_signal(&sleeper, Signal::KILL).unwrap();
    Ok(())
}

#[tokio::test]
async fn a_failed_teardown_is_tried_again() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["first", "fails-to-go"]);
    let network = site.open().await;
    network.attach(pod("p1")).await?;
    let error = network.detach(pod("p1")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert_eq!(site.cached().len(), 1);
    std::fs::write(site.path("bin/healed"), "").unwrap();
    network.detach(pod("p1")).await?;
    assert!(site.cached().is_empty());
    assert_eq!(site.calls().last().unwrap(), "first DEL p1 eth0");
    Ok(())
}

#[tokio::test]
async fn what_is_gone_already_is_no_failure() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["unknown", "missing"]);
    let network = site.open().await;
    network.attach(pod("p1")).await?;
    network.detach(pod("p1")).await?;
    assert!(site.cached().is_empty());
    // Without any network at all.
    std::fs::remove_file(site.path("conf/1.conflist")).unwrap();
    site.open().await.detach(pod("p1")).await
}

#[tokio::test]
async fn results_of_old_plugins_are_understood() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "0.4.0", &["old", "second"]);
    let network = site.open().await;
    network.attach(pod("p1")).await?;
    let given = site.request("second", "ADD", "p1");
    assert_eq!(given["cniVersion"], "0.4.0");
    let ips = json!([{"version": "4", "address": "10.8.0.2/24", "gateway": "10.8.0.1"}]);
    assert_eq!(given["prevResult"], json!({"cniVersion": "0.4.0", "ips": ips}));
    Ok(())
}

#[tokio::test]
async fn several_networks_are_all_or_nothing() -> Result<()> {
    for serially in [false, true] {
        let site = Site::new();
        site.network("1.conflist", "one", "1.0.0", &["first"]);
        site.network("2.conflist", "two", "0.3.1", &["second"]);
        let network =
            site.open_with(|settings| (settings.max_conf_num, settings.setup_serially) = (0, serially)).await;
        let outcome = network.attach(pod("p1")).await?;
        assert_eq!(outcome.interfaces["eth1"].ips.len(), 1);
        assert_eq!(outcome.raw.iter().map(|raw| &raw["extra"]).collect::<Vec<_>>(), ["first", "second"]);
        network.detach(pod("p1")).await?;
        assert_eq!(site.calls()[2..], ["second DEL p1 eth1", "first DEL p1 eth0"]);
        // No result for DEL before 0.4.
        assert_eq!(site.request("second", "DEL", "p1").get("prevResult"), None);

        site.network("2.conflist", "two", "1.0.0", &["fail"]);
        let network =
            site.open_with(|settings| (settings.max_conf_num, settings.setup_serially) = (2, serially)).await;
        network.attach(pod("p2")).await.unwrap_err();
        assert!(site.calls().contains(&"first DEL p2 eth0".to_owned()));
        assert!(site.cached().is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn pods_do_not_wait_for_each_other() -> Result<()> {
    let site = Site::new();
    site.gate();
    site.network("1.conflist", "net", "1.0.0", &["meets"]);
    let network = site.open().await;
    let (a, b) = tokio::join!(network.attach(pod("a1")), network.attach(pod("b1")));
    a.and(b).map(drop)
}

#[tokio::test]
async fn one_thing_at_a_time_for_a_pod_even_if_its_caller_goes_away() -> Result<()> {
    let site = Site::new();
    site.gate();
    site.network("1.conflist", "net", "1.0.0", &["gated"]);
    let network = site.open().await;
    let adding = tokio::spawn({
        let network = network.clone();
        async move { network.attach(pod("p1")).await }
    });
    let go = site.open_gate().await;
    adding.abort();
    assert!(adding.await.unwrap_err().is_cancelled());
    let (detached, ()) = tokio::join!(network.detach(pod("p1")), async {
        // The other has had its chance to begin.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        go();
    });
    detached?;
    let order: Vec<_> =
        site.log().lines().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(order, ["begin gated ADD", "end gated ADD", "begin gated DEL", "end gated DEL"]);
    Ok(())
}

#[tokio::test]
async fn a_setup_that_was_cut_off_is_undone() -> Result<()> {
    let site = Site::new();
    site.gate();
    site.network("1.conflist", "net", "1.0.0", &["first", "gated"]);
    // A process that is killed in the middle: its runtime ends, and with it everything that ran.
    let dead = std::thread::spawn({
        let (bin, conf, cache) = (site.path("bin"), site.path("conf"), site.path("cache"));
        move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let settings = Settings {
                    conf_dir: conf,
                    bin_dirs: vec![bin.clone()],
                    cache_dir: cache,
                    ..Settings::default()
                };
                let network = Network::open(settings).await.unwrap();
                tokio::spawn(async move { network.attach(pod("p1")).await });
                let gate = bin.join("gate");
                let opened =
                    tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(gate));
                tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().unwrap()
            })
        }
    });
    let gate = tokio::task::spawn_blocking(move || dead.join().unwrap()).await.unwrap();
    assert_eq!(site.cached().len(), 1);
    std::fs::remove_file(site.path("conf/1.conflist")).unwrap();
    let network = site.open().await;
    assert_eq!(network.outcome("p1").await?, None);
    assert!(network.check(pod("p1")).await.unwrap_err().to_string().contains("not completely added"));
    network.detach(pod("p1")).await?;
    assert_eq!(site.calls()[2..], ["gated DEL p1 eth0", "first DEL p1 eth0"]);
    assert!(site.cached().is_empty());
    drop(gate);
    Ok(())
}

#[tokio::test]
async fn status_and_versions() -> Result<()> {
    let site = Site::new();
    let network = site.open().await;
    let error = network.status().await.unwrap_err();
    assert!(error.to_string().ends_with("cni plugin not initialized"), "{error}");
    assert!(network.attach(pod("p1")).await.is_err());
    // Nobody is asked before 1.1.
    site.network("1.conflist", "net", "1.0.0", &["first"]);
    std::fs::write(site.path("bin/down"), "").unwrap();
    let network = site.open().await;
    network.status().await?;
    site.network("1.conflist", "net", "1.1.0", &["first"]);
    let network = site.open().await;
    let error = network.status().await.unwrap_err();
    assert!(
        error.to_string().ends_with(r#"(status): not available; no more addresses (code 50); network "net""#),
        "{error}"
    );
    std::fs::remove_file(site.path("bin/down")).unwrap();
    network.status().await?;
    network.validate().await?;
    assert_eq!(network.versions("first").await?, ["0.4.0", "1.0.0", "1.1.0"]);
    assert!(network.versions("../first").await.is_err());
    site.network("1.conflist", "net", "0.3.0", &["first"]);
    assert_eq!(site.open().await.validate().await.unwrap_err().class(), Class::Unimplemented);
    Ok(())
}

#[tokio::test]
async fn what_pods_left_is_collected() -> Result<()> {
    let site = Site::new();
    site.network("1.conflist", "net", "1.1.0", &["first", "second"]);
    let network = site.open().await;
    for id in ["p1", "p2"] {
        network.attach(pod(id)).await?;
    }
    network.collect(|| BTreeSet::from(["p2".to_owned(), "p3".to_owned()])).await?;
    let calls = site.calls();
    assert_eq!(calls[4..6], ["second DEL p1 eth0", "first DEL p1 eth0"]);
    assert!(calls[6].starts_with("first GC") && calls[7].starts_with("second GC"), "{calls:?}");
    let valid = json!([{"containerID": "p2", "ifname": "eth0"}, {"containerID": "p3", "ifname": "eth0"}]);
    assert_eq!(site.request("first", "GC", "")["cni.dev/valid-attachments"], valid);
    assert_eq!(site.cached(), BTreeSet::from(["net-p2-eth0".to_owned()]));

    // Older networks have no such command, and some must be left alone.
    site.network("1.conflist", "net", "1.0.0", &["first"]);
    let before = site.calls().len();
    site.open().await.collect(|| BTreeSet::from(["p2".to_owned()])).await?;
    assert_eq!(site.calls().len(), before);
    Ok(())
}

/// Waits until the networks are as they should be.
async fn until(network: &Network, right: impl Fn(&Network) -> bool) {
    let mut changes = network.changes();
    let wait = async {
        while !right(network) {
            assert!(changes.next().await);
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the change is noticed");
}

fn names(network: &Network) -> Vec<String> {
    network.networks().map(|all| all.iter().map(|one| one.name.clone()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn the_directory_is_followed() {
    let site = Site::new();
    let conf = site.path("deep/er/conf");
    let network = site.open_with(|settings| settings.conf_dir.clone_from(&conf)).await;
    assert!(names(&network).is_empty());
    // It appears, step by step.
    std::fs::create_dir(site.path("deep")).unwrap();
    std::fs::create_dir(site.path("deep/er")).unwrap();
    std::fs::create_dir(&conf).unwrap();
    let list = |name: &str| json!({"name": name, "plugins": [{"type": "x"}]}).to_string();
    std::fs::write(conf.join("5.conflist"), list("five")).unwrap();
    until(&network, |network| names(network) == ["five"]).await;
    // A broken one does not take away what there is.
    std::fs::write(conf.join("1.conflist"), "{").unwrap();
    until(&network, |network| network.load_error().is_some()).await;
    assert_eq!(names(&network), ["five"]);
    std::fs::write(conf.join("1.conflist"), list("one")).unwrap();
    until(&network, |network| names(network) == ["one"] && network.load_error().is_none()).await;
    // It is put in another's place.
    std::fs::rename(&conf, site.path("old")).unwrap();
    until(&network, |network| names(network).is_empty()).await;
    std::fs::remove_file(site.path("old/1.conflist")).unwrap();
    std::os::unix::fs::symlink(site.path("old"), &conf).unwrap();
    until(&network, |network| names(network) == ["five"]).await;
    // A directory above it goes, and comes again.
    std::fs::rename(site.path("deep"), site.path("away")).unwrap();
    until(&network, |network| names(network).is_empty()).await;
    std::fs::rename(site.path("away"), site.path("deep")).unwrap();
    until(&network, |network| names(network) == ["five"]).await;
    // A plugin of its own file.
    std::fs::create_dir(conf.join("five")).unwrap();
    std::fs::write(conf.join("five/1.conf"), r#"{"type":"y"}"#).unwrap();
    until(&network, |network| network.networks().is_ok_and(|all| all[0].plugins.len() == 2)).await;
    std::fs::write(conf.join("five/2.conf"), r#"{"type":"z"}"#).unwrap();
    until(&network, |network| network.networks().is_ok_and(|all| all[0].plugins.len() == 3)).await;
    // All is taken away.
    std::fs::remove_file(conf.join("5.conflist")).unwrap();
    until(&network, |network| names(network).is_empty()).await;
}

#[tokio::test]
async fn tools_are_shown_the_configuration() {
    let site = Site::new();
    site.network("1.conflist", "net", "1.0.0", &["first"]);
    let shown = site.open().await.describe();
    assert_eq!(shown["Networks"][0]["IFName"], "lo");
    assert_eq!(shown["Networks"][1]["IFName"], "eth0");
    assert_eq!(shown["Networks"][1]["Config"]["Plugins"][0]["Network"]["type"], "first");
    assert_eq!((&shown["Prefix"], &shown["PluginMaxConfNum"]), (&json!("eth"), &json!(1)));
}
