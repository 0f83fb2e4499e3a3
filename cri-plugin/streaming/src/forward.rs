//! Port forward: each forwarded connection is a pair of streams, one for its data and one for an error.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Handler;
use crate::mux::half::{Both, WriteHalf};
use crate::mux::{Control, Goodbye, Incoming, Mux};
use crate::spdy::frame::{CANCEL, PROTOCOL_ERROR};

/// Ports forwarded over one WebSocket: a channel's number has eight bits and each port takes two channels.
pub(crate) const MAX_PORTS: usize = 127;

/// How long a connection may go on when its client has left: what that sent last is still delivered.
const DELIVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

#[derive(Clone)]
pub(crate) struct Forward {
    pub handler: Arc<dyn Handler>,
    pub sandbox: Arc<str>,
}

/// The streams of one connection, as far as they have come.
#[derive(Default)]
struct Pair {
    error: Option<WriteHalf>,
    data: Option<Data>,
}

struct Data {
    id: u32,
    port: u16,
    stream: Both,
}

impl Forward {
    /// Serves connections until the client leaves.
    pub async fn spdy(self, mux: Mux, creation: Duration) {
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        // Pairs that were begun, in the order of their ends; most are complete by then.
        let mut begun: VecDeque<(Instant, String)> = VecDeque::new();
        loop {
            let next = begun.front().map(|(end, _)| *end);
            tokio::select! {
                incoming = mux.accept() => {
                    let Some(incoming) = incoming else { return };
                    self.add(incoming, &mux, &mut pairs, &mut begun, creation);
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let Some((_, request)) = begun.pop_front() else { continue };
                    if let Some(Pair { error: Some(mut error), .. }) = pairs.remove(&request) {
                        // The buffer is empty, so this does not wait.
                        let text = format!("request {request}: timed out waiting for streams");
                        let _ = error.write_all(text.as_bytes()).await;
                    }
                }
            }
        }
    }

    fn add(
        &self,
        incoming: Incoming,
        mux: &Mux,
        pairs: &mut HashMap<String, Pair>,
        begun: &mut VecDeque<(Instant, String)>,
        creation: Duration,
    ) {
        let id = incoming.id;
        let header = |name: &str| incoming.headers.get(name).map(String::as_str).unwrap_or_default();
        let port = header("port").parse().unwrap_or(0);
        let is_error = incoming.kind() == "error";
        if port == 0 || !(is_error || incoming.kind() == "data") {
            tracing::warn!("port forward client opened a stream without a valid type and port");
            return mux.reset(id, PROTOCOL_ERROR);
        }
        // Clients before Kubernetes 1.3 name no request; theirs is the number of the error stream, which comes first.
        let request = match header("requestid") {
            "" if is_error => id.to_string(),
            "" => id.wrapping_sub(2).to_string(),
            request => request.to_owned(),
        };
        let pair = pairs.entry(request.clone()).or_insert_with(|| {
            begun.push_back((Instant::now() + creation, request.clone()));
            Pair::default()
        });
        if if is_error { pair.error.is_some() } else { pair.data.is_some() } {
            tracing::warn!(request, "port forward client opened a stream of a request twice");
            return mux.reset(id, PROTOCOL_ERROR);
        }
        mux.send(Control::Reply(id));
        let Incoming { read, write, .. } = incoming;
        if is_error {
            pair.error = Some(write);
        } else {
            pair.data = Some(Data { id, port, stream: Both { read, write } });
        }
        if pair.error.is_none() || pair.data.is_none() {
            return;
        }
        // Its entry in `begun` goes too: the name may come again.
        begun.retain(|(_, name)| *name != request);
        if let Some(Pair { error: Some(error), data: Some(data) }) = pairs.remove(&request) {
            tokio::spawn(self.clone().connection(mux.clone(), error, data));
        }
    }

    async fn connection(self, mux: Mux, mut error: WriteHalf, data: Data) {
        if let Some(text) = self.run(&mux, data.port, data.stream).await {
            // A client that has gone needs no error.
            let _ = error.write_all(text.as_bytes()).await;
            mux.reset(data.id, CANCEL);
        }
    }

    /// Makes the channels of a WebSocket and begins one connection per port; ends when all of them have.
    pub fn websocket(self, mux: Mux, ports: Vec<u16>) -> impl Future<Output = ()> + Send {
        let mut connections = JoinSet::new();
        for (channel, port) in (0u32..).step_by(2).zip(ports) {
            let (read, write) = mux.channel(channel);
            let (_, mut error) = mux.channel(channel + 1);
            // Each channel begins with its port, so that the client knows which it is.
            for channel in [channel, channel + 1] {
                mux.send(Control::Message(channel, Bytes::copy_from_slice(&port.to_le_bytes())));
            }
            let (forward, mux) = (self.clone(), mux.clone());
            connections.spawn(async move {
                if let Some(text) = forward.run(&mux, port, Both { read, write }).await {
                    let _ = error.write_all(text.as_bytes()).await;
                }
            });
        }
        async move {
            while connections.join_next().await.is_some() {}
            mux.finish(Goodbye::Done);
        }
    }

    /// Lets the handler forward, and returns what went wrong. The other side need not notice that the client has left: it
    /// is left in its turn.
    async fn run(&self, mux: &Mux, port: u16, stream: Both) -> Option<String> {
        let (handler, sandbox) = (self.handler.clone(), self.sandbox.clone());
        // In a task of its own: a panic of the handler must reach the client as an error.
        let mut work =
            tokio::spawn(async move { handler.port_forward(&sandbox, port, Box::new(stream)).await });
        let left = async {
            mux.gone().cancelled().await;
            tokio::time::sleep(DELIVERY).await;
        };
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = left => {
                work.abort();
                return None;
            }
        };
        let error = match outcome {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.chain(),
            Err(_) => "the runtime's handler panicked".to_owned(),
        };
        let text = format!("error forwarding port {port} to pod {}, uid : {error}", self.sandbox);
        tracing::warn!("{text}");
        Some(text)
    }
}
