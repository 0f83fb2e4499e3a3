//! The daemon as a process: what it serves, refuses and leaves.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use common::{Daemon, scoped, windlassd};
use futures::StreamExt as _;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use windlass_api::connect::MAX_MESSAGE;
use windlass_api::services::containers::containers_client::ContainersClient;
use windlass_api::services::containers::{Container, CreateContainerRequest, ListContainersRequest};
use windlass_api::services::content::content_client::ContentClient;
use windlass_api::services::content::{ReadContentRequest, WriteAction, WriteContentRequest};
use windlass_api::services::events::SubscribeRequest;
use windlass_api::services::events::events_client::EventsClient;
use windlass_api::services::introspection::PluginsRequest;
use windlass_api::services::introspection::introspection_client::IntrospectionClient;
use windlass_api::services::namespaces::ListNamespacesRequest;
use windlass_api::services::namespaces::namespaces_client::NamespacesClient;
use windlass_api::services::version::version_client::VersionClient;

#[tokio::test]
async fn every_plugin_starts_and_answers() {
    let daemon = Daemon::start("");
    let channel = daemon.connect().await;
    let version = VersionClient::new(channel.clone()).version(()).await.unwrap().into_inner().version;
    assert!(version.starts_with("2.3.") && version.contains("+windlass."), "{version}");
    let plugins = IntrospectionClient::new(channel.clone()).plugins(PluginsRequest::default()).await.unwrap();
    let plugins = plugins.into_inner().plugins;
    let failed: Vec<_> = plugins.iter().filter(|p| p.init_err.is_some()).collect();
    assert!(failed.is_empty() && plugins.len() > 25, "{failed:?}");
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    let server = IntrospectionClient::new(channel).server(()).await.unwrap().into_inner();
    assert_eq!(server.pid, u64::from(daemon.pid()));
    assert_eq!(server.uuid.len(), 36);
    assert!(daemon.elapsed() < Duration::from_secs(5), "{:?}", daemon.elapsed());
}

