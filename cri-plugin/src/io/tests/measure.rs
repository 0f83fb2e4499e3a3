//! Figures: run with `--ignored --nocapture`, one at a time.

use std::time::Instant;

use super::*;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    for length in [1usize, 20, 100, 1000, 16_000] {
        let rig = Rig::new();
        let io = rig.create().await;
        let shim = Shim::open(&io.io());
        let mut lines = vec![b'x'; length];
        lines.push(b'\n');
        let chunk = lines.repeat((64 << 10) / lines.len());
        let total: usize = if length < 20 { 32 << 20 } else { 400 << 20 };
        let (log, begun) = (rig.log.clone(), Instant::now());
        blocking(move || {
            let (mut shim, mut left) = (shim, total);
            while left > chunk.len() {
                shim.stdout.say(&chunk);
                left -= chunk.len();
                // The log is not what is measured: do not fill the memory with it.
                if left % (16 << 20) < chunk.len() {
                    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
                }
            }
        })
        .await;
        assert!(io.wait(LONG).await);
        let rate = total as f64 / begun.elapsed().as_secs_f64() / 1e6;
        eprintln!("lines of {length} bytes: {rate:.0} MB/s, {:.2} M lines/s", rate / (length + 1) as f64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn single_lines() {
    let rig = Rig::new();
    let io = rig.create().await;
    let shim = Shim::open(&io.io());
    let log = rig.log.clone();
    let (mut worst, begun) = (Duration::ZERO, Instant::now());
    blocking(move || {
        let (mut shim, mut size) = (shim, 0);
        for _ in 0..20_000 {
            let said = Instant::now();
            shim.stdout.say("a line of an ordinary length, as services write them\n");
            while std::fs::metadata(&log).unwrap().len() == size {
                std::hint::spin_loop();
            }
            size = std::fs::metadata(&log).unwrap().len();
            worst = worst.max(said.elapsed());
        }
        eprintln!("one line until it is in the log: {:?}, at worst {worst:?}", begun.elapsed() / 20_000);
    })
    .await;
    drop(io);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn memory_of_500() {
    let rig = Rig::new();
    let make = async |n: usize| {
        let log = rig.dir.path().join(format!("logs/{n}.log"));
        let (state, id) = (rig.state(), format!("c{n}"));
        let io = ContainerIo::create(&state, &id, false, false, false, Some(&log), 16_384).await.unwrap();
        let shim = Shim::open(&io.io());
        (io, shim)
    };
    let warm = make(0).await;
    let before = resident();
    let begun = Instant::now();
    let mut all = Vec::with_capacity(500);
    for n in 1..=500 {
        all.push(make(n).await);
    }
    let (made, idle) = (begun.elapsed(), resident());
    for (_, shim) in &mut all {
        shim.stdout.say("a line\n");
        shim.err().say("a line\n");
    }
    until("all lines", || (1..=500).all(|n| seen(&rig.dir.path().join(format!("logs/{n}.log"))).len() == 2))
        .await;
    let after = resident();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    eprintln!(
        "500 idle: {} KiB more than before ({made:?} to make), {} KiB after a line each, {fds} fds (4 of them the shim's, each)",
        idle - before,
        after - before
    );
    drop((warm, all));
}
