//! The server as its clients see it, over real sockets, with clients that also do what no good client does.

#[path = "../examples/handler/mod.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
pub(crate) mod handler;

mod client;
mod limits;
pub(crate) mod mutations;
mod requests;
mod spdy;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use handler::Echo;

use crate::{Attach, Exec, Server, Settings};

/// Longest a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with its handler.
struct Daemon {
    server: Server,
    echo: Echo,
}

async fn daemon() -> Daemon {
    daemon_with(Settings::default()).await
}

async fn daemon_with(settings: Settings) -> Daemon {
    let echo = Echo::default();
    Daemon { server: Server::start(settings, Arc::new(echo.clone())).await.unwrap(), echo }
}

impl Daemon {
    fn exec(&self, cmd: &[&str]) -> String {
        self.server.exec_url(exec(cmd)).unwrap()
    }

    fn attach(&self, container: &str) -> String {
        let attach =
            Attach { container_id: container.into(), stdin: true, stdout: true, ..Attach::default() };
        self.server.attach_url(attach).unwrap()
    }

    /// Waits until no call of the handler runs.
    async fn settles(&self) {
        let mut running = self.echo.running();
        within(running.wait_for(|running| *running == 0)).await.unwrap();
    }

    async fn told(&self, count: usize) {
        let mut told = self.echo.told();
        within(told.wait_for(|told| *told >= count)).await.unwrap();
    }
}

/// A command with all three streams.
fn exec(cmd: &[&str]) -> Exec {
    Exec {
        container_id: "c".into(),
        cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    }
}

/// Fails a test that waits for ever.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}
