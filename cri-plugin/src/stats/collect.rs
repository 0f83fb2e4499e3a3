//! Reads the figures of many containers and pods at once: one short-lived thread reads all files of a request, shims are
//! asked only for what has no control group here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use windlass_core::{Error, Result};

use super::cgroup::{Group, Hierarchy};
use super::figures::{Detail, Figures};
use super::files::Reader;
use super::kept::Place;
use super::network::{self, Interface};
use super::process::{Counter, Processes};
use super::{task, v1, v2};
use crate::cri::Cri;
use crate::sandbox;
use crate::state::record::nanos;
use crate::state::{Container, Phase, Sandbox};

/// Requests that read at the same time.
pub const AT_ONCE: usize = 4;
/// Records that are read, and shims that are asked, at the same time.
const PARALLEL: usize = 16;
/// Longest wait for a shim's figures.
const SHIM_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the thread.
const LIMIT: Duration = Duration::from_secs(30);
/// Enough for reading files.
const STACK: usize = 256 << 10;

/// Figures, and when they were read.
#[derive(Clone, Debug)]
pub struct Reading {
    pub figures: Figures,
    /// Nanoseconds since 1970.
    pub at: i64,
    pub when: Instant,
}

impl Reading {
    pub fn now(figures: Figures) -> Self {
        Self { figures, at: nanos(SystemTime::now()), when: Instant::now() }
    }
}

/// A container and what was read of it: nothing of one that does not run.
pub struct Taken {
    pub container: Arc<Container>,
    pub reading: Option<Reading>,
    /// Only for [`Detail::Everything`].
    pub processes: Processes,
}

/// A pod, what was read of it, and its containers.
pub struct TakenPod {
    pub sandbox: Arc<Sandbox>,
    /// Of the group that all its containers are below, where there is one; not for [`Detail::Everything`].
    pub reading: Option<Reading>,
    /// `None` where it has no network of its own.
    pub interfaces: Option<Vec<Interface>>,
    pub containers: Vec<Taken>,
}

/// What the thread is to do.
struct Work {
    hierarchy: Hierarchy,
    detail: Detail,
    containers: Vec<Arc<Container>>,
    pods: Vec<(Arc<Sandbox>, Option<PathBuf>)>,
}

/// What it has done, in the same order.
struct Done {
    containers: Vec<Taken>,
    pods: Vec<PodRead>,
}

/// A pod with what its cgroup and its network say, where they say anything.
type PodRead = (Arc<Sandbox>, Option<Reading>, Option<Vec<Interface>>);

impl Cri {
    /// Reads containers.
    pub(super) async fn take(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
        detail: Detail,
    ) -> Result<Vec<Taken>> {
        Ok(self.read(containers, Vec::new(), detail).await?.containers)
    }

    /// Reads pods with their containers.
    pub(super) async fn take_pods(
        self: &Arc<Self>,
        pods: Vec<Arc<Sandbox>>,
        detail: Detail,
    ) -> Result<Vec<TakenPod>> {
        let at: HashMap<&str, usize> =
            pods.iter().enumerate().map(|(at, pod)| (pod.id.as_str(), at)).collect();
        let all = self.state.containers.all();
        let mut inside: Vec<_> =
            all.into_iter().filter_map(|c| Some((*at.get(c.record.sandbox_id.as_str())?, c))).collect();
        inside.sort_by_key(|(at, container)| (*at, container.record.created_at));
        let containers = inside.into_iter().map(|(_, container)| container).collect();
        let done = self.read(containers, pods, detail).await?;
        let mut containers = done.containers.into_iter().peekable();
        let pods = done.pods.into_iter().map(|(sandbox, reading, interfaces)| {
            let mut own = Vec::new();
            while let Some(next) = containers.next_if(|next| next.container.record.sandbox_id == sandbox.id) {
                own.push(next);
            }
            TakenPod { sandbox, reading, interfaces, containers: own }
        });
        Ok(pods.collect())
    }

    async fn read(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
        pods: Vec<Arc<Sandbox>>,
        detail: Detail,
    ) -> Result<Done> {
        futures::stream::iter(containers.iter().filter(|container| self.in_group(container)))
            .for_each_concurrent(PARALLEL, |container| self.name_place(container))
            .await;
        let held = |pod: &Sandbox| pod.record.network.then(|| self.namespaces_dir(&pod.id).join("net"));
        let pods = pods.into_iter().map(|pod| {
            let net = held(&pod);
            (pod, net)
        });
        let work = Work { hierarchy: Hierarchy::of(&self.host), detail, pods: pods.collect(), containers };
        let mut done = on_thread(&self.figures.threads, work).await?;
        futures::stream::iter(done.containers.iter_mut())
            .filter(|taken| {
                let missing = taken.reading.is_none() && taken.container.phase() == Phase::Running;
                std::future::ready(missing)
            })
            .for_each_concurrent(PARALLEL, |taken| async move {
                taken.reading = self.ask(&taken.container).await;
            })
            .await;
        Ok(done)
    }

    /// Whether a container's processes are in a control group of this machine's.
    fn in_group(&self, container: &Container) -> bool {
        let pod = self.state.sandboxes.get(&container.record.sandbox_id);
        let handler = pod.as_ref().map(|pod| self.handler(&pod.record.handler));
        // Without a handler any more: nothing is lost by looking.
        !matches!(handler, Ok(Ok(handler)) if !handler.is_ours())
    }

