//! The scheduler's task, and how it is told of changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use windlass_core::gc::{self, Collector, Stats};
use windlass_core::{Error, Result};

use crate::plugin::Limits;

/// The interval before there is an average to go by, and where collections are not limited.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a collection counts as at least: containerd's bound, against intervals of nothing.
const LEAST: Duration = Duration::from_millis(5);
/// Most callers that wait for a collection.
const MAX_WAITING: usize = 16 * 1024;

type Waiter = oneshot::Sender<Result<Stats>>;

#[derive(Default)]
struct Told {
    deletions: AtomicU64,
    mutations: AtomicU64,
    waiting: Mutex<Vec<Waiter>>,
    something: Notify,
}

/// Runs a collector by its limits until it is dropped.
pub struct Scheduler {
    told: Arc<Told>,
    task: JoinHandle<()>,
}

struct Task {
    collector: Arc<dyn Collector>,
    limits: Limits,
    told: Arc<Told>,
    /// When the next collection is looked into.
    next: Option<Instant>,
    interval: Duration,
    spent: Duration,
    collections: u32,
}

// === impl Scheduler ===

impl Scheduler {
    /// Starts the task; call it inside a tokio runtime.
    pub fn start(collector: Arc<dyn Collector>, limits: Limits) -> Self {
        let told = Arc::new(Told::default());
        let observer = Arc::downgrade(&told);
        collector.on_mutation(Box::new(move |dirty| {
            if let Some(told) = observer.upgrade() {
                told.mutations.fetch_add(1, Ordering::Relaxed);
                if dirty {
                    told.deletions.fetch_add(1, Ordering::Relaxed);
                }
                told.something.notify_one();
            }
        }));
        let next = (limits.startup_delay > Duration::ZERO).then(|| Instant::now() + limits.startup_delay);
        let task = Task {
            collector,
            limits,
            told: told.clone(),
            next,
            interval: INTERVAL,
            spent: Duration::ZERO,
            collections: 0,
        };
        Self { told, task: tokio::spawn(task.run()) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl gc::Scheduler for Scheduler {
    async fn collect_now(&self) -> Result<Stats> {
        let (send, receive) = oneshot::channel();
        {
            let mut waiting = self.told.waiting.lock().expect("the list is changed without panics");
            waiting.retain(|waiter| !waiter.is_closed());
            if waiting.len() >= MAX_WAITING {
                return Err(Error::exhausted("too many callers wait for a collection: try again later"));
            }
            waiting.push(send);
        }
        self.told.something.notify_one();
        receive.await.unwrap_or_else(|_| Err(Error::unavailable("the collection's scheduler has ended")))
    }
}

// === impl Task ===

impl Task {
    async fn run(mut self) {
        loop {
            let due = self.next;
            tokio::select! {
                () = self.told.something.notified() => self.consider(),
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    if self.needed() {
                        self.collect().await;
                    } else {
                        // Nothing to do: whatever happens next decides, no timer runs for nothing.
                        self.next = None;
                    }
                }
            }
        }
    }

    fn asked(&self) -> bool {
        !self.told.waiting.lock().expect("the list is changed without panics").is_empty()
    }

    /// Schedules a collection where there is reason to.
    fn consider(&mut self) {
        let deletions = self.told.deletions.load(Ordering::Relaxed);
        let many =
            self.limits.mutations > 0 && self.told.mutations.load(Ordering::Relaxed) >= self.limits.mutations;
        let at_once = self.asked() || (self.limits.deletions > 0 && deletions >= self.limits.deletions);
        let due = self.next.is_none() && ((self.limits.deletions == 0 && deletions > 0) || many);
        if at_once || due {
            let soon = Instant::now() + self.limits.schedule_delay;
            if self.next.is_none_or(|next| next > soon) {
                self.next = Some(soon);
            }
        } else if self.next.is_none() && deletions > 0 {
            self.next = Some(Instant::now() + self.interval);
        }
    }

    fn needed(&self) -> bool {
        self.collections == 0
            || self.asked()
            || self.told.deletions.load(Ordering::Relaxed) > 0
            || (self.limits.mutations > 0
                && self.told.mutations.load(Ordering::Relaxed) >= self.limits.mutations)
    }

    async fn collect(&mut self) {
        // Whoever comes from here on waits for the next collection: this one may be past what they deleted.
        let waiting =
            std::mem::take(&mut *self.told.waiting.lock().expect("the list is changed without panics"));
        let deletions = self.told.deletions.swap(0, Ordering::Relaxed);
        let mutations = self.told.mutations.swap(0, Ordering::Relaxed);
        match self.collector.collect().await {
            Ok(stats) => {
                self.collections = self.collections.saturating_add(1);
                self.spent += stats.elapsed;
                if self.limits.pause > 0.0 {
                    let average = (self.spent / self.collections).max(LEAST);
                    self.interval = average.div_f64(self.limits.pause).saturating_sub(average);
                }
                for waiter in waiting {
                    // One who has stopped waiting needs no answer.
                    let _ = waiter.send(Ok(stats.clone()));
                }
                self.next = Some(Instant::now() + self.interval);
            }
            Err(error) => {
                tracing::error!(error = %error.chain(), "collection failed");
                self.told.deletions.fetch_add(deletions, Ordering::Relaxed);
                self.told.mutations.fetch_add(mutations, Ordering::Relaxed);
                for waiter in waiting {
                    let _ =
                        waiter.send(Err(Error::new(error.class(), format!("gc failed: {}", error.chain()))));
                }
                self.next = Some(Instant::now() + self.interval.max(INTERVAL));
            }
        }
        if self.asked() {
            self.consider();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::mpsc;

    use super::*;
    use crate::Config;

    type Observer = Box<dyn Fn(bool) + Send + Sync>;

    struct Fake {
        ran: mpsc::UnboundedSender<Instant>,
        observer: Mutex<Option<Observer>>,
        fails: AtomicBool,
    }

    #[async_trait]
    impl Collector for Fake {
        async fn collect(&self) -> Result<Stats> {
            self.ran.send(Instant::now()).unwrap();
            if self.fails.load(Ordering::Relaxed) {
                return Err(Error::aborted("on purpose"));
            }
            Ok(Stats { elapsed: Duration::from_millis(10), ..Stats::default() })
        }
        fn on_mutation(&self, observer: Observer) {
            *self.observer.lock().unwrap() = Some(observer);
        }
    }

    struct Fixture {
        collector: Arc<Fake>,
        scheduler: Scheduler,
        ran: mpsc::UnboundedReceiver<Instant>,
        began: Instant,
    }

    impl Fixture {
        fn new(config: Config) -> Self {
            let (send, ran) = mpsc::unbounded_channel();
            let collector =
                Arc::new(Fake { ran: send, observer: Mutex::default(), fails: AtomicBool::new(false) });
            let limits = Limits::try_from(&config).unwrap();
            let began = Instant::now();
            Self { scheduler: Scheduler::start(collector.clone(), limits), collector, ran, began }
        }
        fn change(&self, dirty: bool) {
            self.collector.observer.lock().unwrap().as_ref().unwrap()(dirty);
        }
        /// Milliseconds from the start to the next collection.
        async fn next(&mut self) -> u128 {
            (self.ran.recv().await.unwrap() - self.began).as_millis()
        }
        async fn quiet_for(&mut self, millis: u64) {
            let waited = tokio::time::timeout(Duration::from_millis(millis), self.ran.recv()).await;
            assert!(waited.is_err(), "a collection without reason");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_comes_after_the_startup_delay() {
        let mut f = Fixture::new(Config::default());
        assert_eq!(f.next().await, 100);
        f.quiet_for(60_000).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_waits_for_its_share_of_time() {
        let mut f = Fixture::new(Config::default());
        f.next().await;
        f.change(true);
        // 10 ms at 2 % of the time: 490 ms later.
        assert_eq!(f.next().await, 590);
        f.quiet_for(60_000).await;
        f.change(true);
        let at = (Instant::now() - f.began).as_millis();
        assert_eq!(f.next().await, at, "long after the last, it comes at once");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_count_up() {
        let mut f = Fixture::new(Config { mutation_threshold: 3, ..Config::default() });
        f.next().await;
        f.change(false);
        f.change(false);
        f.quiet_for(60_000).await;
        f.change(false);
        f.next().await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_deletions_do_not_wait() {
        let mut f = Fixture::new(Config { deletion_threshold: 2, ..Config::default() });
        f.next().await;
        f.change(true);
        f.change(true);
        assert_eq!(f.next().await, 100);
        f.change(true);
        assert_eq!(f.next().await, 590, "fewer wait for their share of time, and are not forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_is_answered() {
        let mut f = Fixture::new(Config { startup_delay: "1h".into(), ..Config::default() });
        use gc::Scheduler as _;
        f.scheduler.collect_now().await.unwrap();
        assert_eq!(f.next().await, 0);
        f.collector.fails.store(true, Ordering::Relaxed);
        let error = f.scheduler.collect_now().await.unwrap_err();
        assert!(error.message().contains("on purpose"), "{error}");
        f.collector.fails.store(false, Ordering::Relaxed);
        let (one, two) = tokio::join!(f.scheduler.collect_now(), f.scheduler.collect_now());
        assert!(one.is_ok() && two.is_ok());
    }
}
