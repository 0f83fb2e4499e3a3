//! Core's suites through the services: what holds of a store holds of it over the wire.

mod remote;

use std::time::Duration;

use futures::FutureExt as _;
use remote::content::Content;
use remote::records::Records;
use remote::snapshots::Snapshots;
use tonic::transport::Channel;
use windlass_core::namespace::Namespace;
use windlass_core::{Context, Labels, lease, namespace, testsuite};
use windlass_tests::Daemon;

async fn channel(daemon: &Daemon) -> Channel {
    daemon.connect().await.expect("the daemon answers")
}

/// A namespace, and a lease in it that keeps the collector away from what nothing else refers to.
async fn with_namespace(daemon: &Daemon, name: &str) -> Context {
    let records = Records(channel(daemon).await);
    namespace::Store::create(&records, Namespace { name: name.into(), labels: Labels::new() })
        .await
        .expect("a fresh daemon makes a namespace");
    let cx = Context::new(name);
    lease::Manager::create(&records, &cx, "suite", Labels::new())
        .await
        .expect("a fresh namespace takes a lease");
    cx.with_lease("suite")
}

macro_rules! records {
    ($($name:ident: $suite:ident;)*) => { $(
        #[tokio::test]
        async fn $name() {
            let daemon = Daemon::builder().start();
            testsuite::$suite::run(&Records(channel(&daemon).await)).await;
        }
    )* };
}

records! {
    namespaces: namespace;
    containers: container;
    images: image;
    leases: lease;
    sandboxes: sandbox;
}

#[tokio::test]
async fn content() {
    let daemon = Daemon::builder().start();
    let cx = with_namespace(&daemon, "content").await;
    let env = testsuite::content::Env {
        store: &Content(channel(&daemon).await),
        cx,
        labels: true,
        pause: &|| tokio::time::sleep(Duration::from_millis(2)).boxed(),
    };
    testsuite::content::run(&env).await;
}

async fn snapshots(id: &str, capabilities: &[&str]) {
    let daemon = Daemon::builder().start();
    let cx = with_namespace(&daemon, "snapshots").await;
    let capabilities = capabilities.iter().map(|c| (*c).to_owned()).collect();
    let snapshotter = Snapshots { channel: channel(&daemon).await, id: id.into(), capabilities };
    testsuite::snapshot::run(&testsuite::snapshot::Env { snapshotter: &snapshotter, cx }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlayfs() {
    snapshots("overlayfs", &[windlass_core::snapshot::CAPABILITY_REBASE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native() {
    snapshots("native", &[]).await;
}
