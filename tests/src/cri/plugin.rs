//! A network plugin whose addresses are directories: what is left of a pod's network can be counted. It misbehaves as the
//! test says.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How the plugin behaves.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Works,
    /// ADD takes an address and fails.
    Fails,
    /// ADD takes an address and answers what is no JSON.
    Garbage,
    /// ADD takes an address and does not end before [`Plugin::release`].
    Hangs,
    /// Every command takes longer than anybody waits.
    Sleeps,
    /// ADD takes an address and prints without end; so does DEL.
    Floods,
    /// ADD takes an address and fails, and so does DEL.
    Refuses,
    /// DEL fails.
    Keeps,
}

/// More calls than any test lets hang.
const CALLS: usize = 64;

/// What it says of a failure.
pub const COMPLAINT: &str = "the pool of the test has no more addresses";

/// An address is taken before anything goes wrong: whoever asked for it has to give it back.
const SCRIPT: &str = r#"#!/bin/sh
here=${0%/*}
cat >/dev/null
mode=$(cat "$here/mode")
error() { echo "{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"$1\"}"; exit 1; }
sleeps() { : >"$here/hangs"; sleep 1000 & wait; }
floods() { exec yes "$(head -c 4000 /dev/zero | tr '\0' x)"; }
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit ;;
  DEL)
    case $mode in keeps | refuses) error "COMPLAINT" ;; sleeps) sleeps ;; floods) floods ;; esac
    for owner in "$here"/addresses/*/"$CNI_CONTAINERID-$CNI_IFNAME"; do
      [ ! -e "$owner" ] || rm -r "${owner%/*}"
    done
    exit ;;
  ADD) ;;
  *) exit ;;
esac
n=2
until mkdir "$here/addresses/10.9.0.$n" 2>/dev/null; do n=$((n + 1)); done
: >"$here/addresses/10.9.0.$n/$CNI_CONTAINERID-$CNI_IFNAME"
case $mode in
  fails | refuses) error "COMPLAINT" ;;
  sleeps) sleeps ;;
  floods) floods ;;
  garbage) echo 'this is no JSON'; exit ;;
  hangs) : >"$here/hangs"; read -r _ <"$here/gate" ;;
esac
echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}],\
\"ips\":[{\"address\":\"10.9.0.$n/24\",\"interface\":0}]}"
"#;

/// The plugin, its network and what it has given out. Calls that hang go on when this is dropped.
pub struct Plugin {
    dir: tempfile::TempDir,
    /// Open both ways, so that what is written waits for whoever is not at the gate yet.
    gate: fs::File,
}

impl Default for Plugin {
    fn default() -> Self {
        let dir = tempfile::Builder::new().prefix("windlass-cni.").tempdir().expect("a temporary directory");
        for name in ["conf", "addresses"] {
            fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        let network = r#"{"cniVersion":"1.0.0","name":"e2e","plugins":[{"type":"windlass-fake"}]}"#;
        fs::write(dir.path().join("conf/10-e2e.conflist"), network).expect("a file can be written");
        let path = dir.path().join("gate");
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path has no nought in it");
        // SAFETY: the path is a valid C string for the length of the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "a fifo can be made");
        let gate = fs::OpenOptions::new().read(true).write(true).open(path).expect("a fifo can be opened");
        let plugin = Self { dir, gate };
        plugin.set(Mode::Works);
        plugin.install();
        plugin
    }
}

impl Plugin {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Keys of config.toml that lead to it.
    pub fn config(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "[plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [\"{dir}\"]\nconf_dir = \"{dir}/conf\"\n"
        )
    }

    pub fn install(&self) {
        let new = self.path("new");
        fs::write(&new, SCRIPT.replace("COMPLAINT", COMPLAINT)).expect("a file can be written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::rename(new, self.path("windlass-fake")).expect("rename");
    }

    pub fn uninstall(&self) {
        fs::remove_file(self.path("windlass-fake")).expect("it was installed");
    }

    pub fn set(&self, mode: Mode) {
        let _ = fs::remove_file(self.path("hangs"));
        fs::write(self.path("mode"), format!("{mode:?}").to_lowercase()).expect("a file can be written");
    }

    /// Whether a call hangs, or has hung since the mode was set.
    pub fn hangs(&self) -> bool {
        self.path("hangs").exists()
    }

    /// One call that hangs, or is about to, goes on.
    pub fn release(&self) {
        (&self.gate).write_all(b"go\n").expect("a fifo has room");
    }

    /// The addresses that are taken, each with "pod-interface".
    pub fn addresses(&self) -> Vec<(String, String)> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let addresses = self.path("addresses");
        let owner = |address: &String| names(&addresses.join(address)).pop().unwrap_or_default();
        names(&addresses).into_iter().map(|address| (address.clone(), owner(&address))).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.gate.write_all("go\n".repeat(CALLS).as_bytes());
    }
}
