//! A bridge with two families, port mappings and an address of its own choice, by the reference plugins of a distribution
//! and by what is built in. Needs root and the package `containernetworking-plugins`.
//!
//! The machine, as the plugins see it, is a network namespace of the test's own: nothing of it can be left behind.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_network::cni::{Capabilities, IpPreference, Network, Pod, PortMapping, Settings};
use windlass_network::namespaces::{self, Held, Wanted};

const PLUGINS: &str = "/usr/lib/cni";
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a test in a network of its own; every thread of its runtime is in there too.
fn elsewhere<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    assert!(
        Path::new(PLUGINS).join("bridge").exists(),
        "this test needs the package containernetworking-plugins"
    );
    let body = move || {
        // SAFETY: the flag names no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        assert!(said("ip", &["link", "set", "lo", "up"]).is_empty());
        // The bridge's address of IPv6 is to be good at once, not when the kernel has looked for others that have it.
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
        }
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test());
    };
    std::thread::spawn(body).join().unwrap();
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Both ways: by the programs alone, and by what is built in with a program where it does not know enough.
const WAYS: [bool; 2] = [false, true];

fn configure(dir: &Path, builtin_plugins: bool) -> Settings {
    let range = |subnet: &str| json!([{ "subnet": subnet }]);
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "real",
        "plugins": [
            {
                "type": "bridge", "capabilities": {"mac": true}, "bridge": "wlbr0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": dir.join("ipam"),
                    "ranges": [range("10.213.7.0/24"), range("fd21:3:7::/64")],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "tuning", "sysctl": {"net.ipv4.conf.all.accept_redirects": "0"}},
        ],
    });
    std::fs::create_dir(dir.join("conf")).unwrap();
    std::fs::write(dir.join("conf/10.conflist"), list.to_string()).unwrap();
    Settings {
        conf_dir: dir.join("conf"),
        bin_dirs: vec![PLUGINS.into()],
        cache_dir: dir.join("cache"),
        builtin_plugins,
        ..Settings::default()
    }
}

/// An address that no other pod has.
fn mac(port: u16) -> String {
    format!("02:00:00:00:{:02x}:{:02x}", port >> 8, port & 0xff)
}

fn pod(id: &str, held: &Held, host_port: u16) -> Pod {
    let mapping =
        PortMapping { host_port, container_port: 80, protocol: "tcp".into(), host_ip: String::new() };
    let capabilities =
        Capabilities { port_mappings: vec![mapping], mac: Some(mac(host_port)), ..Capabilities::default() };
    Pod {
        id: id.into(),
        netns: held.net(),
        name: id.into(),
        namespace: "ns".into(),
        capabilities,
        ..Pod::default()
    }
}

/// Sends a word to a server in the pod and has it echoed.
async fn reached(held: &Held, listen: IpAddr, port: u16, by: SocketAddr) {
    let bind = SocketAddr::new(listen, port);
    let listener = namespaces::inside(&held.net(), move || {
        // An address of IPv6 may still be looked at by the kernel.
        let begun = Instant::now();
        loop {
            match TcpListener::bind(bind) {
                Err(_) if begun.elapsed() < LIMIT => std::thread::yield_now(),
                outcome => return outcome.unwrap(),
            }
        }
    })
    .await
    .unwrap();
    let serve = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    });
    // Not on this thread's runtime: a thread that it starts is in the same network.
    let echo = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect_timeout(&by, LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut echo = String::new();
        stream.read_to_string(&mut echo).unwrap();
        echo
    });
    assert_eq!(echo.await.unwrap(), "hello");
    serve.join().unwrap();
}

fn reservations(ipam: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(ipam.join("real")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().parse::<IpAddr>().is_ok()).collect()
}

/// Nothing of any pod: no interface, no rule, no address, no attachment. A rule that the programs left may be that of `left`.
fn assert_clean(dir: &Path, left: Option<&str>) {
    let links = said("ip", &["-o", "link"]);
    assert!(!links.contains("veth"), "{links}");
    for save in ["iptables-save", "ip6tables-save"] {
        let rules = said(save, &[]);
        let of_pods = rules.lines().filter(|rule| rule.contains("pod-"));
        assert!(of_pods.clone().all(|rule| left.is_some_and(|id| rule.contains(id))), "{rules}");
        assert!(!rules.contains("CNI-DN"), "{rules}");
    }
    assert_eq!(reservations(&dir.join("ipam")), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(dir.join("cache/results")).unwrap().count(), 0);
}

#[test]
fn a_bridge_connects_pods() {
    WAYS.into_iter().for_each(|builtin| elsewhere(move || bridge_connects_pods(builtin)));
}

