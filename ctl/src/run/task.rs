//! Processes: made, started, attached to this terminal, waited for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Code;
use windlass_api::services::containers::Container;
use windlass_api::services::snapshots::MountsRequest;
use windlass_api::services::tasks::{
    CloseIoRequest, CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use windlass_api::types::Mount;
use windlass_api::types::task::{Process as Info, Status};

use super::io::{Event, Fifos, Keys};
use super::terminal;
use crate::client::Client;
use crate::output::{self, Interrupted, Remedy};

/// How long a daemon may be away while somebody waits: it is being restarted.
const ABSENCE: Duration = Duration::from_secs(60);
/// The signal that says that the terminal has gone.
const HANGUP: u32 = libc::SIGHUP as u32;
/// How often it is tried then.
const AGAIN: Duration = Duration::from_millis(200);
/// Requests to end, from outside, after which we leave although the process has not ended.
const PATIENCE: usize = 3;
/// How long an ended task may take to be removed, and a killed one to end.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// A container's own process, or with an exec id another one in it.
#[derive(Clone)]
pub struct Process {
    pub container: String,
    pub exec: String,
}

/// How an attached process was left.
pub enum Outcome {
    Exited(u32),
    /// By its keys: it runs on.
    Detached,
    /// Asked to end several times, and it runs on.
    Abandoned,
    /// Nobody reads its output any more, and it runs on.
    Unread,
}

/// Exit code of a process as a shell shows it.
pub fn exit_code(status: u32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(255))
}

/// Whether the connection broke, not the call: the daemon is perhaps being restarted.
fn is_absence(status: &tonic::Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    transport || (status.code() == Code::Unavailable && status.message().contains("connect"))
}

