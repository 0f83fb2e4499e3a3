//! Exec, attach and port forward over SPDY.

use super::client::{Seen, Spdy};
use super::handler::FAILING_PORT;
use super::*;
use crate::spdy::frame::{CANCEL, PROTOCOL_ERROR, kind};

fn text(bytes: Option<&Vec<u8>>) -> &str {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn a_command_gets_its_input_and_gives_its_output_and_status() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    spdy.data(3, false, b"hello ").await;
    assert_eq!(spdy.see().await, Seen::Data(5, b"hello ".to_vec()));
    spdy.data(3, true, b"there").await;
    let (streams, goodbye) = spdy.rest().await;
    assert_eq!(text(streams.get(&5)), "there");
    assert_eq!(text(streams.get(&1)), r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(goodbye, 0);
    assert_eq!(spdy.see().await, Seen::Closed);
    daemon.settles().await;
}

#[tokio::test]
async fn output_and_errors_go_their_own_ways_and_end() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["both"])).await;
    let (mut data, mut ends) = (Vec::new(), Vec::new());
    loop {
        match spdy.see().await {
            Seen::Data(id, bytes) => data.push((id, String::from_utf8(bytes).unwrap())),
            Seen::End(id) => ends.push(id),
            Seen::Goodbye(0) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(data.contains(&(5, "to stdout".into())), "{data:?}");
    assert!(data.contains(&(7, "to stderr".into())), "{data:?}");
    ends.sort_unstable();
    assert_eq!(ends, [1, 3, 5, 7], "each stream ends");
}

#[tokio::test]
async fn exit_codes_and_errors_are_told() {
    let daemon = daemon().await;
    let (streams, _) = Spdy::exec(&daemon.exec(&["exit", "3"])).await.rest().await;
    let status: serde_json::Value = serde_json::from_slice(&streams[&1]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");

    let (streams, _) = Spdy::exec(&daemon.exec(&["no-such-command"])).await.rest().await;
    assert!(text(streams.get(&1)).contains("executable file not found"));
    let (streams, _) = Spdy::exec(&daemon.exec(&["panic"])).await.rest().await;
    assert!(text(streams.get(&1)).contains("handler panicked"));
}

#[tokio::test]
async fn older_protocols_get_text_and_no_success() {
    let daemon = daemon().await;
    for (protocol, cmd, expected) in [
        ("v3.channel.k8s.io", "exit", "exit code 3"),
        ("v2.channel.k8s.io", "exit", "exit code 3"),
        ("channel.k8s.io", "exit", "exit code 3"),
        ("v9.channel.k8s.io, v2.channel.k8s.io", "both", ""),
    ] {
        let mut spdy = Spdy::connect(&daemon.exec(&[cmd, "3"]), protocol).await;
        for kind in ["error", "stdin", "stdout", "stderr"] {
            spdy.open(&[("streamtype", kind)]).await;
        }
        let (streams, _) = spdy.rest().await;
        let told = text(streams.get(&1));
        assert!(told.ends_with(expected) && told.is_empty() == expected.is_empty(), "{protocol}: {told}");
    }
}

#[tokio::test]
async fn attaching_moves_bytes_and_tells_errors() {
    let daemon = daemon().await;
    for (container, expected) in [("c", "Success"), ("missing", "no such container")] {
        let mut spdy = Spdy::connect(&daemon.attach(container), "v4.channel.k8s.io").await;
        for kind in ["error", "stdin", "stdout"] {
            spdy.open(&[("streamtype", kind)]).await;
        }
        spdy.data(3, true, b"hello").await;
        let (streams, _) = spdy.rest().await;
        assert!(text(streams.get(&1)).contains(expected));
        assert_eq!(text(streams.get(&5)), if container == "c" { "hello" } else { "" });
    }
}

#[tokio::test]
async fn a_command_on_a_terminal_waits_for_the_stream_of_sizes() {
    let daemon = daemon().await;
    // This one would end before it has come, if it did not wait.
    let brief = Exec { tty: true, stderr: false, ..exec(&["exit", "3"]) };
    let mut spdy = Spdy::connect(&daemon.server.exec_url(brief).unwrap(), "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "resize"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let id = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.see().await, Seen::Reply(id));
    }
    let (streams, _) = spdy.rest().await;
    assert!(text(streams.get(&1)).contains("NonZeroExitCode"));

    let exec = Exec { tty: true, stderr: false, ..exec(&["sizes", "2"]) };
    let mut spdy = Spdy::connect(&daemon.server.exec_url(exec).unwrap(), "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout"] {
        let id = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.see().await, Seen::Reply(id));
    }
    let resize = spdy.open(&[("streamtype", "resize")]).await;
    assert_eq!(spdy.see().await, Seen::Reply(resize));
    spdy.data(resize, false, b"{\"Width\":120,\"Height\":40}\n{\"Width\":8").await;
    assert_eq!(spdy.see().await, Seen::Data(5, b"120x40\n".to_vec()));
    spdy.data(resize, false, b"0,\"Height\":24}\n").await;
    let (streams, _) = spdy.rest().await;
    assert_eq!(text(streams.get(&5)), "80x24\n");
}

#[tokio::test]
async fn unknown_and_repeated_streams_are_refused() {
    let daemon = daemon().await;
    let mut spdy = Spdy::connect(&daemon.exec(&["cat"]), "v4.channel.k8s.io").await;
    let id = spdy.open(&[("streamtype", "something")]).await;
    assert_eq!(spdy.see().await, Seen::Reset(id, PROTOCOL_ERROR));
    let id = spdy.open(&[("streamtype", "error")]).await;
    assert_eq!(spdy.see().await, Seen::Reply(id));
    let id = spdy.open(&[("streamtype", "error")]).await;
    assert_eq!(spdy.see().await, Seen::Reset(id, PROTOCOL_ERROR));
}

#[tokio::test]
async fn connections_are_forwarded_side_by_side() {
    let daemon = daemon().await;
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    let mut spdy = Spdy::connect(&url, "portforward.k8s.io").await;
    for request in ["0", "1"] {
        let headers = [("port", "80"), ("requestid", request), ("streamtype", "error")];
        let error = spdy.open(&headers).await;
        assert_eq!(spdy.see().await, Seen::Reply(error));
        spdy.data(error, true, b"").await;
        let data = spdy.open(&[("port", "80"), ("requestid", request), ("streamtype", "data")]).await;
        assert_eq!(spdy.see().await, Seen::Reply(data));
    }
    spdy.data(3, false, b"first").await;
    assert_eq!(spdy.see().await, Seen::Data(3, b"FIRST".to_vec()));
    spdy.data(7, true, b"second").await;
    assert_eq!(spdy.see().await, Seen::Data(7, b"SECOND".to_vec()));
    let ends = [spdy.see().await, spdy.see().await];
    assert!(ends.contains(&Seen::End(7)) && ends.contains(&Seen::End(5)), "{ends:?}");
    // A client that resets a stream ends that connection alone.
    spdy.control(kind::RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5]).await;
    assert_eq!(spdy.see().await, Seen::End(1));
    daemon.settles().await;
    drop(spdy);
}