#[tokio::test]
async fn a_namespace_is_required() {
    let daemon = Daemon::start("");
    let mut containers = ContainersClient::new(daemon.connect().await);
    let said = containers.list(ListContainersRequest::default()).await.unwrap_err();
    assert_eq!(
        (said.code(), said.message()),
        (Code::FailedPrecondition, "namespace is required: failed precondition")
    );
    let said = containers.list(scoped("../x", ListContainersRequest::default())).await.unwrap_err();
    assert_eq!(said.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn sigterm_ends_streams_and_the_daemon() {
    let mut daemon = Daemon::start("");
    let mut events = EventsClient::new(daemon.connect().await);
    let mut stream = events.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    daemon.signal(libc::SIGUSR1);
    daemon.await_line("state: ");
    daemon.signal(libc::SIGTERM);
    let end = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("the stream ends");
    assert_eq!(end.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(daemon.wait().success());
    assert!(!daemon.socket().exists());
}

#[test]
fn one_daemon_per_root_and_per_socket() {
    let daemon = Daemon::start("");
    let root = daemon.dir.path().join("root");
    let other = tempfile::tempdir().unwrap();
    let other = |name: &str| other.path().join(name);
    let refused = windlassd(&root, &other("state"), &other("w.sock")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(&format!("process id {}", daemon.pid())), "{said}");
    let refused = windlassd(&other("root"), &other("state"), &daemon.socket()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("another daemon listens"), "{said}");
}

#[tokio::test]
async fn a_killed_daemon_is_followed_by_another() {
    let mut daemon = Daemon::start("");
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    assert!(daemon.socket().exists());
    daemon.again();
    VersionClient::new(daemon.connect().await).version(()).await.unwrap();
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(
        &file,
        "version = 3\n\n[plugins.\"io.containerd.event.v1.exchange\"]\n  queue = \"many\"\n",
    )
    .unwrap();
    let mut command =
        windlassd(&dir.path().join("root"), &dir.path().join("state"), &dir.path().join("w.sock"));
    let refused = command.arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains(&format!("{}:4: ", file.display())) && said.contains("queue"), "{said}");
    assert!(!dir.path().join("root").exists());
}

#[test]
fn the_default_configuration_is_in_order() {
    let run = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_windlassd")).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, run(&["config", "default"])).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(run(&["--config", file, "config", "check"]), "the configuration can be used\n");
    assert_eq!(run(&["--config", file, "config", "dump"]), run(&["config", "default"]));
    assert!(run(&["--config", file, "config", "migrate"]).contains("version = 4"));
}

#[tokio::test]
async fn messages_end_at_their_limit_and_nobody_else_notices() {
    let daemon = Daemon::start("");
    let mut containers =
        ContainersClient::new(daemon.connect().await).max_encoding_message_size(MAX_MESSAGE + 4096);
    let request = |size: usize| {
        let spec = prost_types::Any { type_url: "x/y".into(), value: vec![0; size] };
        let container = Container { id: "big".into(), spec: Some(spec), ..Container::default() };
        scoped("limits", CreateContainerRequest { container: Some(container) })
    };
    let said = containers.create(request(MAX_MESSAGE + 1)).await.unwrap_err();
    assert!(matches!(said.code(), Code::ResourceExhausted | Code::OutOfRange), "{said:?}");
    let mut namespaces = NamespacesClient::new(daemon.connect().await);
    namespaces.list(ListNamespacesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn thousands_of_streams_and_slow_readers_hurt_nobody() {
    let daemon = Daemon::start("");
    let mut content = ContentClient::new(daemon.connect().await);
    let data = vec![7; 3 << 20];
    let digest = windlass_core::Digest::of(&data).to_string();
    let write = |action: WriteAction, offset: usize, data: &[u8]| WriteContentRequest {
        action: action.into(),
        r#ref: "r".into(),
        offset: offset as i64,
        data: data.to_vec().into(),
        ..WriteContentRequest::default()
    };
    let messages = vec![
        write(WriteAction::Write, 0, &data),
        WriteContentRequest {
            total: data.len() as i64,
            expected: digest.clone(),
            // Nothing else keeps it from the collector.
            labels: [("containerd.io/gc.root".to_owned(), "now".to_owned())].into(),
            ..write(WriteAction::Commit, data.len(), &[])
        },
    ];
    let answers = content.write(scoped("slow", futures::stream::iter(messages))).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.last().unwrap().as_ref().unwrap().digest, digest);
    let before = daemon.resident();

    // Reads that nobody takes, and subscriptions without end, over one connection.
    let channel = daemon.connect().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let read = ReadContentRequest { digest: digest.clone(), ..ReadContentRequest::default() };
        let mut content = ContentClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        held.push(content.read(scoped("slow", read)).await.unwrap().into_inner());
    }
    let mut subscribed = Vec::new();
    for _ in 0..3000 {
        let mut events = EventsClient::new(channel.clone());
        subscribed.push(events.subscribe(SubscribeRequest::default()).await.unwrap().into_inner());
    }
    let mut namespaces = NamespacesClient::new(daemon.connect().await);
    tokio::time::timeout(Duration::from_secs(10), namespaces.list(ListNamespacesRequest::default()))
        .await
        .unwrap()
        .unwrap();
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB more for readers that do not read", grown >> 20);

    // And a reader that does read gets it all.
    let read = ReadContentRequest { digest: digest.clone(), offset: 5, size: 2 << 20 };
    let mut content = ContentClient::new(daemon.connect().await).max_decoding_message_size(MAX_MESSAGE);
    let mut read = content.read(scoped("slow", read)).await.unwrap().into_inner();
    let mut got = 0;
    while let Some(message) = read.next().await {
        got += message.unwrap().data.len();
    }
    assert_eq!(got, 2 << 20);
    drop((held, subscribed));
}

#[test]
fn metrics_and_state_are_served_where_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, debug) = (dir.path().join("m.sock"), dir.path().join("d.sock"));
    let daemon = Daemon::start(&format!(
        "[metrics]\naddress = \"{}\"\ngrpc_histogram = true\n[debug]\naddress = \"{}\"\n",
        metrics.display(),
        debug.display()
    ));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { VersionClient::new(daemon.connect().await).version(()).await.unwrap() });
    let get = |socket: &std::path::Path, path: &str| {
        let mut stream = UnixStream::connect(socket).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = get(&metrics, "/v1/metrics");
    let want = "grpc_server_handled_total{grpc_service=\"containerd.services.version.v1.Version\",grpc_method=\"Version\",grpc_code=\"OK\"} 1";
    assert!(text.starts_with("HTTP/1.1 200") && text.contains(want), "{text}");
    assert!(
        text.contains("grpc_server_handling_seconds_bucket")
            && text.contains("process_resident_memory_bytes ")
    );
    assert!(get(&debug, "/debug/vars").contains("io.containerd.metadata.v1"));
    assert!(get(&debug, "/none").starts_with("HTTP/1.1 404"));
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let size =
                socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            if String::from_utf8_lossy(&buffer[..size]).contains(wanted) {
                return;
            }
        }
    };
    let mut daemon = Daemon::with("", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    });
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal(libc::SIGTERM);
    hear("STOPPING=1");
    assert!(daemon.wait().success());
}

#[tokio::test]
async fn a_disabled_plugin_is_not_there_and_a_required_one_must_be() {
    let daemon = Daemon::start("disabled_plugins = [\"io.containerd.grpc.v1.version\"]\n");
    let said = VersionClient::new(daemon.connect().await).version(()).await.unwrap_err();
    assert_eq!(said.code(), Code::Unimplemented);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let text = "version = 3\nrequired_plugins = [\"io.containerd.snapshotter.v1.none\"]\n";
    std::fs::write(&file, text).unwrap();
    let mut command =
        windlassd(&dir.path().join("root"), &dir.path().join("state"), &dir.path().join("w.sock"));
    let refused = command.arg("--config").arg(&file).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("io.containerd.snapshotter.v1.none"));
}

#[tokio::test]
async fn oversized_and_foreign_requests_are_answered() {
    let daemon = Daemon::start("");
    let mut raw = UnixStream::connect(daemon.socket()).unwrap();
    raw.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Whatever it says, it ends the connection and lives.
    let _ = raw.read_to_end(&mut answer);
    let mut content = ContentClient::new(daemon.connect().await);
    let said = content.info(Request::new(Default::default())).await.unwrap_err();
    assert_eq!(said.code(), Code::FailedPrecondition);
}
