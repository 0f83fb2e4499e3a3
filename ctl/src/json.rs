//! Wire messages as JSON for people and scripts: times in RFC 3339, what `Any` holds where it is known.

use base64::Engine as _;
use prost::{Message, Name};
use serde_json::{Map, Value, json};
use windlass_api::convert::any::name;
use windlass_api::services::containers::Container;
use windlass_api::types::task::Process;
use windlass_api::{Any, events as e, runc};

use crate::output::rfc3339;

/// Types that are JSON inside, as containerd names them.
const JSON_TYPES: &str = "types.containerd.io/opencontainers/";

/// What an `Any` holds; its bytes in base64 where the type is not known.
pub fn any(any: &Any) -> Value {
    let unknown = || {
        let bytes = base64::engine::general_purpose::STANDARD.encode(&any.value);
        json!({"@type": any.type_url, "value": bytes})
    };
    let known = name(&any.type_url);
    if known.starts_with(JSON_TYPES) {
        return serde_json::from_slice(&any.value).unwrap_or_else(|_| unknown());
    }
    if known == runc::Options::full_name() {
        return runc::Options::decode(any.value.as_slice()).map_or_else(|_| unknown(), |o| runc_options(&o));
    }
    event(any).unwrap_or_else(unknown)
}

/// Only what is set.
fn runc_options(options: &runc::Options) -> Value {
    let all = json!({
        "no_pivot_root": options.no_pivot_root, "no_new_keyring": options.no_new_keyring,
        "shim_cgroup": options.shim_cgroup, "io_uid": options.io_uid, "io_gid": options.io_gid,
        "binary_name": options.binary_name, "root": options.root, "systemd_cgroup": options.systemd_cgroup,
    });
    let mut map = Map::new();
    if let Value::Object(all) = all {
        map.extend(all.into_iter().filter(|(_, v)| *v != json!(false) && *v != json!("") && *v != json!(0)));
    }
    Value::Object(map)
}

pub fn status(status: windlass_api::types::task::Status) -> &'static str {
    use windlass_api::types::task::Status;
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Paused => "paused",
        Status::Pausing => "pausing",
        Status::Unknown => "unknown",
    }
}

pub fn task(task: &Process) -> Value {
    json!({
        "id": if task.id.is_empty() { &task.container_id } else { &task.id },
        "pid": task.pid,
        "status": status(task.status()),
        "stdin": task.stdin, "stdout": task.stdout, "stderr": task.stderr, "terminal": task.terminal,
        "exit_status": task.exit_status,
        "exited_at": rfc3339(task.exited_at.as_ref()),
    })
}

pub fn container(container: &Container, process: Option<&Process>) -> Value {
    let runtime = container.runtime.as_ref();
    let extensions: Map<_, _> = container.extensions.iter().map(|(k, v)| (k.clone(), any(v))).collect();
    json!({
        "id": container.id,
        "labels": container.labels,
        "image": container.image,
        "runtime": {
            "name": runtime.map(|r| r.name.as_str()),
            "options": runtime.and_then(|r| r.options.as_ref()).map(any),
        },
        "snapshotter": container.snapshotter,
        "snapshot_key": container.snapshot_key,
        "sandbox": container.sandbox,
        "created": rfc3339(container.created_at.as_ref()),
        "updated": rfc3339(container.updated_at.as_ref()),
        "extensions": extensions,
        "task": process.map(task),
        "spec": container.spec.as_ref().map(any),
    })
}

macro_rules! messages {
    (@time $map:ident $message:ident exited) => {
        $map.insert("exited_at".to_owned(), json!(rfc3339($message.exited_at.as_ref())));
    };
    (@time $map:ident $message:ident) => {};
    ($name:expr, $value:expr; $($(#[$times:ident])? $message:ident { $($field:ident),* };)*) => {
        match $name { $(
            n if n == <e::$message as Name>::full_name() => {
                let message = e::$message::decode($value).ok()?;
                let mut map = Map::new();
                $(map.insert(stringify!($field).to_owned(), json!(message.$field));)*
                messages!(@time map message $($times)?);
                Some(Value::Object(map))
            }
        )* _ => None }
    };
}

/// A known event, by the field names of its message.
pub fn event(any: &Any) -> Option<Value> {
    let name = name(&any.type_url);
    if name == e::ContainerCreate::full_name() {
        let message = e::ContainerCreate::decode(any.value.as_slice()).ok()?;
        let runtime = message.runtime.map(|r| json!({"name": r.name}));
        return Some(json!({"id": message.id, "image": message.image, "runtime": runtime}));
    }
    if name == e::TaskCreate::full_name() {
        let message = e::TaskCreate::decode(any.value.as_slice()).ok()?;
        let io = message.io.unwrap_or_default();
        return Some(json!({
            "container_id": message.container_id, "bundle": message.bundle, "checkpoint": message.checkpoint,
            "pid": message.pid,
            "io": {"stdin": io.stdin, "stdout": io.stdout, "stderr": io.stderr, "terminal": io.terminal},
        }));
    }
    messages! { name, any.value.as_slice();
        ContainerUpdate { id, image, labels, snapshot_key };
        ContainerDelete { id };
        ContentCreate { digest, size };
        ContentDelete { digest };
        ImageCreate { name, labels };
        ImageUpdate { name, labels };
        ImageDelete { name };
        NamespaceCreate { name, labels };
        NamespaceUpdate { name, labels };
        NamespaceDelete { name };
        SnapshotPrepare { key, parent, snapshotter };
        SnapshotCommit { key, name, snapshotter };
        SnapshotRemove { key, snapshotter };
        SandboxCreate { sandbox_id };
        SandboxStart { sandbox_id };
        #[exited] SandboxExit { sandbox_id, exit_status };
        TaskStart { container_id, pid };
        #[exited] TaskExit { container_id, id, pid, exit_status };
        #[exited] TaskDelete { container_id, id, pid, exit_status };
        TaskOom { container_id };
        TaskExecAdded { container_id, exec_id };
        TaskExecStarted { container_id, exec_id, pid };
        TaskPaused { container_id };
        TaskResumed { container_id };
        TaskCheckpointed { container_id, checkpoint };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::pack;

    #[test]
    fn events_are_spelled_out() {
        let exit = e::TaskExit { container_id: "c".into(), pid: 7, exit_status: 3, ..Default::default() };
        let value = event(&pack(&exit)).unwrap();
        assert_eq!((&value["container_id"], &value["exit_status"]), (&json!("c"), &json!(3)));
        assert_eq!(event(&pack(&e::TaskOom { container_id: "c".into() })).unwrap()["container_id"], "c");
        let odd = Any { type_url: "x.y.Z".into(), value: vec![1] };
        assert_eq!(any(&odd), json!({"@type": "x.y.Z", "value": "AQ=="}));
    }

    #[test]
    fn a_specification_is_shown_as_it_is() {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: b"{\"a\":1}".to_vec(),
        };
        assert_eq!(any(&spec), json!({"a": 1}));
        let options = runc::Options { binary_name: "crun".into(), ..Default::default() };
        assert_eq!(any(&pack(&options)), json!({"binary_name": "crun"}));
    }
}
