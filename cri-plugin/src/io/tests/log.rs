//! The log: its format on disk, reopening, disks that are full, paths that are not to be written to.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use windlass_core::Class;

use super::*;

#[tokio::test]
async fn both_streams_go_to_the_log() {
    let rig = Rig::new();
    let io = rig.create().await;
    let names = io.io();
    assert_eq!(std::fs::metadata(rig.state().join("c1")).unwrap().permissions().mode() & 0o7777, 0o700);
    let mut shim = Shim::open(&names);
    shim.stdout.say("out 1\nout");
    until("a line", || rig.seen() == ["stdout F out 1"]).await;
    shim.err().say("err 1\r\n\n");
    until("lines", || rig.seen().len() == 3).await;
    shim.stdout.say(" 2\nno end");
    until("a line", || rig.seen().len() == 4).await;
    assert!(!io.wait(Duration::from_millis(1)).await, "the process lives");
    drop(shim);
    assert!(io.wait(LONG).await);
    assert_eq!(
        rig.lines(),
        ["stdout F out 1", "stderr F err 1", "stderr F ", "stdout F out 2", "stdout P no end"]
    );
    let metadata = std::fs::metadata(&rig.log).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    io.close().await;
}

#[tokio::test]
async fn a_terminal_has_one_output_and_long_lines_are_split() {
    let rig = Rig { terminal: true, limit: 10, ..Rig::new() };
    let io = rig.create().await;
    assert_eq!((io.io().stderr.as_str(), io.io().terminal), ("", true));
    let mut shim = Shim::open(&io.io());
    shim.stdout.say("0123456789\r\n0123456789a\r\n");
    shim.stdout.say(vec![b'x'; 25]);
    until("parts", || rig.seen().len() == 5).await;
    drop(shim);
    assert!(io.wait(LONG).await);
    let (ten, part) = ("x".repeat(10), "x".repeat(5));
    assert_eq!(rig.lines()[..3], ["stdout F 0123456789", "stdout P 0123456789", "stdout F a"]);
    assert_eq!(
        rig.lines()[3..],
        [format!("stdout P {ten}"), format!("stdout P {ten}"), format!("stdout P {part}")]
    );
}

