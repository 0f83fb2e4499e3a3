//! The shim binary through a whole life, driven as a daemon drives it, with the `ttrpc` crate at the other end.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::*;
use protobuf::Message;
use windlass_api::shim::task_v3 as api;
use windlass_api::shim::types::task::Status;
use windlass_api::shim::{cgroups_v1, cgroups_v2, task_v2};

fn code(error: &ttrpc::Error) -> ttrpc::Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_whole_life() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("life", "trap 'exit 9' TERM; while :; do sleep 0.05; done", |_| {}).await;
        let pid = task.create(|_| {}).await;
        let state = task.state("").await.unwrap();
        assert_eq!((state.status.enum_value().unwrap(), state.pid), (Status::CREATED, pid));
        assert_eq!(
            code(&task.task.create(context(), &task.create_request()).await.unwrap_err()),
            ttrpc::Code::ALREADY_EXISTS
        );
        assert_eq!(task.start("").await, pid);

        task.exec("e1", "exit 3", |_| {}).await.unwrap();
        assert_eq!(code(&task.exec("e1", "true", |_| {}).await.unwrap_err()), ttrpc::Code::ALREADY_EXISTS);
        assert_eq!(code(&task.kill("e1", 9).await.unwrap_err()), ttrpc::Code::FAILED_PRECONDITION);
        task.start("e1").await;
        assert_eq!(task.wait("e1").await, 3);
        assert_eq!(task.delete("e1").await.unwrap().exit_status, 3);
        assert_eq!(code(&task.state("e1").await.unwrap_err()), ttrpc::Code::NOT_FOUND);

        task.exec("e2", "sleep 1000", |_| {}).await.unwrap();
        let exec_pid = task.start("e2").await;
        let mut request = api::PidsRequest::new();
        request.id = task.id.clone();
        let pids = task.task.pids(context(), &request).await.unwrap().processes;
        assert!(pids.iter().any(|process| process.pid == pid));
        assert!(
            pids.iter().any(|process| process.pid == exec_pid
                && process.info.type_url == "containerd.runc.v1.ProcessDetails")
        );

        let mut request = api::PauseRequest::new();
        request.id = task.id.clone();
        task.task.pause(context(), &request).await.unwrap();
        assert_eq!(task.state("").await.unwrap().status.enum_value().unwrap(), Status::PAUSED);
        assert!(
            task.exec("e3", "true", |_| {})
                .await
                .unwrap_err()
                .to_string()
                .contains("cannot exec in a paused state")
        );
        let mut request = api::ResumeRequest::new();
        request.id = task.id.clone();
        task.task.resume(context(), &request).await.unwrap();

        let mut request = api::UpdateTaskRequest::new();
        request.id = task.id.clone();
        let mut resources = protobuf::well_known_types::any::Any::new();
        resources.value = br#"{"pids":{"limit":77}}"#.to_vec();
        request.resources = protobuf::MessageField::some(resources);
        task.task.update(context(), &request).await.unwrap();
        let mut request = api::StatsRequest::new();
        request.id = task.id.clone();
        let stats = task.task.stats(context(), &request).await.unwrap().stats.unwrap();
        let limit = match stats.type_url.as_str() {
            "io.containerd.cgroups.v1.Metrics" => {
                cgroups_v1::Metrics::parse_from_bytes(&stats.value).unwrap().pids.limit
            }
            "io.containerd.cgroups.v2.Metrics" => {
                cgroups_v2::Metrics::parse_from_bytes(&stats.value).unwrap().pids.limit
            }
            other => panic!("{other}"),
        };
        assert_eq!(limit, 77);

        assert!(task.delete("").await.unwrap_err().to_string().contains("cannot delete a running process"));
        task.kill("", 15).await.unwrap();
        assert_eq!(task.wait("").await, 9);
        assert_eq!(code(&task.kill("", 9).await.unwrap_err()), ttrpc::Code::NOT_FOUND);
        let deleted = task.delete("").await.unwrap();
        assert_eq!((deleted.exit_status, deleted.pid), (9, pid));
        assert_eq!(code(&task.state("").await.unwrap_err()), ttrpc::Code::NOT_FOUND);
        task.shutdown().await;
        let lines = daemon.inbox.until("delete life 9").await;
        assert_eq!(
            lines,
            [
                "create life",
                "start life",
                "exec-added e1",
                "exec-started e1",
                "exit e1 3",
                "exec-added e2",
                "exec-started e2",
                "paused",
                "resumed",
                "exit e2 137",
                "exit life 9",
                "delete life 9"
            ]
        );
    });
}

