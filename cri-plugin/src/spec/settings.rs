//! What configuration says about specifications: containerd's keys, of the runtime section and of one handler.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// Configuration for the pods of one runtime handler. The default is that of containerd's default configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub device_ownership_from_security_context: bool,
    pub disable_apparmor: bool,
    pub restrict_oom_score_adj: bool,
    pub disable_hugetlb_controller: bool,
    pub tolerate_missing_hugetlb_controller: bool,
    pub ignore_image_defined_volumes: bool,
    /// `/proc` is left to be masked by default rather than as each container says.
    pub disable_proc_mount: bool,
    /// The profile of those who ask for none: empty, `unconfined`, `runtime/default`, `localhost/<file>`.
    pub unset_seccomp_profile: String,
    pub enable_unprivileged_ports: bool,
    pub enable_unprivileged_icmp: bool,
    pub enable_selinux: bool,
    pub selinux_category_range: u32,
    pub enable_cdi: bool,
    /// Later ones win over earlier ones.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// OCI `blockIO` by class, when configuration names such a file.
    pub blockio_classes: Option<BTreeMap<String, Value>>,
    pub ignore_blockio_not_enabled_errors: bool,
    /// Configuration names a file of RDT classes.
    pub rdt: bool,
    pub ignore_rdt_not_enabled_errors: bool,

    /// Of the handler's options: control groups are systemd's.
    pub systemd_cgroup: bool,
    pub privileged_without_host_devices: bool,
    pub privileged_without_host_devices_all_devices_allowed: bool,
    pub cgroup_writable: bool,
    /// The handler can make a mount and all below it read-only.
    pub recursive_read_only_mounts: bool,
    /// Patterns of annotations that are handed on to the runtime.
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    /// What `base_runtime_spec` names, read.
    pub base_runtime_spec: Option<Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device_ownership_from_security_context: false,
            disable_apparmor: false,
            restrict_oom_score_adj: false,
            disable_hugetlb_controller: true,
            tolerate_missing_hugetlb_controller: true,
            ignore_image_defined_volumes: false,
            disable_proc_mount: false,
            unset_seccomp_profile: String::new(),
            enable_unprivileged_ports: true,
            enable_unprivileged_icmp: true,
            enable_selinux: false,
            selinux_category_range: 1024,
            enable_cdi: true,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            blockio_classes: None,
            ignore_blockio_not_enabled_errors: false,
            rdt: false,
            ignore_rdt_not_enabled_errors: false,
            systemd_cgroup: false,
            privileged_without_host_devices: false,
            privileged_without_host_devices_all_devices_allowed: false,
            cgroup_writable: false,
            recursive_read_only_mounts: true,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            base_runtime_spec: None,
        }
    }
}