    /// Finds out what a running container's group is called; once.
    async fn name_place(&self, container: &Container) {
        if container.phase() != Phase::Running || !matches!(container.kept.place(), Place::Unknown) {
            return;
        }
        let named = match self.database.containers().get(&self.cx, &container.id).await {
            Ok(record) => record.spec.and_then(|spec| cgroups_path(&spec.value)),
            Err(error) => {
                tracing::debug!(container = %container.id, error = %error.chain(), "no record to find a control group by");
                None
            }
        };
        container.kept.set_place(Place::Named(named.unwrap_or_default().into()));
    }

    /// Asks a shim.
    async fn ask(&self, container: &Container) -> Option<Reading> {
        let asked = tokio::time::timeout(SHIM_LIMIT, self.tasks.metrics(&self.cx, &container.id)).await;
        match asked {
            Ok(Ok(metrics)) => {
                let figures = task::read(&metrics.data?)?;
                Some(Reading { figures, at: nanos(metrics.at), when: Instant::now() })
            }
            Ok(Err(error)) => {
                tracing::debug!(container = %container.id, error = %error.chain(), "no figures from the shim");
                None
            }
            Err(_) => {
                tracing::warn!(container = %container.id, limit = ?SHIM_LIMIT, "the shim does not tell its figures");
                None
            }
        }
    }
}

/// `linux.cgroupsPath` of a specification.
fn cgroups_path(spec: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        cgroups_path: Option<String>,
    }
    serde_json::from_slice::<Spec>(spec).ok()?.linux?.cgroups_path
}

/// Does the work on a thread that ends with it: it enters network namespaces, and files may take their time.
async fn on_thread(threads: &Arc<Semaphore>, work: Work) -> Result<Done> {
    let late = || Error::deadline(format!("figures could not be read within {LIMIT:?}"));
    let turn = tokio::time::timeout(LIMIT, threads.clone().acquire_owned()).await.map_err(|_| late())?;
    let turn = turn.map_err(|_| Error::unavailable("figures are no longer read"))?;
    let (done, outcome) = oneshot::channel();
    let body = move || {
        let _turn = turn;
        let _ = done.send(work.run());
    };
    let thread = std::thread::Builder::new().name("figures".into()).stack_size(STACK);
    thread.spawn(body).map_err(|e| Error::io("start a thread for figures", e))?;
    let outcome = tokio::time::timeout(LIMIT, outcome).await.map_err(|_| late())?;
    outcome.map_err(|_| Error::internal("reading figures ended early"))
}

impl Work {
    /// Blocks, and leaves the thread in some pod's network namespace.
    fn run(self) -> Done {
        let mut reader = Reader::default();
        let mut counter = Counter::default();
        let containers = self
            .containers
            .iter()
            .map(|container| self.container(&mut reader, &mut counter, container))
            .collect();
        let pods = self.pods.iter().map(|(pod, net)| {
            // Metrics are told of containers only.
            let group = (self.detail != Detail::Everything).then(|| self.pod_group(pod)).flatten();
            let reading = group.and_then(|group| self.group(&mut reader, &group, Detail::Less));
            // Last: processes are looked up by ids, which are the same from any network namespace.
            let interfaces = net.as_deref().and_then(|net| network::inside(&mut reader, net));
            (pod.clone(), reading, interfaces)
        });
        Done { pods: pods.collect(), containers }
    }

    fn container(&self, reader: &mut Reader, counter: &mut Counter, container: &Arc<Container>) -> Taken {
        let mut taken =
            Taken { container: container.clone(), reading: None, processes: Processes::default() };
        let (phase, pid) = {
            let status = container.status();
            (status.phase(), status.pid)
        };
        if phase != Phase::Running {
            return taken;
        }
        let group = match container.kept.place() {
            // Its runtime is somebody else's.
            Place::Unknown => return taken,
            Place::Found(group) => group,
            Place::Named(named) => {
                let Some(group) = self.hierarchy.find(&named, pid).map(Arc::new) else { return taken };
                container.kept.set_place(Place::Found(group.clone()));
                group
            }
        };
        taken.reading = self.group(reader, &group, self.detail);
        if self.detail == Detail::Everything && taken.reading.is_some() {
            taken.processes = counter.read(&self.hierarchy, reader, &group, pid);
        }
        taken
    }

    fn pod_group(&self, pod: &Sandbox) -> Option<Arc<Group>> {
        if let Place::Found(group) = pod.kept.place() {
            return Some(group);
        }
        let group = Arc::new(self.hierarchy.parent(sandbox::cgroup_parent(pod.config()))?);
        pod.kept.set_place(Place::Found(group.clone()));
        Some(group)
    }

    fn group(&self, reader: &mut Reader, group: &Group, detail: Detail) -> Option<Reading> {
        let (at, when) = (nanos(SystemTime::now()), Instant::now());
        let read = if self.hierarchy.v2 { v2::read } else { v1::read };
        let figures = read(&self.hierarchy, reader, group, detail);
        (!figures.is_empty()).then_some(Reading { figures, at, when })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_name_groups() {
        assert_eq!(
            cgroups_path(br#"{"ociVersion":"1","linux":{"cgroupsPath":"/a/b"}}"#).as_deref(),
            Some("/a/b")
        );
        for none in [&b"{}"[..], br#"{"linux":{}}"#, br#"{"linux":{"cgroupsPath":7}}"#, b"[", b""] {
            assert_eq!(cgroups_path(none), None);
        }
    }
}
