//! The table `cni`.

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};
use windlass_network::cni::Limits;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Cni {
    /// Older form of `bin_dirs`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bin_dir: String,
    pub bin_dirs: Vec<String>,
    pub conf_dir: String,
    /// 0 for all.
    pub max_conf_num: usize,
    pub setup_serially: bool,
    pub conf_template: String,
    pub ip_pref: String,
    /// It always is, so that nothing is done with it.
    pub use_internal_loopback: bool,
    /// Ours. `bridge` with `host-local` and `portmap` without ports are done in the daemon, where the program in `bin_dirs` is
    /// the reference plugin or there is none.
    pub builtin_plugins: bool,
    /// Ours. The time that one plugin has for ADD, DEL, CHECK or GC, in Go's notation; never without a limit.
    pub exec_timeout: String,
    /// Ours. The time that one plugin has for STATUS.
    pub status_timeout: String,
}

fn default_bin_dirs() -> Vec<String> {
    vec!["/opt/cni/bin".into()]
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            bin_dir: String::new(),
            bin_dirs: default_bin_dirs(),
            conf_dir: "/etc/cni/net.d".into(),
            max_conf_num: 1,
            setup_serially: false,
            conf_template: String::new(),
            ip_pref: String::new(),
            use_internal_loopback: false,
            builtin_plugins: true,
            exec_timeout: "1m0s".into(),
            status_timeout: "10s".into(),
        }
    }
}

impl Cni {
    pub fn validate(&self) -> Result<()> {
        if !self.bin_dir.is_empty() && !self.bin_dirs.is_empty() && self.bin_dirs != default_bin_dirs() {
            return Err(Error::invalid("cni.bin_dir and cni.bin_dirs cannot be set at the same time"));
        }
        if !matches!(self.ip_pref.as_str(), "" | "ipv4" | "ipv6" | "cni") {
            return Err(Error::invalid(format!(
                "cni.ip_pref: {:?} is none of ipv4, ipv6, cni",
                self.ip_pref
            )));
        }
        self.limits().map(drop)
    }

    /// The time that plugins have. *Invalid argument* for what is no duration, and for none.
    pub fn limits(&self) -> Result<Limits> {
        let limit = |key: &str, text: &str| match super::duration(text) {
            Ok(limit) if limit.is_zero() => {
                Err(Error::invalid(format!("cni.{key}: {text:?} would leave plugins no time")))
            }
            Ok(limit) => Ok(limit),
            Err(error) => Err(error.context(format!("cni.{key}"))),
        };
        Ok(Limits {
            exec: limit("exec_timeout", &self.exec_timeout)?,
            status: limit("status_timeout", &self.status_timeout)?,
        })
    }

    /// Where the programs are.
    pub fn programs(&self) -> Vec<String> {
        if self.bin_dir.is_empty() { self.bin_dirs.clone() } else { vec![self.bin_dir.clone()] }
    }
}