#[test]
fn unknown_names_and_version_2() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("names", "exit 4", |_| {}).await;
        let mut request = ttrpc::proto::Request::new();
        for (service, method, message) in [
            ("no.such.Service", "State", "service no.such.Service"),
            ("containerd.task.v3.Task", "Nope", "method Nope"),
        ] {
            request.service = service.into();
            request.method = method.into();
            let error = task.client.request(request.clone()).await.unwrap_err();
            assert_eq!(code(&error), ttrpc::Code::UNIMPLEMENTED);
            assert!(error.to_string().contains(message), "{error}");
        }
        task.create(|_| {}).await;
        let two = task_v2::TaskClient::new(task.client.clone());
        let mut request = task_v2::StartRequest::new();
        request.id = task.id.clone();
        two.start(context(), &request).await.unwrap();
        let mut request = task_v2::WaitRequest::new();
        request.id = task.id.clone();
        assert_eq!(two.wait(context(), &request).await.unwrap().exit_status, 4);
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

#[test]
fn a_failed_create_and_a_failed_exec_leave_nothing() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task =
            daemon.task("wrong", "", |spec| spec["process"]["args"] = serde_json::json!(["/no/such"])).await;
        let created = task.task.create(context(), &task.create_request()).await;
        // A runtime may look for the program at create or at start.
        let error = match created {
            Err(error) => error,
            Ok(_) => {
                let mut request = api::StartRequest::new();
                request.id = task.id.clone();
                let error = task.task.start(context(), &request).await.unwrap_err();
                task.wait("").await;
                task.delete("").await.unwrap();
                error
            }
        };
        assert!(error.to_string().contains("no such file or directory"), "{error}");
        task.nothing_left();
        // The same id works afterwards.
        daemon.bundle("wrong", "sleep 1000", |_| {});
        task.create(|_| {}).await;
        task.start("").await;
        task.exec("bad", "", |request| {
            request.spec.as_mut().unwrap().value =
                br#"{"args":["/no/such"],"cwd":"/","user":{"uid":0,"gid":0}}"#.to_vec();
        })
        .await
        .unwrap();
        let mut request = api::StartRequest::new();
        request.id = task.id.clone();
        request.exec_id = "bad".into();
        let error = task.task.start(context(), &request).await.unwrap_err();
        assert!(error.to_string().contains("no such file or directory"), "{error}");
        task.wait("bad").await;
        task.delete("bad").await.unwrap();
        task.kill("", 9).await.unwrap();
        assert_eq!(task.wait("").await, 137);
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

#[test]
fn a_created_container_is_deleted_after_its_exit_was_told() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("created", "true", |_| {}).await;
        task.create(|_| {}).await;
        task.delete("").await.unwrap();
        task.shutdown().await;
        assert_eq!(
            daemon.inbox.until("delete created 137").await,
            ["create created", "exit created 137", "delete created 137"]
        );
    });
}

#[test]
fn what_shares_the_pid_namespace_dies_with_init() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon
            .task("shared", "sleep 1234 & sleep 0.2; exit 5", |spec| {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|ns| ns["type"] != "pid");
            })
            .await;
        task.create(|_| {}).await;
        task.start("").await;
        task.exec("left", "sleep 1234", |_| {}).await.unwrap();
        task.start("left").await;
        assert_eq!(task.wait("").await, 5);
        let lines = daemon.inbox.until("exit shared 5").await;
        assert_eq!(lines.last().unwrap(), "exit shared 5");
        assert!(lines.contains(&"exit left 137".to_owned()));
        task.delete("left").await.unwrap();
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

#[test]
fn a_killed_shim_is_cleaned_up_by_delete() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("dead", "sleep 1000", |_| {}).await;
        let pid = task.create(|_| {}).await;
        task.start("").await;
        let shim = rustix::process::Pid::from_raw(task.shim_pid()).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        until("the shim ends", || ended(task.shim_pid()));
        let response = daemon.delete_dead(&task.bundle, &task.id);
        assert_eq!((response.exit_status, response.pid), (137, pid));
        assert!(response.exited_at.seconds > 1_700_000_000);
        until("the container ends", || ended(pid as i32));
        assert!(!task.socket.exists());
        task.nothing_left();
        // The second call finds nothing to do.
        daemon.delete_dead(&task.bundle, &task.id);
    });
}