async fn bridge_connects_pods(builtin: bool) {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::open(configure(dir.path(), builtin)).await.unwrap();
    network.validate().await.unwrap();
    network.status().await.unwrap();
    let mut pods = Vec::new();
    for (id, port) in [("pod-a", 8081), ("pod-b", 8082)] {
        let held = namespaces::create(&dir.path().join(id), Wanted { net: true, ..Wanted::default() })
            .await
            .unwrap();
        let begun = Instant::now();
        let outcome = network.attach(pod(id, &held, port)).await.unwrap();
        println!("add {id}, builtin {builtin}: {:?}", begun.elapsed());
        assert_eq!(network.outcome(id).await.unwrap().as_ref(), Some(&outcome));
        pods.push((id, held, port, outcome));
    }
    let (_, held, port, outcome) = &pods[0];
    assert_eq!(outcome.interfaces["eth0"].mac, mac(*port));
    let ips = outcome.primary_ips(IpPreference::Ipv4);
    assert!(ips[0].is_ipv4() && ips[1].is_ipv6() && ips.len() == 2, "{ips:?}");
    assert_eq!(outcome.interfaces["eth0"].sandbox, held.net().display().to_string());
    assert_eq!(outcome.interfaces["eth0"].ips[0].gateway, Some("10.213.7.1".parse().unwrap()));
    assert_eq!(outcome.routes.len(), 2);
    assert_eq!(reservations(&dir.path().join("ipam")).len(), 4);
    reached(held, ips[0], 80, SocketAddr::new(ips[0], 80)).await;
    reached(held, ips[1], 80, SocketAddr::new(ips[1], 80)).await;
    reached(held, ips[0], 80, SocketAddr::new("10.213.7.1".parse().unwrap(), *port)).await;

    // One goes in good order, one after its namespace has gone.
    let (id, held, port, _) = &pods[0];
    let begun = Instant::now();
    network.detach(pod(id, held, *port)).await.unwrap();
    println!("del {id}, builtin {builtin}: {:?}", begun.elapsed());
    namespaces::remove(&held.dir).await.unwrap();
    let (id, held, port, _) = &pods[1];
    namespaces::remove(&held.dir).await.unwrap();
    network.detach(pod(id, held, *port)).await.unwrap();
    wait_for_veths().await;
    // Without a namespace, the program does not find its rule for masquerading again: pod-b's stays, and that is all.
    let left = (!builtin).then_some("pod-b");
    assert_clean(dir.path(), left);
    // Twice is as good as once.
    network.detach(pod(id, held, *port)).await.unwrap();
    assert_clean(dir.path(), left);
}