#[tokio::test]
async fn without_a_limit_a_line_is_as_long_as_it_is() {
    let rig = Rig { limit: -1, ..Rig::new() };
    let io = rig.create().await;
    let shim = Shim::open(&io.io());
    blocking(move || {
        let mut shim = shim;
        shim.stdout.say(vec![b'y'; 700_000]);
        shim.stdout.say("\n");
        shim.stdout.say(vec![b'z'; 1_500_000]);
    })
    .await;
    assert!(io.wait(LONG).await);
    let lengths: Vec<_> = rig.lines().iter().map(|line| (line[7..8].to_owned(), line.len() - 9)).collect();
    assert_eq!(lengths, [("F".into(), 700_000), ("P".into(), 1 << 20), ("P".into(), 1_500_000 - (1 << 20))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopening_under_load_loses_and_tears_nothing() {
    let rig = Rig::new();
    let io = rig.create().await;
    let Shim { mut stdout, stderr } = Shim::open(&io.io());
    let mut stderr = stderr.unwrap();
    const LINES: usize = 100_000;
    let out = tokio::task::spawn_blocking(move || (0..LINES).for_each(|n| stdout.say(format!("o {n}\n"))));
    let err = tokio::task::spawn_blocking(move || (0..LINES).for_each(|n| stderr.say(format!("e {n}\n"))));
    let mut rotated = Vec::new();
    while !(out.is_finished() && err.is_finished()) && rotated.len() < 500 {
        let old = rig.log.with_extension(rotated.len().to_string());
        std::fs::rename(&rig.log, &old).unwrap();
        io.reopen_log().await.unwrap();
        rotated.push(old);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    out.await.unwrap();
    err.await.unwrap();
    assert!(io.wait(LONG).await);
    rotated.push(rig.log.clone());
    assert!(rotated.len() > 5);
    let all: Vec<String> = rotated.iter().flat_map(|path| lines(path)).collect();
    for (prefix, stream) in [("stdout F o ", "stdout"), ("stderr F e ", "stderr")] {
        let numbers =
            all.iter().filter(|line| line.starts_with(stream)).map(|line| line.strip_prefix(prefix).unwrap());
        assert!(
            numbers.eq((0..LINES).map(|n| n.to_string()).collect::<Vec<_>>()),
            "{stream} lost or tore lines"
        );
    }
}

struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf, options: &std::ffi::CStr) -> Small {
        std::fs::create_dir_all(&path).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_holds_nobody_up_and_the_log_goes_on_when_there_is_room() {
    let rig = Rig::new();
    let small = Small::mount(rig.log.parent().unwrap().to_owned(), c"size=1m");
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![0; 900 << 10]).unwrap();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    let mut shim = blocking(move || {
        (0..50_000).for_each(|n| shim.stdout.say(format!("before {n}\n")));
        shim
    })
    .await;
    until("the disk is full", || std::fs::metadata(&rig.log).unwrap().len() > 50 << 10).await;
    let before = rig.seen().len();
    assert!(before < 50_000);
    std::fs::remove_file(ballast).unwrap();
    // What comes first may still meet the full disk.
    let mut n = 0;
    let deadline = std::time::Instant::now() + LONG;
    while !rig.seen().iter().any(|line| line.starts_with("stdout F after")) {
        shim.stdout.say(format!("after {n}\n"));
        n += 1;
        assert!(std::time::Instant::now() < deadline, "the log did not go on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(shim);
    assert!(io.wait(LONG).await);
    let found = rig.lines();
    // Whole lines only, in order; `lines` has seen that none is torn.
    assert!(
        found.iter().all(|line| line.starts_with("stdout F before ") || line.starts_with("stdout F after "))
    );
    assert_eq!(found[0], "stdout F before 0");
    assert_eq!(found[found.len() - 1], format!("stdout F after {}", n - 1));
}

#[tokio::test]
async fn a_full_state_directory_holds_nobody_up() {
    let rig = Rig::new();
    let small = Small::mount(rig.state(), c"size=64k");
    let io = rig.create().await;
    let mut ballast = Vec::new();
    for n in 0..20 {
        ballast.push(std::fs::write(small.0.join(format!("b{n}")), [0; 4096]).is_ok());
    }
    assert!(ballast.contains(&false), "the disk is full");
    let shim = Shim::open(&io.io());
    blocking(move || {
        let mut shim = shim;
        (0..20_000).for_each(|n| shim.stdout.say(format!("line {n}\n")));
    })
    .await;
    assert!(io.wait(LONG).await);
    let text: String = rig
        .lines()
        .iter()
        .map(|line| match line.split_at(9) {
            ("stdout F ", content) => format!("{content}\n"),
            ("stdout P ", content) => content.to_owned(),
            _ => panic!("bad line {line}"),
        })
        .collect();
    assert_eq!(text, (0..20_000).map(|n| format!("line {n}\n")).collect::<String>());
}

#[tokio::test]
async fn hostile_paths_and_names_are_refused() {
    let rig = Rig::new();
    let dir = rig.dir.path();
    std::fs::write(dir.join("target"), "precious").unwrap();
    std::os::unix::fs::symlink(dir.join("target"), dir.join("link")).unwrap();
    std::os::unix::fs::symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
    super::super::fifo::make(&dir.join("fifo")).unwrap();
    std::fs::create_dir(dir.join("directory")).unwrap();
    let paths = [
        dir.join("link"),
        dir.join("dangling"),
        dir.join("fifo"),
        dir.join("logs/../target"),
        PathBuf::from("relative/0.log"),
        PathBuf::from("/dev/null"),
    ];
    for path in paths {
        let made = ContainerIo::create(&rig.state(), "c1", false, false, false, Some(&path), -1).await;
        let error = made.err().unwrap_or_else(|| panic!("{} was taken", path.display()));
        assert_eq!(error.class(), Class::InvalidArgument, "{}", error.chain());
        assert!(!rig.state().join("c1").exists());
    }
    for path in [dir.join("directory"), dir.join("target/0.log")] {
        assert!(ContainerIo::create(&rig.state(), "c1", false, false, false, Some(&path), -1).await.is_err());
    }
    assert_eq!(std::fs::read(dir.join("target")).unwrap(), b"precious");
    assert!(!dir.join("nowhere").exists());
    for id in ["", ".", "..", "../x", "a/b", "a\0b", &"a".repeat(300)] {
        let made = ContainerIo::create(&rig.state(), id, false, false, false, Some(&rig.log), -1).await;
        assert_eq!(made.err().unwrap().class(), Class::InvalidArgument, "{id:?}");
    }
}

#[tokio::test]
async fn a_log_that_turns_into_something_else_is_not_reopened() {
    let rig = Rig::new();
    let io = rig.create().await;
    let mut shim = Shim::open(&io.io());
    shim.stdout.say("1\n");
    until("a line", || rig.seen().len() == 1).await;
    let old = rig.log.with_extension("old");
    std::fs::rename(&rig.log, &old).unwrap();
    std::os::unix::fs::symlink(rig.dir.path().join("elsewhere"), &rig.log).unwrap();
    assert_eq!(io.reopen_log().await.unwrap_err().class(), Class::InvalidArgument);
    // It goes on where it was.
    shim.stdout.say("2\n");
    until("a line", || seen(&old).len() == 2).await;
    assert!(!rig.dir.path().join("elsewhere").exists());
}