#[test]
fn one_shim_serves_a_pod() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let pod = |spec: &mut serde_json::Value| {
            spec["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        };
        let first = daemon.task("pod-a", "sleep 1000", pod).await;
        let bundle = daemon.bundle("pod-b", "exit 2", pod);
        let socket = daemon.start_shim(&bundle, "pod-b");
        assert_eq!(socket, first.socket);
        assert_eq!(
            fs::read_to_string(bundle.join("address")).unwrap(),
            format!("unix://{}", socket.display())
        );
        let second = daemon.attach("pod-b", bundle, socket).await;
        first.create(|_| {}).await;
        first.start("").await;
        second.create(|_| {}).await;
        second.start("").await;
        assert_eq!(second.wait("").await, 2);
        second.delete("").await.unwrap();
        // The other container keeps the shim.
        let mut request = api::ShutdownRequest::new();
        request.id = second.id.clone();
        second.task.shutdown(context(), &request).await.unwrap();
        first.kill("", 9).await.unwrap();
        first.wait("").await;
        first.delete("").await.unwrap();
        first.shutdown().await;
    });
}

#[test]
fn events_outlive_the_daemons_absence() {
    each(|runtime| async move {
        let mut daemon = Daemon::new(runtime).await;
        let task = daemon.task("away", "sleep 1000", |_| {}).await;
        task.create(|_| {}).await;
        task.start("").await;
        daemon.inbox.until("start away").await;
        daemon.go_away();
        for number in 0..5 {
            let id = format!("e{number}");
            task.exec(&id, "true", |_| {}).await.unwrap();
            task.start(&id).await;
            task.wait(&id).await;
            task.delete(&id).await.unwrap();
        }
        task.kill("", 9).await.unwrap();
        task.wait("").await;
        assert_eq!(daemon.inbox.lines(), ["create away", "start away"]);
        daemon.listen().await;
        let lines = daemon.inbox.until("exit away 137").await;
        let mut want = vec!["create away".to_owned(), "start away".to_owned()];
        for number in 0..5 {
            want.extend([
                format!("exec-added e{number}"),
                format!("exec-started e{number}"),
                format!("exit e{number} 0"),
            ]);
        }
        want.push("exit away 137".to_owned());
        assert_eq!(lines, want);
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

#[test]
fn older_daemons_are_answered_in_their_form() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let bundle = daemon.bundle("old", "true", |_| {});
        let address = daemon.start_raw(&bundle, "old", &[]);
        let path = address.strip_prefix("unix:///run/containerd/s/").expect("the default directory");
        assert_eq!(path.len(), 64);
        let json = daemon.start_raw(&bundle, "old", &[("MAX_SHIM_VERSION", "2")]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["version"].as_u64(), json["address"].as_str()), (Some(2), Some(address.as_str())));
        let task = daemon.attach("old", bundle, address.strip_prefix("unix://").unwrap().into()).await;
        task.shutdown().await;
    });
}

#[test]
fn memory_and_descriptors_are_flat_over_execs() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("flat", "sleep 1000", |_| {}).await;
        task.create(|_| {}).await;
        task.start("").await;
        let pid = task.shim_pid();
        let measure = || {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
            let memory: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            (memory, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
        };
        // `SHIM_TEST_EXECS` makes a long run of it.
        let long = std::env::var("SHIM_TEST_EXECS").ok().and_then(|count| count.parse().ok());
        let rounds = long.unwrap_or(if runtime.is_empty() { 500 } else { 60 });
        let cycle = async |from: usize, to: usize| {
            for number in from..to {
                let id = format!("e{number}");
                task.exec(&id, "true", |_| {}).await.unwrap();
                task.start(&id).await;
                task.wait(&id).await;
                task.delete(&id).await.unwrap();
            }
        };
        cycle(0, 20).await;
        let (memory, fds) = measure();
        cycle(20, 20 + rounds).await;
        let (memory_after, fds_after) = measure();
        eprintln!("{rounds} execs: {memory} kB became {memory_after} kB, {fds} descriptors {fds_after}");
        assert_eq!(fds_after, fds);
        assert!(memory_after <= memory + 64, "{memory} kB became {memory_after} kB");
        task.kill("", 9).await.unwrap();
        task.wait("").await;
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

#[test]
fn an_oom_kill_is_told_before_the_exit() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon
            .task("oom", "exec tail /dev/zero", |spec| {
                spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
                spec["mounts"].as_array_mut().unwrap().push(
                    serde_json::json!({"destination": "/dev/zero", "type": "bind", "source": "/dev/zero", "options": ["bind"]}),
                );
            })
            .await;
        task.create(|_| {}).await;
        task.start("").await;
        assert_eq!(task.wait("").await, 137);
        let lines = daemon.inbox.until("exit oom 137").await;
        assert!(lines.contains(&"oom oom".to_owned()), "{lines:?}");
        task.delete("").await.unwrap();
        task.shutdown().await;
    });
}

