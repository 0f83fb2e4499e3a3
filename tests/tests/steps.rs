//! The daemon is killed at every named step of pull, create, start, exec, delete and collection; it is started again, and
//! nothing acknowledged is lost, nothing is left over, and the retry of what was cut off succeeds.
//!
//! The steps are found in the sources, so a new one cannot be forgotten. Needs binaries with the feature `failpoints`:
//! `make steps` builds them into `target/failpoints`.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use windlass_tests::{Daemon, Registry};

/// Steps that this scenario does not come by, with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("diff.compare.before-commit", "no command of the scenario makes a layer"),
    ("export.before-write", "an export changes nothing here"),
    ("push.after-plan", "the test's registry takes no pushes; a push changes nothing here"),
    ("push.after-blob", "as above"),
    ("push.after-blobs", "as above"),
];

/// All steps that the sources name; those of pods have a scenario of their own.
fn steps() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let found = windlass_tests::steps::named(root, &["plugins/*.rs", "shim/*.rs"]);
    assert!(found.len() > 20, "the steps are found: {found:?}");
    found
}

/// One container's whole life, and its image's. Answers whether all went well.
fn life(daemon: &Daemon, image: &str) -> Result<(), String> {
    let run = |args: &[&str]| {
        let out = daemon.windlass(args);
        if out.code == 0 { Ok(out.stdout) } else { Err(format!("{args:?}: {}{}", out.stdout, out.stderr)) }
    };
    run(&["pull", "--quiet", image])?;
    run(&["run", "-d", "--name", "c", image, "sleep", "1000"])?;
    let said = run(&["exec", "c", "echo", "inside"])?;
    if said != "inside\n" {
        return Err(format!("exec printed {said:?}"));
    }
    run(&["rm", "--force", "c"])?;
    // A container that ends by itself, and is removed by its client.
    run(&["run", "--rm", "--name", "d", image, "true"])?;
    run(&["rmi", image])?;
    run(&["import", "--quiet", windlass_tests::archive().to_str().unwrap_or_default()])?;
    run(&["rmi", windlass_tests::IMAGE])?;
    Ok(())
}

/// Brings a daemon that was cut off back to empty; everything that is there must be removable.
fn clean(daemon: &Daemon) -> Result<(), String> {
    let removed = daemon.windlass(&["rm", "--force", "--all"]);
    if removed.code != 0 {
        return Err(format!("containers stay: {}", removed.stderr));
    }
    for name in daemon.windlass(&["images", "--quiet"]).ok().lines() {
        let removed = daemon.windlass(&["rmi", name]);
        if removed.code != 0 {
            return Err(format!("image {name} stays: {}", removed.stderr));
        }
    }
    for id in daemon.windlass(&["leases", "ls", "--format", "{{.id}}"]).ok().lines() {
        daemon.windlass(&["leases", "rm", "--sync", id]);
    }
    Ok(())
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// What is on disk although nothing is recorded.
fn rubbish(daemon: &Daemon) -> Vec<String> {
    let mut left = daemon.leftovers();
    for dir in [
        "io.containerd.content.v1.content/blobs/sha256",
        "io.containerd.content.v1.content/ingest",
        "io.containerd.snapshotter.v1.overlayfs/snapshots",
    ] {
        let count = entries(&daemon.root().join(dir));
        if count > 0 {
            left.push(format!("{count} entries in {dir}"));
        }
    }
    left
}

/// Kills at one step. Answers whether the step was reached.
fn kill_at(step: &str, image: &str) -> Result<bool, String> {
    let marks = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mark = marks.path().join("reached");
    let builder = Daemon::builder().failpoints().env("WINDLASS_KILL_MARK", &mark.to_string_lossy());
    let mut daemon = if step.starts_with("restore.") {
        // Something to be found at the start: a container that runs, and one whose shim has died with the daemon.
        let mut daemon = builder.start();
        for args in [
            &["pull", "--quiet", image][..],
            &["run", "-d", "--name", "lives", image, "sleep", "1000"],
            &["run", "-d", "--name", "dead", image, "sleep", "1000"],
        ] {
            daemon.windlass(args).ok();
        }
        daemon.kill_with_shim("dead");
        daemon.set_env("WINDLASS_KILL_AT", Some(step));
        daemon.spawn();
        daemon
    } else {
        builder.env("WINDLASS_KILL_AT", step).spawn()
    };
    // A step of the start itself kills before the daemon answers; everything else kills in the middle of a life.
    let finished = daemon.windlass(&["version", "--wait", "10s"]).code == 0 && life(&daemon, image).is_ok();
    // A client sees the end of its connection before the end of the process can be seen: a daemon that lives answers.
    let mut killed = daemon.ended();
    while killed.is_none() && daemon.windlass(&["version"]).code != 0 {
        killed = daemon.ended();
    }
    let killed = killed.is_some_and(|status| status.signal() == Some(libc::SIGKILL));
    if !finished && !mark.exists() {
        return Err(format!("it fails without having been killed: {}", daemon.log()));
    }
    daemon.set_env("WINDLASS_KILL_AT", None);
    if killed {
        daemon.reap();
    } else {
        // A shim was killed, or nothing. The daemon goes too, since its shims inherit the step.
        daemon.terminate();
    }
    daemon.start();
    clean(&daemon)?;
    life(&daemon, image).map_err(|e| format!("the retry fails: {e}"))?;
    clean(&daemon)?;
    daemon.eventually("nothing is left over", || rubbish(&daemon).is_empty());
    Ok(mark.exists())
}

#[test]
fn a_kill_at_any_step_loses_nothing_and_leaves_nothing() {
    let registry = Registry::start();
    let image = registry.image();
    let (mut reached, mut missed, mut failed) = (0, Vec::new(), Vec::new());
    for step in steps() {
        match kill_at(&step, &image) {
            Ok(true) => reached += 1,
            Ok(false) => missed.push(step),
            Err(error) => failed.push(format!("{step}: {error}")),
        }
    }
    println!("{reached} steps killed at, {} not come by: {}", missed.len(), missed.join(", "));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    missed.retain(|step| !ELSEWHERE.iter().any(|(name, _)| name == step));
    assert!(missed.is_empty(), "steps that no scenario comes by: {}", missed.join(", "));
}
