//! Progress as clients show it: containerd's event words and names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use windlass_core::transfer::{Progress, ProgressSink};
use windlass_core::{Descriptor, Digest};

use crate::media::ref_key;

/// At most one line per object in this time, but for changes of state.
const EVERY: Duration = Duration::from_millis(100);

/// Tells one transfer's progress.
pub struct Tracker {
    sink: Arc<dyn ProgressSink>,
    /// `downloading` or `uploading`.
    word: &'static str,
    root: String,
    jobs: Mutex<HashMap<Digest, Job>>,
}

struct Job {
    parents: Vec<String>,
    offset: u64,
    told: Instant,
}

impl Tracker {
    pub fn new(sink: Arc<dyn ProgressSink>, root: &str, word: &'static str) -> Self {
        Self { sink, word, root: root.to_owned(), jobs: Mutex::default() }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Digest, Job>> {
        self.jobs.lock().expect("no panic under this lock")
    }

    /// A line about the whole transfer.
    pub fn say(&self, event: String) {
        self.sink.progress(Progress { event, ..Progress::default() });
    }

    /// A line about an image.
    pub fn image(&self, event: &str, name: &str, target: &Descriptor) {
        self.sink.progress(Progress {
            event: event.into(),
            name: name.into(),
            descriptor: Some(target.clone()),
            ..Progress::default()
        });
    }

    fn tell(&self, event: &str, parents: Vec<String>, of: &Descriptor, offset: u64) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.sink.progress(Progress {
            event: event.into(),
            name: ref_key(of),
            parents,
            progress: signed(offset),
            total: signed(of.size),
            descriptor: Some(of.clone()),
        });
    }

    fn state(&self, event: &str, of: &Descriptor, offset: u64) {
        let parents = match self.jobs().get_mut(&of.digest) {
            Some(job) => {
                job.offset = offset;
                job.told = Instant::now();
                job.parents.clone()
            }
            None => vec![self.root.clone()],
        };
        self.tell(event, parents, of, offset);
    }

    /// An object that will be moved; no parent stands for the root.
    pub fn add(&self, of: &Descriptor, parent: Option<&Descriptor>) {
        let parents = vec![parent.map_or_else(|| self.root.clone(), ref_key)];
        let job = Job { parents: parents.clone(), offset: 0, told: Instant::now() };
        if self.jobs().insert(of.digest.clone(), job).is_none() {
            self.tell("waiting", parents, of, 0);
        }
    }

    pub fn exists(&self, of: &Descriptor) {
        self.state("already exists", of, of.size);
    }

    /// Bytes that have been moved.
    pub fn moved(&self, of: &Descriptor, offset: u64) {
        self.throttled(self.word, of, offset);
    }

    /// Compressed bytes that have been unpacked, where unpacking follows the move.
    pub fn extracting(&self, of: &Descriptor, offset: u64) {
        self.throttled("extracting", of, offset);
    }

    fn throttled(&self, event: &str, of: &Descriptor, offset: u64) {
        let parents = {
            let mut jobs = self.jobs();
            let Some(job) = jobs.get_mut(&of.digest) else { return };
            if job.told.elapsed() < EVERY && job.offset != 0 {
                return;
            }
            job.told = Instant::now();
            job.offset = offset;
            job.parents.clone()
        };
        self.tell(event, parents, of, offset);
    }

    pub fn complete(&self, of: &Descriptor) {
        self.state("complete", of, of.size);
    }

    pub fn extracted(&self, of: &Descriptor) {
        self.state("extracted", of, of.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<Progress>>);
    impl ProgressSink for Lines {
        fn progress(&self, p: Progress) {
            self.0.lock().unwrap().push(p);
        }
    }

    #[test]
    fn many_bytes_make_few_lines() {
        let lines = Arc::new(Lines::default());
        let tracker = Tracker::new(lines.clone(), "img", "downloading");
        let d = Descriptor::new("x", Digest::of(b""), 1000);
        tracker.add(&d, None);
        tracker.add(&d, None);
        for n in 1..1000 {
            tracker.moved(&d, n);
        }
        tracker.complete(&d);
        let lines = lines.0.lock().unwrap();
        let words: Vec<_> = lines.iter().map(|l| l.event.as_str()).collect();
        assert_eq!((words[0], words[1], *words.last().unwrap()), ("waiting", "downloading", "complete"));
        assert!(lines.len() < 20 && lines.iter().all(|l| l.parents == ["img"]));
    }
}