/// A runtime program that never answers, for one container of a pod.
#[test]
fn a_hung_runtime_hurts_only_its_own_container() {
    use std::os::unix::fs::PermissionsExt;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(
        async {
            let daemon = Daemon::new("").await;
            let hang = daemon.dir.path().join("hang");
            fs::write(&hang, "#!/bin/sh\nexec sleep 1000\n").unwrap();
            fs::set_permissions(&hang, fs::Permissions::from_mode(0o755)).unwrap();
            let pod = |spec: &mut serde_json::Value| {
                spec["annotations"] = serde_json::json!({"io.containerd.runc.v2.group": "hang"});
            };
            let good =
                daemon.task_with("hang-good", "exit 3", pod, &[("WINDLASS_RUNTIME_TIMEOUT", "2")]).await;
            let bundle = daemon.bundle("hang-bad", "true", pod);
            let bad = daemon.attach("hang-bad", bundle, good.socket.clone()).await;
            let mut request = bad.create_request();
            let mut options = windlass_api::shim::runc::Options::new();
            options.binary_name = hang.display().to_string();
            options.root = daemon.dir.path().join("r").display().to_string();
            request.options = protobuf::MessageField::some(any("containerd.runc.v1.Options", &options));
            let create = bad.task.create(context(), &request);
            let other = async {
                good.create(|_| {}).await;
                good.start("").await;
                assert_eq!(good.wait("").await, 3);
                good.delete("").await.unwrap();
            };
            let (created, ()) = tokio::join!(create, other);
            assert_eq!(code(&created.unwrap_err()), ttrpc::Code::DEADLINE_EXCEEDED);
            bad.nothing_left();
            good.shutdown().await;
        },
    );
}

#[test]
fn a_slow_hook_holds_up_its_own_container_only() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let gate = daemon.dir.path().join("gate");
        rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let log = daemon.dir.path().join("hooks");
        let group = |spec: &mut serde_json::Value| {
            spec["annotations"] = serde_json::json!({"io.containerd.runc.v2.group": "hook"});
        };
        let hook = |script: String| serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let slow = daemon
            .task("hook-slow", "echo to $0; exit 5", |spec| {
                group(spec);
                spec["hooks"] = serde_json::json!({
                    "createRuntime": hook(format!("cat {}", gate.display())),
                    "poststart": hook(format!("echo poststart >> {}", log.display())),
                    "poststop": hook(format!("echo poststop >> {}", log.display())),
                });
            })
            .await;
        let bundle = daemon.bundle("hook-other", "exit 3", group);
        let other = daemon.attach("hook-other", bundle, slow.socket.clone()).await;
        let output = slow.fifo("out");
        let stdout = reader(&output);
        let create = slow.create(|request| request.stdout = output.display().to_string());
        let meanwhile = async {
            other.create(|_| {}).await;
            other.start("").await;
            assert_eq!(other.wait("").await, 3);
            other.delete("").await.unwrap();
            tokio::task::spawn_blocking(move || fs::write(gate, "").unwrap()).await.unwrap();
        };
        tokio::join!(create, meanwhile);
        slow.start("").await;
        assert_eq!(slow.wait("").await, 5);
        assert_eq!(text(stdout).await, "to /bin/sh\n");
        slow.delete("").await.unwrap();
        assert_eq!(fs::read_to_string(log).unwrap(), "poststart\npoststop\n");
        slow.shutdown().await;
    });
}