/// A container's task; `None` where it has none.
pub async fn get(client: &Client, id: &str) -> Result<Option<Info>> {
    let request = GetRequest { container_id: id.to_owned(), ..Default::default() };
    match client.tasks().get(request).await {
        Ok(answer) => Ok(answer.into_inner().process),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// A container's task, which must be there.
pub async fn running(client: &Client, id: &str) -> Result<Info> {
    match get(client, id).await? {
        Some(task) => Ok(task),
        None => Err(anyhow::anyhow!("container {id} does not run"))
            .remedy(format!("start it with: windlass start {id}; windlass ps -a lists all")),
    }
}

/// The file system of a record.
pub async fn rootfs(client: &Client, record: &Container) -> Result<Vec<Mount>> {
    if record.snapshot_key.is_empty() {
        return Ok(Vec::new());
    }
    let request = MountsRequest { snapshotter: record.snapshotter.clone(), key: record.snapshot_key.clone() };
    let answer = client.snapshots().mounts(request).await;
    Ok(answer.with_context(|| format!("file system of {}", record.id))?.into_inner().mounts)
}

/// Makes the task of a record. `streams` are standard input, output and error.
pub async fn create(
    client: &Client,
    record: &Container,
    rootfs: Vec<Mount>,
    streams: [&str; 3],
    terminal: bool,
) -> Result<()> {
    let [stdin, stdout, stderr] = streams.map(str::to_owned);
    let request = CreateTaskRequest {
        container_id: record.id.clone(),
        rootfs,
        terminal,
        stdin,
        stdout,
        stderr,
        ..Default::default()
    };
    let created = client
        .tasks()
        .create(request)
        .await
        .with_context(|| format!("create the task of {}", record.id))
        .remedy_for(
            Code::AlreadyExists,
            format!("it runs already: join it with: windlass attach {}", record.id),
        );
    match created {
        Ok(_) => Ok(()),
        // What containerd's own shim says of a log and a terminal together.
        Err(error)
            if output::status(&error).is_some_and(|s| s.message().contains("console copy: stat file:")) =>
        {
            Err(error).remedy(
                "this shim keeps no log of a terminal: leave -t out, or use --log-uri binary:///PROGRAM",
            )
        }
        Err(error) => Err(error),
    }
}

/// Removes the task; success where there is none. Answers its exit status.
pub async fn delete(client: &Client, id: &str) -> Result<Option<u32>> {
    match client.tasks().delete(DeleteTaskRequest { container_id: id.to_owned() }).await {
        Ok(answer) => Ok(Some(answer.into_inner().exit_status)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

impl Process {
    pub fn main(container: &str) -> Self {
        Self { container: container.to_owned(), exec: String::new() }
    }

    pub async fn start(&self, client: &Client) -> Result<u32> {
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        Ok(client.tasks().start(request).await?.into_inner().pid)
    }

    pub async fn kill(&self, client: &Client, signal: u32, all: bool) -> Result<(), tonic::Status> {
        let request =
            KillRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), signal, all };
        client.tasks().kill(request).await.map(|_| ())
    }

    async fn resize(&self, client: &Client) {
        let Some((width, height)) = terminal::size() else { return };
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width,
            height,
        };
        // The process may have ended meanwhile.
        let _ = client.tasks().resize_pty(request).await;
    }

    /// Waits for the end, also across a restart of the daemon.
    pub async fn wait(&self, client: &Client) -> Result<u32> {
        let mut away: Option<Instant> = None;
        loop {
            let request = WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
            match client.tasks().wait(request).await {
                Ok(answer) => return Ok(answer.into_inner().exit_status),
                Err(status)
                    if is_absence(&status) && away.get_or_insert_with(Instant::now).elapsed() < ABSENCE =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(status) => return Err(status).context("wait for the process"),
            }
        }
    }

    /// Waits for the end until a process does not end.
    pub async fn wait_for(&self, client: &Client, limit: Duration) -> Result<Option<u32>> {
        tokio::time::timeout(limit, self.wait(client)).await.ok().transpose()
    }

    /// Starts a process whose streams were made, and stays with it: see [`Self::attach`].
    pub async fn run(
        &self,
        client: &Client,
        fifos: &mut Fifos,
        terminal: bool,
        keys: &Keys,
    ) -> Result<Outcome> {
        let mut signals = Signals::new()?;
        // Raw from the start: programs ask their terminal questions, and the answers are no input to echo.
        let raw = self.raw(fifos, terminal)?;
        fifos.copy_input(raw.is_some().then(|| keys.clone()));
        let waiting = self.waiting(client);
        let start = self.start(client);
        tokio::pin!(start);
        // A start that hangs must not take the terminal with it: whoever asks twice is let go.
        let (mut asked, mut passed_on, mut detach, mut unread) = (0, Vec::new(), false, false);
        loop {
            tokio::select! {
                biased;
                started = &mut start => {
                    started?;
                    break;
                }
                number = signals.next() => {
                    asked += usize::from(signals.ends(number));
                    passed_on.push(number);
                }
                event = fifos.event() => match event {
                    Event::Interrupt => asked += 1,
                    Event::Detach => (asked, detach) = (asked + 1, true),
                    Event::OutputGone => unread = true,
                    Event::InputEnded => self.close_input(client).await,
                },
            }
            if asked > 1 {
                return Err(Interrupted.into());
            }
        }
        for number in passed_on {
            // It may have ended meanwhile: the wait says so.
            let _ = self.kill(client, number, false).await;
        }
        if detach {
            return Ok(Outcome::Detached);
        }
        if unread {
            return Ok(Outcome::Unread);
        }
        let outcome = self.stay(client, fifos, terminal, &mut signals, waiting).await;
        drop(raw);
        outcome
    }

    /// Stays with a running process: passes this terminal's size, keys and signals on, and answers how it ended.
    pub async fn attach(
        &self,
        client: &Client,
        fifos: &mut Fifos,
        terminal: bool,
        keys: &Keys,
    ) -> Result<Outcome> {
        let mut signals = Signals::new()?;
        let raw = self.raw(fifos, terminal)?;
        fifos.copy_input(raw.is_some().then(|| keys.clone()));
        let waiting = self.waiting(client);
        let outcome = self.stay(client, fifos, terminal, &mut signals, waiting).await;
        drop(raw);
        outcome
    }

    fn raw(&self, fifos: &Fifos, terminal: bool) -> Result<Option<terminal::Restore>> {
        // Without standard input keys go nowhere: Ctrl-C must stay a signal.
        (terminal && !fifos.stdin.is_empty()).then(terminal::Restore::raw).transpose()
    }

    fn waiting(&self, client: &Client) -> tokio::task::JoinHandle<Result<u32>> {
        let (process, client) = (self.clone(), client.clone());
        tokio::spawn(async move { process.wait(&client).await })
    }

    async fn stay(
        &self,
        client: &Client,
        fifos: &mut Fifos,
        terminal: bool,
        signals: &mut Signals,
        mut waiting: tokio::task::JoinHandle<Result<u32>>,
    ) -> Result<Outcome> {
        if terminal {
            self.resize(client).await;
        }
        let mut resized = signal(SignalKind::window_change())?;
        let mut requests = 0;
        let status = loop {
            tokio::select! {
                answer = &mut waiting => break answer??,
                _ = resized.recv(), if terminal => self.resize(client).await,
                number = signals.next() => {
                    if terminal && number == HANGUP {
                        // The terminal has gone, and with it the person.
                        return Ok(Outcome::Unread);
                    }
                    requests += usize::from(signals.ends(number));
                    if requests >= PATIENCE {
                        return Ok(Outcome::Abandoned);
                    }
                    // It may have ended meanwhile: the wait says so.
                    let _ = self.kill(client, number, false).await;
                }
                event = fifos.event() => match event {
                    Event::Detach => return Ok(Outcome::Detached),
                    Event::InputEnded => self.close_input(client).await,
                    Event::OutputGone => return Ok(Outcome::Unread),
                    Event::Interrupt => {}
                },
            }
        };
        tokio::select! {
            () = fifos.drain() => {}
            // Enough of it.
            _ = signals.next() => {}
        }
        // The process may have ended for that very reason.
        Ok(if fifos.output_gone() { Outcome::Unread } else { Outcome::Exited(status) })
    }

    async fn close_input(&self, client: &Client) {
        let request =
            CloseIoRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), stdin: true };
        // The process may have ended meanwhile.
        let _ = client.tasks().close_io(request).await;
    }
}