#[tokio::test]
async fn a_forward_that_fails_says_why_and_leaves_the_others() {
    let daemon = daemon().await;
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    let mut spdy = Spdy::connect(&url, "portforward.k8s.io").await;
    // Without request ids, as old clients do.
    let port = FAILING_PORT.to_string();
    let error = spdy.open(&[("port", &port), ("streamtype", "error")]).await;
    let data = spdy.open(&[("port", &port), ("streamtype", "data")]).await;
    let (mut told, mut reset) = (String::new(), false);
    while !reset {
        match spdy.see().await {
            Seen::Data(id, bytes) if id == error => told.push_str(std::str::from_utf8(&bytes).unwrap()),
            Seen::Reset(id, CANCEL) if id == data => reset = true,
            Seen::Closed => panic!("closed"),
            _ => {}
        }
    }
    while told.is_empty() {
        if let Seen::Data(_, bytes) = spdy.see().await {
            told.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
    assert_eq!(told, "error forwarding port 1 to pod s, uid : connection refused");
    spdy.open(&[("port", "80"), ("requestid", "x"), ("streamtype", "error")]).await;
    let data = spdy.open(&[("port", "80"), ("requestid", "x"), ("streamtype", "data")]).await;
    spdy.data(data, false, b"still here").await;
    while spdy.see().await != Seen::Data(data, b"STILL HERE".to_vec()) {}
    for (headers, why) in [
        ([("port", "0"), ("streamtype", "data")], "a port of nothing"),
        ([("port", "80"), ("streamtype", "stdin")], "another type"),
        ([("port", "65536"), ("streamtype", "data")], "a port too far"),
    ] {
        let id = spdy.open(&headers).await;
        let mut seen = spdy.see().await;
        while matches!(seen, Seen::End(_)) {
            seen = spdy.see().await;
        }
        assert_eq!(seen, Seen::Reset(id, PROTOCOL_ERROR), "{why}");
    }
}

#[tokio::test]
async fn half_a_pair_times_out() {
    let settings = Settings { creation_timeout: Duration::from_millis(50), ..Settings::default() };
    let daemon = daemon_with(settings).await;
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    let mut spdy = Spdy::connect(&url, "portforward.k8s.io").await;
    let id = spdy.open(&[("port", "80"), ("requestid", "9"), ("streamtype", "error")]).await;
    assert_eq!(spdy.see().await, Seen::Reply(id));
    assert_eq!(spdy.see().await, Seen::Data(id, b"request 9: timed out waiting for streams".to_vec()));
    assert_eq!(spdy.see().await, Seen::End(id));
}

#[tokio::test]
async fn pings_are_answered() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    for number in [1u32, 3] {
        spdy.control(kind::PING, 0, &number.to_be_bytes()).await;
        assert_eq!(spdy.see().await, Seen::Pong(number));
    }
}
