//! Runs bundles as `runc` does, for comparison and for measuring:
//! `oci run BUNDLE ID`, and `oci bench BUNDLE COUNT`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use windlass_oci_runtime::{Container, CreateOptions, OomScore, Result, Stdio};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match args.as_slice() {
        [_, "run", bundle, id] => run(Path::new(bundle), id),
        [_, "bench", bundle, count] => bench(Path::new(bundle), count.parse().unwrap_or(100)),
        _ => {
            eprintln!("usage: oci run BUNDLE ID | oci bench BUNDLE COUNT");
            std::process::exit(2);
        }
    };
    match code {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("oci: {}", error.report());
            std::process::exit(255);
        }
    }
}

fn root() -> std::path::PathBuf {
    Path::new("/dev/shm").join(format!("oci-example-{}", std::process::id()))
}

fn duplicate(fd: i32) -> Option<OwnedFd> {
    use std::os::fd::BorrowedFd;
    // SAFETY: the standard streams are open for the whole life of this program.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().ok()
}

fn wait(pidfd: &impl AsRawFd) -> i32 {
    // SAFETY: `info` is valid for writing, zero is a valid siginfo_t.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, &mut info, libc::WEXITED);
        if info.si_code == libc::CLD_EXITED { info.si_status() } else { 128 + info.si_status() }
    }
}

fn run(bundle: &Path, id: &str) -> Result<i32> {
    let root = root();
    let mut options = CreateOptions::new(id, bundle, &root);
    options.stdio = Stdio::Fds { stdin: duplicate(0), stdout: duplicate(1), stderr: duplicate(2) };
    options.oom_score = OomScore::Clamp;
    let mut container = Container::create(options)?;
    let started = container.start();
    let code = container.pidfd().map_or(255, |fd| wait(&fd));
    container.delete(true)?;
    started?;
    let _ = std::fs::remove_dir(root);
    Ok(code)
}

fn bench(bundle: &Path, count: usize) -> Result<i32> {
    let root = root();
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..count {
        let mut options = CreateOptions::new("bench", bundle, &root);
        options.oom_score = OomScore::Clamp;
        let start = Instant::now();
        let mut container = Container::create(options)?;
        let created = Instant::now();
        container.start()?;
        let started = Instant::now();
        container.pidfd().map(|fd| wait(&fd));
        let ended = Instant::now();
        container.delete(false)?;
        let deleted = Instant::now();
        let steps = [created - start, started - created, ended - started, deleted - ended, deleted - start];
        for (list, step) in times.iter_mut().zip(steps) {
            list.push(step);
        }
    }
    for (name, list) in ["create", "start", "wait", "delete", "all"].iter().zip(&mut times) {
        list.sort();
        let at = |part: f64| list[((list.len() - 1) as f64 * part) as usize];
        println!("{name:8} median {:>10.2?}  p10 {:>10.2?}  p90 {:>10.2?}", at(0.5), at(0.1), at(0.9));
    }
    let _ = std::fs::remove_dir(root);
    Ok(0)
}