/// Ends a task, whatever it does: lets a paused one go on, kills it and waits. Success where there is none.
pub async fn end(client: &Client, id: &str) -> Result<()> {
    let Some(task) = get(client, id).await? else { return Ok(()) };
    if task.status() == Status::Stopped {
        return Ok(());
    }
    if matches!(task.status(), Status::Paused | Status::Pausing) {
        let request = windlass_api::services::tasks::ResumeTaskRequest { container_id: id.to_owned() };
        // A frozen process dies when it thaws; killing says whether that went well.
        let _ = client.tasks().resume(request).await;
    }
    let process = Process::main(id);
    match process.kill(client, 9, true).await {
        Ok(()) => {}
        // Ended already.
        Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => {}
        Err(status) => return Err(status).with_context(|| format!("kill {id}")),
    }
    match process.wait_for(client, KILL_TIMEOUT).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            anyhow::bail!("container {id} does not end within {} s of SIGKILL", KILL_TIMEOUT.as_secs())
        }
        Err(error) if crate::output::status(&error).is_some_and(|s| s.code() == Code::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Signals to us that are passed on.
struct Signals {
    all: Vec<(u32, Signal)>,
}

impl Signals {
    fn new() -> Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let all = kinds.into_iter().map(|kind| {
            let number = u32::try_from(kind.as_raw_value()).unwrap_or_default();
            Ok((number, signal(kind).context("handle signals")?))
        });
        Ok(Self { all: all.collect::<Result<_>>()? })
    }

    /// The next signal that comes.
    async fn next(&mut self) -> u32 {
        let next = self.all.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures::future::select_all(next).await.0
    }

    /// Whether a signal asks for the end.
    fn ends(&self, number: u32) -> bool {
        [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT]
            .iter()
            .any(|s| u32::try_from(*s) == Ok(number))
    }
}
