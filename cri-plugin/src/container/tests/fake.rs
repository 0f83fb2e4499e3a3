//! Tasks that do as they are told, without a shim.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::watch;
use windlass_core::container::Runtime;
use windlass_core::metastore::{Body, Done, MetaStore, Read};
use windlass_core::task::{
    CreateOptions, ExecOptions, Exit, Io, Metrics, Process, RuntimeInfo, State, Status, Tasks,
};
use windlass_core::{Any, Context, Error, Labels, Result};

type Key = (String, String);

struct Fake {
    status: Status,
    exit: watch::Sender<Option<Exit>>,
    /// The process's ends of its streams.
    outputs: Vec<File>,
}

impl Fake {
    fn new(status: Status, io: &Io) -> Self {
        let open =
            |path: &String| File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let outputs =
            [&io.stdout, &io.stderr].into_iter().filter(|path| !path.is_empty()).map(open).collect();
        Self { status, exit: watch::Sender::new(None), outputs }
    }

    fn end(&mut self, status: u32) {
        self.status = Status::Stopped;
        self.outputs.clear();
        self.exit.send_replace(Some(Exit { pid: 42, status, at: SystemTime::now() }));
    }
}

/// What happens, in order: `create id`, `start id`, `kill id 15`, `delete id`, …; an exec's id is left out.
#[derive(Default)]
pub struct FakeTasks {
    tasks: Mutex<HashMap<Key, Fake>>,
    calls: watch::Sender<Vec<String>>,
    /// What shims tell, by task.
    pub figures: Mutex<HashMap<String, Any>>,
    /// Every signal but the last resort is ignored.
    pub stubborn: AtomicBool,
    /// Nothing that is asked for to end ends.
    pub hung: AtomicBool,
    pub refuse_start: AtomicBool,
    /// Creates do not come to an end before they are released.
    pub hung_create: AtomicBool,
    pub release: tokio::sync::Notify,
    /// Starts do not come to an end.
    pub hung_start: AtomicBool,
    pub refuse_update: AtomicBool,
    pub refuse_checkpoint: AtomicBool,
    pub hung_checkpoint: AtomicBool,
}

const KILL: u32 = 9;

impl FakeTasks {
    fn note(&self, call: String) {
        self.calls.send_modify(|calls| calls.push(call));
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// Waits until the calls are as wanted.
    pub async fn until(&self, wanted: impl Fn(&[String]) -> bool) {
        let mut calls = self.calls.subscribe();
        let seen = tokio::time::timeout(super::PATIENCE, calls.wait_for(|calls| wanted(calls)));
        seen.await.unwrap().unwrap();
    }

    /// Puts a task there that somebody else has made.
    pub fn put(&self, id: &str, status: Status) {
        self.insert(id, "", Fake::new(status, &Io::default()));
    }

    fn insert(&self, id: &str, exec: &str, fake: Fake) {
        self.tasks.lock().unwrap().insert((id.to_owned(), exec.to_owned()), fake);
    }

    /// The process ends.
    pub fn end(&self, id: &str, status: u32) {
        let mut tasks = self.tasks.lock().unwrap();
        for ((task, _), fake) in tasks.iter_mut().filter(|((task, _), _)| task == id) {
            assert_eq!(task, id);
            fake.end(status);
        }
    }

    fn with<T>(&self, id: &str, exec: &str, work: impl FnOnce(&mut Fake) -> Result<T>) -> Result<T> {
        let mut tasks = self.tasks.lock().unwrap();
        let fake = tasks.get_mut(&(id.to_owned(), exec.to_owned()));
        work(fake.ok_or_else(|| Error::not_found(format!("task {id}")))?)
    }
}

#[async_trait]
impl Tasks for FakeTasks {
    async fn create(&self, _: &Context, id: &str, options: CreateOptions) -> Result<u32> {
        match options.checkpoint.as_str() {
            "" => self.note(format!("create {id}")),
            from => {
                assert!(std::path::Path::new(from).is_dir(), "{from} is there");
                self.note(format!("restore {id} {from}"));
            }
        }
        if self.hung_create.load(Ordering::SeqCst) {
            self.release.notified().await;
        }
        self.insert(id, "", Fake::new(Status::Created, &options.io));
        Ok(42)
    }

    async fn start(&self, _: &Context, id: &str, exec: &str) -> Result<u32> {
        self.note(format!("start {id}"));
        if self.refuse_start.load(Ordering::SeqCst) {
            return Err(Error::unknown("exec: no such file"));
        }
        if self.hung_start.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.with(id, exec, |fake| {
            fake.status = Status::Running;
            Ok(42)
        })
    }

    async fn delete(&self, _: &Context, id: &str, exec: &str) -> Result<Exit> {
        self.note(format!("delete {id}"));
        let mut tasks = self.tasks.lock().unwrap();
        let fake = tasks.remove(&(id.to_owned(), exec.to_owned()));
        let exit = fake.ok_or_else(|| Error::not_found(format!("task {id}")))?.exit.borrow().to_owned();
        exit.ok_or_else(|| Error::precondition("it runs"))
    }

