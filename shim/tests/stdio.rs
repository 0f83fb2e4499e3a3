//! Streams in all their forms, over the wire.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use common::*;
use windlass_api::shim::task_v3 as api;

async fn finish(task: &Task, want: u32) {
    assert_eq!(task.wait("").await, want);
    task.delete("").await.unwrap();
    task.shutdown().await;
}

#[test]
fn fifos_carry_everything_and_end() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let script = "cat; echo error >&2; head -c 1000000 /dev/zero; exit 6";
        let task = daemon.task("fifo", script, |_| {}).await;
        let (input, output, errors) = (task.fifo("in"), task.fifo("out"), task.fifo("err"));
        let (stdout, stderr) = (reader(&output), reader(&errors));
        task.create(|request| {
            request.stdin = input.display().to_string();
            request.stdout = output.display().to_string();
            request.stderr = errors.display().to_string();
        })
        .await;
        task.start("").await;
        let writer = tokio::task::spawn_blocking(move || {
            let mut file = fs::OpenOptions::new().write(true).open(&input).unwrap();
            file.write_all(b"first ").unwrap();
            drop(file);
            // A client that detaches and comes back.
            let mut file = fs::OpenOptions::new().write(true).open(&input).unwrap();
            file.write_all(b"second\n").unwrap();
        });
        writer.await.unwrap();
        task.close_io("").await;
        let stdout = text(stdout).await;
        assert!(stdout.starts_with("first second\n"));
        assert_eq!(stdout.len(), "first second\n".len() + 1_000_000);
        assert_eq!(text(stderr).await, "error\n");
        finish(&task, 6).await;
    });
}

#[test]
fn a_reader_may_come_late_and_go_early() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("late", "echo one; cat; echo two", |_| {}).await;
        let (input, output) = (task.fifo("in"), task.fifo("out"));
        task.create(|request| {
            request.stdin = input.display().to_string();
            request.stdout = output.display().to_string();
        })
        .await;
        task.start("").await;
        let first = tokio::task::spawn_blocking({
            let output = output.clone();
            move || {
                let mut bytes = [0u8; 4];
                std::io::Read::read_exact(&mut fs::File::open(output).unwrap(), &mut bytes).unwrap();
                bytes
            }
        });
        assert_eq!(&first.await.unwrap(), b"one\n");
        // Nobody reads now; the process must not notice.
        task.close_io("").await;
        assert_eq!(task.wait("").await, 0);
        assert_eq!(text(reader(&output)).await, "two\n");
        finish(&task, 0).await;
    });
}

#[test]
fn a_log_file_takes_both_streams() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("file", "echo out; echo err >&2", |_| {}).await;
        let path = daemon.dir.path().join("logs/a b.log");
        let uri = format!("file://{}", path.display()).replace(' ', "%20");
        task.create(|request| {
            request.stdout = uri.clone();
            request.stderr = uri;
        })
        .await;
        task.start("").await;
        finish(&task, 0).await;
        let log = fs::read_to_string(path).unwrap();
        assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    });
}

#[test]
fn a_logger_gets_the_streams_and_its_environment() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("logger", "echo out; echo err >&2", |_| {}).await;
        let log = daemon.dir.path().join("log");
        let program = daemon.dir.path().join("logger.sh");
        let script = format!(
            "#!/bin/sh\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" > {log}\nexec 5>&-\ncat <&3 >> {log}\ncat <&4 >> {log}\n",
            log = log.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        task.create(|request| request.stdout = format!("binary://{}?key=value", program.display())).await;
        task.start("").await;
        finish(&task, 0).await;
        assert_eq!(fs::read_to_string(log).unwrap(), "logger test key value\nout\nerr\n");
    });
}

#[test]
fn a_terminal_is_read_written_and_resized() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon
            .task("tty", "read x; stty size; echo got $x", |spec| spec["process"]["terminal"] = true.into())
            .await;
        let (input, output) = (task.fifo("in"), task.fifo("out"));
        let stdout = reader(&output);
        task.create(|request| {
            request.terminal = true;
            request.stdin = input.display().to_string();
            request.stdout = output.display().to_string();
        })
        .await;
        task.start("").await;
        let mut request = api::ResizePtyRequest::new();
        request.id = task.id.clone();
        (request.width, request.height) = (91, 37);
        task.task.resize_pty(context(), &request).await.unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&input).unwrap();
        file.write_all(b"hello\n").unwrap();
        let stdout = text(stdout).await;
        assert!(stdout.contains("37 91") && stdout.contains("got hello"), "{stdout}");
        finish(&task, 0).await;
    });
}

#[test]
fn an_exec_has_streams_of_its_own() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("exec", "sleep 1000", |_| {}).await;
        task.create(|_| {}).await;
        task.start("").await;
        let (input, output) = (task.fifo("in"), task.fifo("out"));
        let stdout = reader(&output);
        task.exec("e", "cat; ls /proc/self/fd", |request| {
            request.stdin = input.display().to_string();
            request.stdout = output.display().to_string();
        })
        .await
        .unwrap();
        task.start("e").await;
        fs::write(&input, "to exec\n").unwrap();
        task.close_io("e").await;
        assert_eq!(task.wait("e").await, 0);
        // `ls` itself opens the directory it lists.
        assert_eq!(text(stdout).await, "to exec\n0\n1\n2\n3\n");
        task.delete("e").await.unwrap();

        let output = task.fifo("tty-out");
        let stdout = reader(&output);
        task.exec("t", "echo on a terminal; kill -0 $$ && test -t 0 && test -t 1 && echo yes", |request| {
            request.terminal = true;
            request.stdout = output.display().to_string();
        })
        .await
        .unwrap();
        task.start("t").await;
        assert_eq!(task.wait("t").await, 0);
        assert!(text(stdout).await.contains("yes"));
        task.delete("t").await.unwrap();
        task.kill("", 9).await.unwrap();
        finish(&task, 137).await;
    });
}

#[test]
fn streams_that_cannot_be_opened_fail_the_create() {
    each(|runtime| async move {
        let daemon = Daemon::new(runtime).await;
        let task = daemon.task("missing", "true", |_| {}).await;
        for (stdout, words) in
            [("/no/such/fifo", "no such file or directory"), ("ftp:///x", "unknown STDIO scheme ftp")]
        {
            let mut request = task.create_request();
            request.stdout = stdout.into();
            let error = task.task.create(context(), &request).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            task.nothing_left();
        }
        task.shutdown().await;
    });
}
