//! The table `cni`.

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};

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
    pub use_internal_loopback: bool,
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
        Ok(())
    }

    /// Where the programs are.
    pub fn programs(&self) -> Vec<String> {
        if self.bin_dir.is_empty() { self.bin_dirs.clone() } else { vec![self.bin_dir.clone()] }
    }
}
