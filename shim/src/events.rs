//! Events on their way to the daemon: one queue, strictly in order, that outlives the daemon's absence.
//!
//! An event is taken off the queue only when the daemon has acknowledged it. While the daemon is away the shim tries
//! again with a back-off; the queue is bounded, and when it is full the oldest event is given up with a log line.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::Notify;
use windlass_api::shim::forward::{Envelope, ForwardRequest};

use crate::log;
use crate::reaper::Reaper;
use crate::spawn::{self, Program};
use crate::time::timestamp;
use crate::ttrpc::Client;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// A thousand execs' worth of events; about 2 MB at the very worst.
const CAPACITY: usize = 4096;
const ANSWER: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// Where events go.
pub enum Sink {
    /// The daemon's ttrpc socket.
    Ttrpc(PathBuf),
    /// A program that reads an `Any` and publishes it: `<binary> --address … publish --topic … --namespace …`.
    Binary { binary: String, address: String },
}

pub struct Publisher {
    namespace: String,
    queue: RefCell<VecDeque<Envelope>>,
    more: Notify,
    drained: Notify,
    /// Whether the last attempt failed.
    away: Cell<bool>,
}

/// Wraps a message the way Go's typeurl does: the full proto name is the whole url.
pub fn any(url: &str, message: &impl Message) -> Any {
    let mut any = Any::new();
    any.type_url = url.to_owned();
    any.value = message.write_to_bytes().unwrap_or_default();
    any
}

impl Publisher {
    pub fn new(namespace: &str) -> Rc<Publisher> {
        Rc::new(Publisher {
            namespace: namespace.to_owned(),
            queue: RefCell::default(),
            more: Notify::new(),
            drained: Notify::new(),
            away: Cell::new(false),
        })
    }

    /// Queues an event, stamped now. Never waits.
    pub fn send(&self, topic: &str, url: &str, message: &impl Message) {
        let mut envelope = Envelope::new();
        envelope.timestamp = MessageField::some(timestamp(SystemTime::now()));
        envelope.namespace = self.namespace.clone();
        envelope.topic = topic.to_owned();
        envelope.event = MessageField::some(any(url, message));
        let mut queue = self.queue.borrow_mut();
        if queue.len() == CAPACITY
            && let Some(lost) = queue.pop_front()
        {
            log::error!("the event queue is full: gave up {}", lost.topic);
        }
        queue.push_back(envelope);
        self.more.notify_one();
    }

    /// Returns when every event has been delivered, or when `limit` has passed.
    pub async fn drain(&self, limit: Duration) {
        let empty = async {
            loop {
                let drained = self.drained.notified();
                if self.queue.borrow().is_empty() {
                    return;
                }
                drained.await;
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            log::error!("{} events could not be delivered before the shim's end", self.queue.borrow().len());
        }
    }

    /// Delivers for as long as the process lives.
    pub async fn run(self: Rc<Self>, sink: Sink, reaper: Rc<Reaper>) {
        let mut client = None;
        let mut pause = RETRY_FIRST;
        loop {
            let Some(envelope) = self.queue.borrow().front().cloned() else {
                self.drained.notify_waiters();
                self.more.notified().await;
                continue;
            };
            let sent = match &sink {
                Sink::Ttrpc(path) => forward(&mut client, path, envelope).await,
                Sink::Binary { binary, address } => publish(binary, address, &envelope, &reaper).await,
            };
            match sent {
                Ok(()) => {
                    self.queue.borrow_mut().pop_front();
                    self.away.set(false);
                    pause = RETRY_FIRST;
                }
                Err(reason) => {
                    client = None;
                    if !self.away.replace(true) {
                        log::warning!("forward event: {reason}");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MOST);
                }
            }
            if self.queue.borrow().is_empty() && self.queue.borrow().capacity() > 64 {
                self.queue.borrow_mut().shrink_to_fit();
            }
        }
    }
}

async fn forward(
    client: &mut Option<Client>,
    path: &std::path::Path,
    envelope: Envelope,
) -> Result<(), String> {
    let connection = match client {
        Some(client) => client,
        None => client
            .insert(Client::connect(path).await.map_err(|e| format!("connect to {}: {e}", path.display()))?),
    };
    let mut request = ForwardRequest::new();
    request.envelope = MessageField::some(envelope);
    let payload = request.write_to_bytes().map_err(|e| e.to_string())?;
    let response = connection.call(SERVICE, "Forward", payload, ANSWER).await.map_err(|e| e.to_string())?;
    match response.status.filter(|status| status.code != 0) {
        None => Ok(()),
        // The daemon has read the event and will never take it: to send it again would block those behind it.
        Some(status) if status.code == crate::error::Code::InvalidArgument as i32 => {
            log::error!("the daemon refused an event: {}", status.message);
            Ok(())
        }
        Some(status) => Err(status.message),
    }
}

async fn publish(
    binary: &str,
    address: &str,
    envelope: &Envelope,
    reaper: &Rc<Reaper>,
) -> Result<(), String> {
    let path = spawn::find(binary).ok_or_else(|| format!("no publish binary {binary:?}"))?;
    let event = envelope.event.write_to_bytes().map_err(|e| e.to_string())?;
    let input = spawn::capture().map_err(|e| e.to_string())?;
    rustix::io::write(&input, &event).map_err(|e| e.to_string())?;
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let launch = reaper.launch();
    let pid = spawn::spawn(&Program {
        path: &path,
        args: [
            "--address",
            address,
            "publish",
            "--topic",
            &envelope.topic,
            "--namespace",
            &envelope.namespace,
        ]
        .map(str::to_owned)
        .to_vec(),
        env: None,
        fds: vec![Some(std::os::fd::AsFd::as_fd(&input))],
        bound: false,
        dir: None,
    })
    .map_err(|e| format!("run {binary}: {e}"))?;
    let exit = reaper.watch(pid);
    drop(launch);
    match tokio::time::timeout(ANSWER, exit).await {
        Ok(Ok(exit)) if exit.status == 0 => Ok(()),
        Ok(_) => Err(format!("{binary} could not publish")),
        Err(_) => {
            let _ = rustix::process::Pid::from_raw(pid as i32)
                .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            Err(format!("{binary} did not publish in time"))
        }
    }
}