    async fn exec(&self, _: &Context, id: &str, exec: &str, options: ExecOptions) -> Result<()> {
        self.note(format!("exec {id}"));
        self.insert(id, exec, Fake::new(Status::Created, &options.io));
        Ok(())
    }

    async fn state(&self, _: &Context, id: &str, exec: &str) -> Result<State> {
        self.with(id, exec, |fake| {
            Ok(State {
                container_id: id.to_owned(),
                exec_id: exec.to_owned(),
                pid: 42,
                status: fake.status,
                io: Default::default(),
                exit_status: 0,
                exited_at: None,
                bundle: String::new(),
            })
        })
    }

    async fn list(&self, _: &Context) -> Result<Vec<State>> {
        Ok(Vec::new())
    }

    async fn kill(&self, _: &Context, id: &str, exec: &str, signal: u32, _: bool) -> Result<()> {
        self.note(format!("kill {id} {signal}"));
        if self.hung.load(Ordering::SeqCst) || signal != KILL && self.stubborn.load(Ordering::SeqCst) {
            return self.with(id, exec, |_| Ok(()));
        }
        self.with(id, exec, |fake| {
            fake.end(128 + signal);
            Ok(())
        })
    }

    async fn pause(&self, _: &Context, id: &str) -> Result<()> {
        self.note(format!("pause {id}"));
        self.with(id, "", |fake| {
            fake.status = Status::Paused;
            Ok(())
        })
    }

    async fn resume(&self, _: &Context, id: &str) -> Result<()> {
        self.note(format!("resume {id}"));
        self.with(id, "", |fake| {
            fake.status = Status::Running;
            Ok(())
        })
    }

    async fn resize_pty(&self, _: &Context, _: &str, _: &str, _: u32, _: u32) -> Result<()> {
        Ok(())
    }

    async fn close_io(&self, _: &Context, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn pids(&self, _: &Context, _: &str) -> Result<Vec<Process>> {
        Ok(Vec::new())
    }

    async fn wait(&self, _: &Context, id: &str, exec: &str) -> Result<Exit> {
        let mut exit = self.with(id, exec, |fake| Ok(fake.exit.subscribe()))?;
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).ok_or_else(|| Error::not_found("gone"))
    }

    async fn update(&self, _: &Context, id: &str, _: Any, _: Labels) -> Result<()> {
        self.note(format!("update {id}"));
        if self.refuse_update.load(Ordering::SeqCst) {
            return Err(Error::invalid("the kernel refuses"));
        }
        Ok(())
    }

    async fn checkpoint(&self, _: &Context, id: &str, path: &str, options: Option<Any>) -> Result<()> {
        self.note(format!("checkpoint {id}"));
        if self.refuse_checkpoint.load(Ordering::SeqCst) {
            return Err(Error::unknown("criu fails"));
        }
        if self.hung_checkpoint.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let options: windlass_api::runc::CheckpointOptions =
            windlass_api::convert::any::unpack(&options.expect("our shim is given some"))?;
        assert!(!options.exit, "the container goes on");
        std::fs::create_dir(path).map_err(|e| Error::io(path, e))?;
        for (dir, name) in [(path, "pages-1.img"), (options.work_path.as_str(), "dump.log")] {
            std::fs::write(std::path::Path::new(dir).join(name), name).map_err(|e| Error::io(name, e))?;
        }
        Ok(())
    }

    async fn metrics(&self, _: &Context, id: &str) -> Result<Metrics> {
        self.note(format!("metrics {id}"));
        let data = self.figures.lock().unwrap().get(id).cloned();
        let data = data.ok_or_else(|| Error::not_found("no figures"))?;
        Ok(Metrics { id: id.to_owned(), at: SystemTime::now(), data: Some(data) })
    }

    async fn ids(&self, _: &Context) -> Vec<String> {
        let tasks = self.tasks.lock().unwrap();
        tasks.keys().filter(|(_, exec)| exec.is_empty()).map(|(id, _)| id.clone()).collect()
    }

    async fn runtime_info(&self, _: &Runtime) -> Result<RuntimeInfo> {
        Ok(RuntimeInfo::default())
    }
}

/// A store that can be told not to take anything, as on a full disk.
pub struct Refusing {
    pub inner: Arc<dyn MetaStore>,
    pub refuse: Arc<AtomicBool>,
}

impl MetaStore for Refusing {
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        self.inner.view(body)
    }

    fn submit(&self, body: Body<'static>, done: Done) {
        if self.refuse.load(Ordering::SeqCst) {
            done(Err(Error::exhausted("no space left on device")));
        } else {
            self.inner.submit(body, done);
        }
    }
}
