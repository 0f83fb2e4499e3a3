//! What the tests of several parts share: a pod that is there.

use std::path::Path;

use windlass_api::cri;

use super::{Host, IdMap, Mappings, Pod, Tree};

pub fn host() -> Host {
    Host {
        seccomp: true,
        userns: true,
        rro_mounts: true,
        idmap_mounts: true,
        min_oom_score_adj: -1000,
        capabilities: windlass_core::capability::ALL.map(str::to_owned).to_vec(),
        hostname: "node".into(),
        ..Host::default()
    }
}

pub fn mappings() -> Mappings {
    let map = vec![IdMap { container: 0, host: 100_000, size: 65536 }];
    Mappings { uids: map.clone(), gids: map }
}

pub fn userns() -> cri::UserNamespace {
    let map = vec![cri::IdMapping { host_id: 100_000, container_id: 0, length: 65536 }];
    cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: map.clone(), gids: map }
}

/// A configuration with these namespace options.
pub fn config(options: cri::NamespaceOption) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "pod".into(),
            uid: "uid".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "pod-host".into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn pod<'a>(config: &'a cri::PodSandboxConfig, dir: &'a Path) -> Pod<'a> {
    Pod {
        id: "sandbox",
        config,
        dir,
        shm: None,
        net: Some("/run/net".into()),
        ipc: Some("/run/ipc".into()),
        uts: Some("/run/uts".into()),
        user: None,
        userns: None,
        pid: None,
        cgroup_parent: "/kubepods/pod1".into(),
    }
}

/// A directory as a root file system.
pub fn tree(directory: &Path) -> Tree {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty()).unwrap().into()
}
