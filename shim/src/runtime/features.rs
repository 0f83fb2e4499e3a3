//! What the embedded runtime can do, in the OCI features document that `runc features` prints too.

/// The document as JSON.
pub fn embedded_features() -> Vec<u8> {
    let list = |words: &str| format!("[\"{}\"]", words.replace(' ', "\",\""));
    let yes = r#"{"enabled":true}"#;
    format!(
        concat!(
            r#"{{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1","hooks":{},"mountOptions":{},"linux":{{"namespaces":{},"#,
            r#""capabilities":{},"cgroup":{{"v1":true,"v2":true,"systemd":true,"systemdUser":false,"rdma":true}},"#,
            r#""seccomp":{},"apparmor":{},"selinux":{},"mountExtensions":{{"idmap":{}}}}},"potentiallyUnsafeConfigAnnotations":["org.systemd.property."]}}"#
        ),
        list(HOOKS),
        list(MOUNT_OPTIONS),
        list(NAMESPACES),
        list(CAPABILITIES),
        yes,
        yes,
        yes,
        yes
    )
    .into_bytes()
}

const HOOKS: &str = "prestart createRuntime createContainer startContainer poststart poststop";
const NAMESPACES: &str = "cgroup ipc mount network pid time user uts";

const CAPABILITIES: &str = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID \
    CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW \
    CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN \
    CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE \
    CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND \
    CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE";

const MOUNT_OPTIONS: &str = "async atime bind defaults dev diratime dirsync exec noatime nodev nodiratime noexec \
    norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec rnoatime \
    rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared \
    rslave rstrictatime rsuid rsymfollow runbindable rw shared slave strictatime suid symfollow sync tmpcopyup \
    unbindable idmap ridmap";
