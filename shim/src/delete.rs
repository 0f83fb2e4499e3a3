//! The `delete` subcommand: a daemon calls it for a container whose shim has died. It kills what is left, takes the
//! mounts away and prints a `DeleteResponse`, whose status is that of a killed process: the true one died with the shim.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use protobuf::{Message, MessageField};
use tokio::sync::watch;
use tokio::task::spawn_local;
use windlass_api::shim::task_v3::DeleteResponse;

use crate::args::Args;
use crate::error::{Context, Error, Result};
use crate::mount;
use crate::options::Options;
use crate::reaper::Reaper;
use crate::runtime::Runtime;
use crate::serve;
use crate::signal::Signals;
use crate::socket;
use crate::time::timestamp;

const KILLED: u32 = 128 + libc::SIGKILL as u32;

pub fn run(args: &Args) -> Result<()> {
    let bundle = bundle(args)?;
    if let Err(error) = remove(args, &bundle) {
        // The daemon logs it as a warning and goes on.
        eprintln!("remove container {}: {error}", args.id);
    }
    if let Err(error) = mount::unmount_all(&bundle.join("rootfs")) {
        eprintln!("clean up rootfs mount: {error}");
    }
    // The socket is named by the group, so it may be another living shim's.
    if let Ok(address) = fs::read_to_string(bundle.join("address"))
        && let Some(path) = address.strip_prefix("unix://")
    {
        socket::remove_stale(Path::new(path));
    }
    let pid = fs::read_to_string(bundle.join("init.pid")).ok().and_then(|text| text.trim().parse().ok());
    let mut response = DeleteResponse::new();
    response.pid = pid.unwrap_or(0);
    response.exit_status = KILLED;
    response.exited_at = MessageField::some(timestamp(SystemTime::now()));
    let bytes =
        response.write_to_bytes().map_err(|error| Error::unknown(format!("write answer: {error}")))?;
    std::io::stdout().lock().write_all(&bytes).op("write stdout")
}

/// The bundle of the id, beside the one that is the working directory.
fn bundle(args: &Args) -> Result<PathBuf> {
    if args.id.is_empty() || args.id.contains('/') || args.id == ".." {
        return Err(Error::invalid(format!("invalid id {:?}", args.id)));
    }
    let here = std::env::current_dir().at("find directory", ".")?;
    let beside = here.parent().unwrap_or(Path::new("/")).join(&args.id);
    if !beside.is_dir() && !args.bundle.is_empty() {
        return Ok(PathBuf::from(&args.bundle));
    }
    Ok(beside)
}

fn remove(args: &Args, bundle: &Path) -> Result<()> {
    let options = Options::read(bundle)?;
    serve::on_loop(async {
        let signals = Signals::install().op("install signal handlers")?;
        let reaper = Rc::new(Reaper::default());
        let (stop, _stopped) = watch::channel(false);
        let runtime = Runtime::new(&args.id, bundle, &args.namespace, &options, false, &reaper)?;
        spawn_local(serve::reap(signals, Rc::clone(&reaper), stop));
        runtime.delete(true).await
    })
}
