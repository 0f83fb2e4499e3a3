//! The serving process: one thread, one event loop, from the fork to the last container's end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::bootstrap::Request;
use crate::error::{Context, Result};
use crate::events::{Publisher, Sink};
use crate::log;
use crate::reaper::Reaper;
use crate::rest;
use crate::signal::Signals;
use crate::task::Tasks;
use crate::ttrpc;

/// How long the end waits for the daemon to take the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long a shim without a container waits for a client: a daemon that starts anew has looked for its shims by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until a client asks for the end or SIGTERM comes.
pub fn run(request: Request, path: &Path, listener: OwnedFd) -> Result<()> {
    on_loop(async move {
        let signals = Signals::install().op("install signal handlers")?;
        let reaper = Rc::new(Reaper::default());
        let publisher = Publisher::new(&request.namespace);
        let (stop, mut stopped) = watch::channel(false);
        spawn_local(reap(signals, Rc::clone(&reaper), stop.clone()));
        if let Some(sink) = sink(&request) {
            spawn_local(Rc::clone(&publisher).run(sink, Rc::clone(&reaper)));
        }
        let activity = Rc::new(Notify::new());
        spawn_local(rest::run(Rc::clone(&activity)));
        let tasks = Tasks::new(&request.namespace, Rc::clone(&publisher), reaper, stop, activity);
        log::debug!("serving {} for {}", path.display(), request.id);
        let path = path.to_owned();
        drop(request);
        let listener = tokio::net::UnixListener::from_std(UnixListener::from(listener)).op("serve socket")?;
        let server = spawn_local(ttrpc::serve(listener, tasks, stopped.clone(), PATIENCE));
        // The sender lives in the tasks.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        // New starts of the group must not find a shim that is about to end.
        let _ = std::fs::remove_file(&path);
        let _ = server.await;
        // Lets the answer to the request for the end out.
        tokio::task::yield_now().await;
        publisher.drain(LAST_EVENTS).await;
        Ok(())
    })
}

/// Runs a future on a loop of this thread alone.
pub fn on_loop<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .op("make event loop")?;
    LocalSet::new().block_on(&runtime, future)
}

/// Reaps at every signal; SIGTERM and SIGINT end the shim.
pub async fn reap(signals: Signals, reaper: Rc<Reaper>, stop: watch::Sender<bool>) {
    loop {
        // Children may have ended before the handlers were there.
        reaper.reap();
        if signals.terminated() {
            stop.send_replace(true);
        }
        if let Err(error) = signals.next().await {
            log::error!("wait for signals: {error}");
            return;
        }
    }
}

fn sink(request: &Request) -> Option<Sink> {
    if !request.ttrpc.is_empty() {
        let path = request.ttrpc.strip_prefix("unix://").unwrap_or(&request.ttrpc);
        return Some(Sink::Ttrpc(PathBuf::from(path)));
    }
    if !request.binary.is_empty() {
        return Some(Sink::Binary { binary: request.binary.clone(), address: request.address.clone() });
    }
    log::warning!("the daemon takes no events");
    None
}