/// The kernel ends a namespace, and with it its interfaces, on a thread of its own.
async fn wait_for_veths() {
    let begun = Instant::now();
    while said("ip", &["-o", "link"]).contains("veth") {
        assert!(begun.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_fails_at_the_last_plugin_is_undone() {
    WAYS.into_iter().for_each(|builtin| elsewhere(move || last_plugin_fails(builtin)));
}

async fn last_plugin_fails(builtin: bool) {
    let dir = tempfile::tempdir().unwrap();
    let settings = configure(dir.path(), builtin);
    let path = dir.path().join("conf/10.conflist");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("accept_redirects", "no_such_thing")).unwrap();
    let network = Network::open(settings.clone()).await.unwrap();
    let held = namespaces::create(&dir.path().join("pod-c"), Wanted { net: true, ..Wanted::default() })
        .await
        .unwrap();
    let error = network.attach(pod("pod-c", &held, 8083)).await.unwrap_err();
    assert!(error.to_string().contains(r#"plugin type="tuning" failed (add)"#), "{error}");
    wait_for_veths().await;
    assert_clean(dir.path(), None);
    // And it can be had right after that.
    std::fs::write(&path, good).unwrap();
    let network = Network::open(settings).await.unwrap();
    network.attach(pod("pod-c", &held, 8083)).await.unwrap();
    // A namespace of a pod that nobody knows any more.
    network.collect(std::collections::BTreeSet::new).await.unwrap();
    wait_for_veths().await;
    assert_clean(dir.path(), None);
    namespaces::remove(&held.dir).await.unwrap();
}

#[test]
fn a_check_finds_what_was_changed() {
    WAYS.into_iter().for_each(|builtin| elsewhere(move || check_finds(builtin)));
}

async fn check_finds(builtin: bool) {
    let dir = tempfile::tempdir().unwrap();
    let settings = configure(dir.path(), builtin);
    // Without port mappings: this plugin's own check does not hold in all its versions.
    let path = dir.path().join("conf/10.conflist");
    let mut list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    list["plugins"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&path, list.to_string()).unwrap();
    let network = Network::open(settings).await.unwrap();
    let held = namespaces::create(&dir.path().join("pod-d"), Wanted { net: true, ..Wanted::default() })
        .await
        .unwrap();
    network.attach(pod("pod-d", &held, 8084)).await.unwrap();
    network.check(pod("pod-d", &held, 8084)).await.unwrap();
    let change = || said("ip", &["route", "delete", "default"]);
    assert!(namespaces::inside(&held.net(), change).await.unwrap().is_empty());
    let error = network.check(pod("pod-d", &held, 8084)).await.unwrap_err();
    assert!(error.to_string().contains(r#"plugin type="bridge" failed (check)"#), "{error}");
    network.detach(pod("pod-d", &held, 8084)).await.unwrap();
    wait_for_veths().await;
    assert_clean(dir.path(), None);
    namespaces::remove(&held.dir).await.unwrap();
}

/// A pod without port mappings.
fn plain(id: &str, held: &Held) -> Pod {
    Pod { capabilities: Capabilities::default(), ..pod(id, held, 80) }
}

async fn netns(dir: &Path) -> Held {
    namespaces::create(dir, Wanted { net: true, ..Wanted::default() }).await.unwrap()
}

/// The configuration without its last plugin, which is not built in, and no program at all.
fn without_programs(dir: &Path) -> Settings {
    let settings = configure(dir, true);
    let path = dir.join("conf/10.conflist");
    let mut list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    list["plugins"].as_array_mut().unwrap().truncate(2);
    std::fs::write(&path, list.to_string()).unwrap();
    Settings { bin_dirs: vec![dir.join("bin")], ..settings }
}

#[test]
fn no_program_is_needed_and_pods_come_out_under_the_hosts_address() {
    elsewhere(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(without_programs(dir.path())).await.unwrap();
        network.validate().await.unwrap();
        network.status().await.unwrap();
        // Somebody outside, who knows the host and not the network of its pods.
        let outside = netns(&dir.path().join("outside")).await;
        let there = outside.net().display().to_string();
        said("ip", &["link", "add", "out", "type", "veth", "peer", "name", "host"]);
        said("ip", &["addr", "add", "198.51.100.1/24", "dev", "out"]);
        said("ip", &["addr", "add", "2001:db8::1/64", "dev", "out", "nodad"]);
        said("ip", &["link", "set", "out", "up"]);
        said("ip", &["link", "set", "host", "netns", &there]);
        let outside = outside.net();
        let listening = namespaces::inside(&outside, || {
            said("ip", &["addr", "add", "198.51.100.2/24", "dev", "host"]);
            said("ip", &["addr", "add", "2001:db8::2/64", "dev", "host", "nodad"]);
            said("ip", &["link", "set", "host", "up"]);
            ["198.51.100.2:9000", "[2001:db8::2]:9000"].map(|at| TcpListener::bind(at).unwrap())
        });
        let listening = listening.await.unwrap();
        let mut pods = Vec::new();
        for id in ["pod-e", "pod-f"] {
            let held = netns(&dir.path().join(id)).await;
            let begun = Instant::now();
            network.attach(plain(id, &held)).await.unwrap();
            println!("add {id}: {:?}", begun.elapsed());
            pods.push((id, held));
        }
        for listener in listening {
            let at = listener.local_addr().unwrap();
            let seen = std::thread::spawn(move || listener.accept().unwrap().1.ip().to_string());
            let connect = move || TcpStream::connect_timeout(&at, LIMIT).unwrap();
            namespaces::inside(&pods[0].1.net(), connect).await.unwrap();
            let expected = if at.is_ipv4() { "198.51.100.1" } else { "2001:db8::1" };
            assert_eq!(seen.join().unwrap(), expected);
        }
        for (id, held) in &pods {
            network.check(plain(id, held)).await.unwrap();
            let begun = Instant::now();
            network.detach(plain(id, held)).await.unwrap();
            println!("del {id}: {:?}", begun.elapsed());
        }
        said("ip", &["link", "delete", "out"]);
        assert_clean(dir.path(), None);
    });
}

#[test]
fn what_is_built_in_undoes_what_it_did_and_no_more() {
    elsewhere(|| async {
        let dir = tempfile::tempdir().unwrap();
        let settings = without_programs(dir.path());
        let held = netns(&dir.path().join("pod-g")).await;
        let network = Network::open(settings.clone()).await.unwrap();
        network.attach(plain("pod-g", &held)).await.unwrap();
        // It has been turned off since, and there is another bridge by somebody else.
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let program = dir.path().join("bin/bridge");
        std::fs::write(&program, "#!/bin/sh\necho somebody else >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let off = Network::open(Settings { builtin_plugins: false, ..settings.clone() }).await.unwrap();
        off.detach(plain("pod-g", &held)).await.unwrap();
        wait_for_veths().await;
        assert_clean(dir.path(), None);
        // A program that is not the reference plugin is what the administrator wants.
        let on = Network::open(settings).await.unwrap();
        let error = on.attach(plain("pod-g", &held)).await.unwrap_err();
        assert!(error.to_string().contains("somebody else"), "{error}");
        namespaces::remove(&held.dir).await.unwrap();
    });
}
