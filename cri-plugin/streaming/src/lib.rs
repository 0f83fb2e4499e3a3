//! The streaming server of the Container Runtime Interface: exec, attach and port forward, over SPDY/3.1 and over
//! WebSocket.
//!
//! A CRI call hands out a URL with a one-time token ([`Server::exec_url`] and its sisters); whoever comes to that URL
//! gets the streams, and a [`Handler`] does the work behind them. This crate knows no container, no shim and no CRI
//! message: it moves bytes between a client and a handler, bounded in memory and told when either end goes away.
//!
//! | layer | module |
//! |---|---|
//! | listener, TLS, URLs | `server`, `token`, `socket` |
//! | requests and upgrades | `http` |
//! | exec, attach: streams, exit status | `remote`, `status` |
//! | port forward: pairs of streams | `forward` |
//! | streams and their buffers, whatever carries them | `mux`, `drive` |
//! | frames | `spdy`, `websocket` |
//!
//! Where the rules come from:
//! - SPDY: "SPDY Protocol – Draft 3.1" of the Chromium project (frames, header block, dictionary, flow control).
//! - WebSocket: RFC 6455.
//! - Subprotocols `channel.k8s.io`, `v2` … `v5.channel.k8s.io`, `base64.channel.k8s.io` and
//!   `v4.base64.channel.k8s.io`, `portforward.k8s.io` and `SPDY/3.1+portforward.k8s.io`: Kubernetes' remote command
//!   constants and KEP-4006 (the close signal, the tunnel).
//! - The exit status on the error stream: `meta/v1.Status` of the Kubernetes API conventions.

mod drive;
mod error;
mod forward;
mod http;
mod mux;
mod remote;
mod server;
mod socket;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod websocket;

// The handler of the example serves the tests too.
#[cfg(test)]
extern crate self as windlass_streaming;

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
pub use tokio_util::sync::CancellationToken;

pub use server::Server;

/// Where and how the server listens, and its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A host name or an address. Empty: the address of the node, as its default route has it. `0.0.0.0` and `::`
    /// listen everywhere and put the node's address into the URLs.
    pub address: String,
    /// A number; `0` takes any free port.
    pub port: String,
    /// A connection over which nothing moves for so long is closed.
    pub idle_timeout: Duration,
    /// So long a client may take to greet, to send its request and to open the streams it announced.
    pub creation_timeout: Duration,
    pub tls: Option<Tls>,
    /// Connections at a time; more wait in the backlog.
    pub max_connections: usize,
    /// Streams at a time in one connection; more are refused.
    pub max_streams: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: "127.0.0.1".into(),
            port: "0".into(),
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            creation_timeout: Duration::from_secs(30),
            tls: None,
            max_connections: 4096,
            max_streams: 1000,
        }
    }
}

/// Whose certificate the server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A certificate chain and its key, both PEM. Read once, when the server starts.
    Files { cert: PathBuf, key: PathBuf },
    /// One that the server makes for itself when it starts, and keeps in memory alone: it hides what is said from those
    /// who listen, and proves nothing to clients.
    SelfMade,
}

/// A command to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    pub container_id: String,
    pub cmd: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container to attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    pub container_id: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// The ends of an exec or attach that belong to the handler.
///
/// When the client goes away, whatever it had sent can still be read from `stdin`, then comes its end; writers fail
/// with `BrokenPipe`; `resize` ends; and `gone` is cancelled. A writer that is shut down or dropped tells the client
/// the end of that stream (SPDY only: over WebSocket output ends with the connection). Writers buffer at most 64 KiB
/// and then wait for the client.
pub struct Streams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Never there with a terminal, whose one stream is `stdout`.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Sizes of the client's terminal. Open as long as the client is there, whether or not it sends any.
    pub resize: mpsc::Receiver<Size>,
    /// Cancelled when the client has gone or the server closes.
    pub gone: CancellationToken,
}

/// Both directions of a forwarded connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What stands behind the streams. A call runs in a task of its own and is never dropped half way: a client that goes
/// away shows in the streams, and the handler decides what that means.
#[async_trait::async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs a command. `Ok` is its exit code; an error means that it did not run to its end and goes to the client as
    /// an internal error. All output must have been written when this returns.
    async fn exec(&self, request: Exec, io: Streams) -> windlass_core::Result<i32>;

    /// Attaches to a container until its output ends or the client goes away.
    async fn attach(&self, request: Attach, io: Streams) -> windlass_core::Result<()>;

    /// Moves bytes between `stream` and `port` of a sandbox until both directions have ended. Dropping the stream
    /// tells the client the end; an error goes to the client as text.
    async fn port_forward(
        &self,
        sandbox: &str,
        port: u16,
        stream: Box<dyn Duplex>,
    ) -> windlass_core::Result<()>;
}
