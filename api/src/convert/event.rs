//! Core's events to and from `google.protobuf.Any` with containerd's types, and their envelopes.

use std::time::SystemTime;

use prost::Message;
use windlass_core::event::{Envelope, Event};
use windlass_core::task::Io;
use windlass_core::{Any, Digest, Error, Result};

use super::{any, mount, time};
use crate::events as w;
use crate::types;

/// The event as it is published. [`Event::Other`] goes out as it came in.
pub fn to_any(event: Event) -> Any {
    match event {
        Event::ContainerCreate { id, image, runtime } => {
            let options = runtime.options.map(any::to_wire);
            let runtime = Some(w::container_create::Runtime { name: runtime.name, options });
            any::pack(&w::ContainerCreate { id, image, runtime })
        }
        Event::ContainerUpdate { id, image, labels, snapshot_key } => {
            any::pack(&w::ContainerUpdate { id, image, labels, snapshot_key })
        }
        Event::ContainerDelete { id } => any::pack(&w::ContainerDelete { id }),
        Event::ContentCreate { digest, size } => any::pack(&w::ContentCreate {
            digest: digest.into(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
        }),
        Event::ContentDelete { digest } => any::pack(&w::ContentDelete { digest: digest.into() }),
        Event::ImageCreate { name, labels } => any::pack(&w::ImageCreate { name, labels }),
        Event::ImageUpdate { name, labels } => any::pack(&w::ImageUpdate { name, labels }),
        Event::ImageDelete { name } => any::pack(&w::ImageDelete { name }),
        Event::NamespaceCreate { name, labels } => any::pack(&w::NamespaceCreate { name, labels }),
        Event::NamespaceUpdate { name, labels } => any::pack(&w::NamespaceUpdate { name, labels }),
        Event::NamespaceDelete { name } => any::pack(&w::NamespaceDelete { name }),
        Event::SnapshotPrepare { key, parent, snapshotter } => {
            any::pack(&w::SnapshotPrepare { key, parent, snapshotter })
        }
        Event::SnapshotCommit { key, name, snapshotter } => {
            any::pack(&w::SnapshotCommit { key, name, snapshotter })
        }
        Event::SnapshotRemove { key, snapshotter } => any::pack(&w::SnapshotRemove { key, snapshotter }),
        Event::SandboxCreate { id } => any::pack(&w::SandboxCreate { sandbox_id: id }),
        Event::SandboxStart { id } => any::pack(&w::SandboxStart { sandbox_id: id }),
        Event::SandboxExit { id, exit_status, exited_at } => {
            let exited_at = Some(time::to_wire(exited_at));
            any::pack(&w::SandboxExit { sandbox_id: id, exit_status, exited_at })
        }
        Event::Other(any) => any,
        Event::TaskCreate { container_id, bundle, rootfs, io, checkpoint, pid } => {
            let rootfs = rootfs.into_iter().map(mount::to_wire).collect();
            let io =
                w::TaskIo { stdin: io.stdin, stdout: io.stdout, stderr: io.stderr, terminal: io.terminal };
            any::pack(&w::TaskCreate { container_id, bundle, rootfs, io: Some(io), checkpoint, pid })
        }
        Event::TaskStart { container_id, pid } => any::pack(&w::TaskStart { container_id, pid }),
        Event::TaskExit { container_id, id, pid, exit_status, exited_at } => any::pack(&w::TaskExit {
            container_id,
            id,
            pid,
            exit_status,
            exited_at: Some(time::to_wire(exited_at)),
        }),
        Event::TaskDelete { container_id, id, pid, exit_status, exited_at } => any::pack(&w::TaskDelete {
            container_id,
            id,
            pid,
            exit_status,
            exited_at: Some(time::to_wire(exited_at)),
        }),
        Event::TaskOom { container_id } => any::pack(&w::TaskOom { container_id }),
        Event::TaskExecAdded { container_id, exec_id } => {
            any::pack(&w::TaskExecAdded { container_id, exec_id })
        }
        Event::TaskExecStarted { container_id, exec_id, pid } => {
            any::pack(&w::TaskExecStarted { container_id, exec_id, pid })
        }
        Event::TaskPaused { container_id } => any::pack(&w::TaskPaused { container_id }),
        Event::TaskResumed { container_id } => any::pack(&w::TaskResumed { container_id }),
        Event::TaskCheckpointed { container_id, checkpoint } => {
            any::pack(&w::TaskCheckpointed { container_id, checkpoint })
        }
    }
}

/// The event in `any`. A type that we do not know, and a payload that does not parse, is carried as it came: an event
/// is never refused for its content.
pub fn from_any(any: Any) -> Event {
    match parse(&any) {
        Ok(Some(event)) => event,
        Ok(None) | Err(_) => Event::Other(any),
    }
}

/// An exit without a time keeps Go's zero time, so that the exit itself is not lost.
fn exited(at: Option<prost_types::Timestamp>) -> Result<SystemTime> {
    Ok(time::from_wire(at)?.unwrap_or_else(time::zero))
}

fn decode<M: Message + Default>(any: &Any) -> Result<M> {
    M::decode(any.value.clone()).map_err(|source| Error::invalid("decode event").with_source(source))
}

fn parse(any: &Any) -> Result<Option<Event>> {
    let name = any::name(&any.type_url);
    let event = match name.strip_prefix("containerd.events.") {
        Some(name) if name.starts_with("Task") => return parse_task(name, any),
        Some("ContainerCreate") => {
            let e: w::ContainerCreate = decode(any)?;
            let runtime = e.runtime.unwrap_or_default();
            let options = runtime.options.map(any::from_wire);
            let runtime = windlass_core::container::Runtime { name: runtime.name, options };
            Event::ContainerCreate { id: e.id, image: e.image, runtime }
        }
        Some("ContainerUpdate") => {
            let e: w::ContainerUpdate = decode(any)?;
            Event::ContainerUpdate {
                id: e.id,
                image: e.image,
                labels: e.labels,
                snapshot_key: e.snapshot_key,
            }
        }
        Some("ContainerDelete") => Event::ContainerDelete { id: decode::<w::ContainerDelete>(any)?.id },
        Some("ContentCreate") => {
            let e: w::ContentCreate = decode(any)?;
            let size = u64::try_from(e.size).map_err(|_| Error::invalid("negative size"))?;
            Event::ContentCreate { digest: e.digest.parse::<Digest>()?, size }
        }
        Some("ContentDelete") => {
            Event::ContentDelete { digest: decode::<w::ContentDelete>(any)?.digest.parse()? }
        }
        Some("NamespaceCreate") => {
            let e: w::NamespaceCreate = decode(any)?;
            Event::NamespaceCreate { name: e.name, labels: e.labels }
        }
        Some("NamespaceUpdate") => {
            let e: w::NamespaceUpdate = decode(any)?;
            Event::NamespaceUpdate { name: e.name, labels: e.labels }
        }
        Some("NamespaceDelete") => Event::NamespaceDelete { name: decode::<w::NamespaceDelete>(any)?.name },
        Some("SnapshotPrepare") => {
            let e: w::SnapshotPrepare = decode(any)?;
            Event::SnapshotPrepare { key: e.key, parent: e.parent, snapshotter: e.snapshotter }
        }
        Some("SnapshotCommit") => {
            let e: w::SnapshotCommit = decode(any)?;
            Event::SnapshotCommit { key: e.key, name: e.name, snapshotter: e.snapshotter }
        }
        Some("SnapshotRemove") => {
            let e: w::SnapshotRemove = decode(any)?;
            Event::SnapshotRemove { key: e.key, snapshotter: e.snapshotter }
        }
        Some("SandboxCreate") => Event::SandboxCreate { id: decode::<w::SandboxCreate>(any)?.sandbox_id },
        Some("SandboxStart") => Event::SandboxStart { id: decode::<w::SandboxStart>(any)?.sandbox_id },
        Some("SandboxExit") => {
            let e: w::SandboxExit = decode(any)?;
            Event::SandboxExit {
                id: e.sandbox_id,
                exit_status: e.exit_status,
                exited_at: exited(e.exited_at)?,
            }
        }
        Some(_) => return Ok(None),
        None => return parse_image(name, any),
    };
    Ok(Some(event))
}

/// Image events live in the image service's package.
fn parse_image(name: &str, any: &Any) -> Result<Option<Event>> {
    Ok(Some(match name.strip_prefix("containerd.services.images.v1.") {
        Some("ImageCreate") => {
            let e: w::ImageCreate = decode(any)?;
            Event::ImageCreate { name: e.name, labels: e.labels }
        }
        Some("ImageUpdate") => {
            let e: w::ImageUpdate = decode(any)?;
            Event::ImageUpdate { name: e.name, labels: e.labels }
        }
        Some("ImageDelete") => Event::ImageDelete { name: decode::<w::ImageDelete>(any)?.name },
        _ => return Ok(None),
    }))
}

fn parse_task(name: &str, any: &Any) -> Result<Option<Event>> {
    Ok(Some(match name {
        "TaskCreate" => {
            let e: w::TaskCreate = decode(any)?;
            let io = e.io.unwrap_or_default();
            Event::TaskCreate {
                container_id: e.container_id,
                bundle: e.bundle,
                rootfs: e.rootfs.into_iter().map(mount::from_wire).collect(),
                io: Io { stdin: io.stdin, stdout: io.stdout, stderr: io.stderr, terminal: io.terminal },
                checkpoint: e.checkpoint,
                pid: e.pid,
            }
        }
        "TaskStart" => {
            let e: w::TaskStart = decode(any)?;
            Event::TaskStart { container_id: e.container_id, pid: e.pid }
        }
        "TaskExit" => {
            let e: w::TaskExit = decode(any)?;
            let exited_at = exited(e.exited_at)?;
            Event::TaskExit {
                container_id: e.container_id,
                id: e.id,
                pid: e.pid,
                exit_status: e.exit_status,
                exited_at,
            }
        }
        "TaskDelete" => {
            let e: w::TaskDelete = decode(any)?;
            let exited_at = exited(e.exited_at)?;
            Event::TaskDelete {
                container_id: e.container_id,
                id: e.id,
                pid: e.pid,
                exit_status: e.exit_status,
                exited_at,
            }
        }
        "TaskOOM" => Event::TaskOom { container_id: decode::<w::TaskOom>(any)?.container_id },
        "TaskExecAdded" => {
            let e: w::TaskExecAdded = decode(any)?;
            Event::TaskExecAdded { container_id: e.container_id, exec_id: e.exec_id }
        }
        "TaskExecStarted" => {
            let e: w::TaskExecStarted = decode(any)?;
            Event::TaskExecStarted { container_id: e.container_id, exec_id: e.exec_id, pid: e.pid }
        }
        "TaskPaused" => Event::TaskPaused { container_id: decode::<w::TaskPaused>(any)?.container_id },
        "TaskResumed" => Event::TaskResumed { container_id: decode::<w::TaskResumed>(any)?.container_id },
        "TaskCheckpointed" => {
            let e: w::TaskCheckpointed = decode(any)?;
            Event::TaskCheckpointed { container_id: e.container_id, checkpoint: e.checkpoint }
        }
        _ => return Ok(None),
    }))
}

pub fn to_wire(envelope: Envelope) -> types::Envelope {
    types::Envelope {
        timestamp: Some(time::to_wire(envelope.timestamp)),
        namespace: envelope.namespace,
        topic: envelope.topic,
        event: Some(any::to_wire(to_any(envelope.event))),
    }
}

/// Namespace and topic are the exchange's to check.
pub fn from_wire(envelope: types::Envelope) -> Result<Envelope> {
    let timestamp = time::from_wire(envelope.timestamp)?;
    let event = envelope.event.map(any::from_wire);
    assemble(timestamp, envelope.namespace, envelope.topic, event)
}

/// What a shim forwards.
#[cfg(feature = "ttrpc")]
pub fn from_shim(envelope: crate::shim::forward::Envelope) -> Result<Envelope> {
    let timestamp = time::from_shim(&envelope.timestamp)?;
    let event = envelope.event.into_option().map(any::from_shim);
    assemble(timestamp, envelope.namespace, envelope.topic, event)
}

fn assemble(
    timestamp: Option<SystemTime>,
    namespace: String,
    topic: String,
    event: Option<Any>,
) -> Result<Envelope> {
    let timestamp = timestamp.ok_or_else(|| Error::invalid("timestamp must be set on forwarded event"))?;
    let event = event.ok_or_else(|| Error::invalid("forwarded envelope has no event"))?;
    Ok(Envelope { timestamp, namespace, topic, event: from_any(event) })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use windlass_core::Labels;
    use windlass_core::container::Runtime;
    use windlass_core::mount::Mount;

    use super::*;

    fn samples() -> Vec<(&'static str, Event)> {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 42);
        let s = str::to_owned;
        let options = Some(Any { type_url: s("containerd.runc.v1.Options"), value: vec![1, 2].into() });
        let mount = Mount { kind: s("overlay"), source: s("overlay"), target: s(""), options: vec![s("ro")] };
        let io = Io { stdin: s("/i"), stdout: s("/o"), stderr: s("/e"), terminal: true };
        let digest = Digest::of(b"x");
        vec![
            (
                "containerd.events.ContainerCreate",
                Event::ContainerCreate {
                    id: s("c"),
                    image: s("i"),
                    runtime: Runtime { name: s("r"), options },
                },
            ),
            (
                "containerd.events.ContainerUpdate",
                Event::ContainerUpdate {
                    id: s("c"),
                    image: s("i"),
                    labels: labels.clone(),
                    snapshot_key: s("k"),
                },
            ),
            ("containerd.events.ContainerDelete", Event::ContainerDelete { id: s("c") }),
            ("containerd.events.ContentCreate", Event::ContentCreate { digest: digest.clone(), size: 9 }),
            ("containerd.events.ContentDelete", Event::ContentDelete { digest }),
            (
                "containerd.services.images.v1.ImageCreate",
                Event::ImageCreate { name: s("n"), labels: labels.clone() },
            ),
            (
                "containerd.services.images.v1.ImageUpdate",
                Event::ImageUpdate { name: s("n"), labels: labels.clone() },
            ),
            ("containerd.services.images.v1.ImageDelete", Event::ImageDelete { name: s("n") }),
            (
                "containerd.events.NamespaceCreate",
                Event::NamespaceCreate { name: s("n"), labels: labels.clone() },
            ),
            ("containerd.events.NamespaceUpdate", Event::NamespaceUpdate { name: s("n"), labels }),
            ("containerd.events.NamespaceDelete", Event::NamespaceDelete { name: s("n") }),
            (
                "containerd.events.SnapshotPrepare",
                Event::SnapshotPrepare { key: s("k"), parent: s("p"), snapshotter: s("o") },
            ),
            (
                "containerd.events.SnapshotCommit",
                Event::SnapshotCommit { key: s("k"), name: s("n"), snapshotter: s("o") },
            ),
            ("containerd.events.SnapshotRemove", Event::SnapshotRemove { key: s("k"), snapshotter: s("o") }),
            (
                "containerd.events.TaskCreate",
                Event::TaskCreate {
                    container_id: s("c"),
                    bundle: s("b"),
                    rootfs: vec![mount],
                    io,
                    checkpoint: s("p"),
                    pid: 7,
                },
            ),
            ("containerd.events.TaskStart", Event::TaskStart { container_id: s("c"), pid: 7 }),
            (
                "containerd.events.TaskExit",
                Event::TaskExit { container_id: s("c"), id: s("e"), pid: 7, exit_status: 137, exited_at: at },
            ),
            (
                "containerd.events.TaskDelete",
                Event::TaskDelete { container_id: s("c"), id: s("e"), pid: 7, exit_status: 1, exited_at: at },
            ),
            ("containerd.events.TaskOOM", Event::TaskOom { container_id: s("c") }),
            (
                "containerd.events.TaskExecAdded",
                Event::TaskExecAdded { container_id: s("c"), exec_id: s("e") },
            ),
            (
                "containerd.events.TaskExecStarted",
                Event::TaskExecStarted { container_id: s("c"), exec_id: s("e"), pid: 8 },
            ),
            ("containerd.events.TaskPaused", Event::TaskPaused { container_id: s("c") }),
            ("containerd.events.TaskResumed", Event::TaskResumed { container_id: s("c") }),
            (
                "containerd.events.TaskCheckpointed",
                Event::TaskCheckpointed { container_id: s("c"), checkpoint: s("p") },
            ),
            ("containerd.events.SandboxCreate", Event::SandboxCreate { id: s("s") }),
            ("containerd.events.SandboxStart", Event::SandboxStart { id: s("s") }),
            (
                "containerd.events.SandboxExit",
                Event::SandboxExit { id: s("s"), exit_status: 3, exited_at: at },
            ),
            ("x.y.Z", Event::Other(Any { type_url: s("x.y.Z"), value: vec![9].into() })),
        ]
    }

    #[test]
    fn events_come_back_under_containerds_names() {
        for (name, event) in samples() {
            let any = to_any(event.clone());
            assert_eq!(any.type_url, name);
            assert_eq!(from_any(any), event);
        }
    }

    #[test]
    fn what_does_not_parse_is_carried() {
        for (name, _) in samples() {
            let broken = Any { type_url: name.into(), value: vec![0xff, 0xff].into() };
            assert_eq!(from_any(broken.clone()), Event::Other(broken));
        }
        let odd = any::pack(&w::ContentDelete { digest: "../../x".into() });
        assert_eq!(from_any(odd.clone()), Event::Other(odd));
    }

    #[test]
    fn an_exit_without_a_time_is_still_an_exit() {
        let any = any::pack(&w::TaskExit { container_id: "c".into(), exit_status: 1, ..Default::default() });
        assert!(
            matches!(from_any(any), Event::TaskExit { exit_status: 1, exited_at, .. } if exited_at == time::zero())
        );
    }

    #[test]
    fn envelopes_come_back_and_need_a_time() {
        for (_, event) in samples() {
            let envelope = Envelope {
                timestamp: UNIX_EPOCH + Duration::from_secs(5),
                namespace: "n".into(),
                topic: "/t".into(),
                event,
            };
            let wire = to_wire(envelope.clone());
            assert_eq!(from_wire(wire.clone()).unwrap(), envelope);
            assert!(from_wire(types::Envelope { timestamp: None, ..wire.clone() }).is_err());
            assert!(from_wire(types::Envelope { event: None, ..wire }).is_err());
        }
    }

    #[cfg(feature = "ttrpc")]
    #[test]
    fn a_shims_envelope_is_read() {
        use protobuf::Message as _;
        let mut exit = crate::shim::events::TaskExit::new();
        exit.container_id = "c".into();
        exit.exit_status = 9;
        exit.exited_at = time::to_shim(UNIX_EPOCH + Duration::from_secs(6));
        let value = exit.write_to_bytes().unwrap().into();
        let event = any::to_shim(Any { type_url: "containerd.events.TaskExit".into(), value });
        let envelope = crate::shim::forward::Envelope {
            timestamp: time::to_shim(UNIX_EPOCH + Duration::from_secs(7)),
            namespace: "n".into(),
            topic: "/tasks/exit".into(),
            event: Some(event).into(),
            ..Default::default()
        };
        let envelope = from_shim(envelope).unwrap();
        assert_eq!(envelope.event.topic(), Some("/tasks/exit"));
        assert!(matches!(envelope.event, Event::TaskExit { exit_status: 9, .. }));
    }
}
