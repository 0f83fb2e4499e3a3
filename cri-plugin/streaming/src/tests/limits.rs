//! Clients that vanish, flood, stand still or break the protocol: bounded, told, and nothing stays behind.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Seen, Spdy, WebSocket};
use super::*;
use crate::spdy::frame::{self, REFUSED_STREAM, kind};

#[tokio::test]
async fn a_client_that_vanishes_is_told_to_the_command() {
    let daemon = daemon().await;
    let spdy = Spdy::exec(&daemon.exec(&["wait"])).await;
    drop(spdy);
    daemon.told(1).await;
    let ws = WebSocket::connect(&daemon.exec(&["wait"]), "v5.channel.k8s.io").await;
    drop(ws);
    daemon.told(2).await;
    // Whose output fails.
    let spdy = Spdy::exec(&daemon.exec(&["flood", "1000000000"])).await;
    drop(spdy);
    daemon.told(3).await;
    // Whose input ends.
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    spdy.data(3, false, b"x").await;
    assert_eq!(spdy.see().await, Seen::Data(5, b"x".to_vec()));
    drop(spdy);
    daemon.settles().await;
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_while_its_input_stands_still() {
    let daemon = daemon().await;
    for websocket in [false, true] {
        let url = daemon.exec(&["wait"]);
        let mut stream = if websocket {
            let mut ws = WebSocket::connect(&url, "v5.channel.k8s.io").await;
            ws.frame(0x82, b"\0").await;
            // A frame of four gigabytes, none of which anybody reads.
            ws.stream.write_all(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
            ws.stream
        } else {
            let mut spdy = Spdy::exec(&url).await;
            spdy.raw(&[0, 0, 0, 3, 0, 0xff, 0xff, 0xff]).await;
            spdy.stream
        };
        // Until the server takes no more.
        let piece = vec![0; 64 << 10];
        let mut sent = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&piece)).await {
            sent += written.unwrap();
            assert!(sent < 15 << 20, "bounded");
        }
        assert!(sent > 128 << 10, "sent {sent}");
        drop(stream);
        daemon.told(1 + usize::from(websocket)).await;
    }
    daemon.settles().await;
}

#[tokio::test]
async fn descriptors_return_to_base() {
    let daemon = daemon().await;
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let base = descriptors();
    for round in 0..50 {
        let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
        spdy.data(3, false, b"x").await;
        if round % 2 == 0 {
            assert_eq!(spdy.see().await, Seen::Data(5, b"x".to_vec()));
        }
        drop(spdy);
        drop(WebSocket::connect(&daemon.exec(&["wait"]), "v5.channel.k8s.io").await);
    }
    daemon.settles().await;
    within(daemon.server.close()).await;
    // Other tests of this process hold descriptors of their own; a hundred connections would show all the same.
    let now = descriptors();
    assert!(now < base + 80, "{base} before, {now} after");
}

#[tokio::test]
async fn a_slow_client_gets_everything() {
    let daemon = daemon().await;
    let bytes = 8 << 20;
    let mut spdy = Spdy::exec(&daemon.exec(&["flood", &bytes.to_string()])).await;
    // The command is held by its full buffers, not by a clock: it still runs when the client begins to read.
    assert_eq!(*daemon.echo.running().borrow(), 1);
    let (streams, goodbye) = spdy.rest().await;
    assert_eq!(streams[&5].len(), bytes);
    assert_eq!(goodbye, 0);

    let mut ws = WebSocket::connect(&daemon.exec(&["flood", &bytes.to_string()]), "v4.channel.k8s.io").await;
    let (channels, _) = ws.rest().await;
    assert_eq!(channels[&1].len(), bytes);
}

#[tokio::test]
async fn much_input_arrives_whole() {
    let daemon = daemon().await;
    let bytes = 8usize << 20;
    let mut spdy = Spdy::exec(&daemon.exec(&["count"])).await;
    for _ in 0..bytes >> 16 {
        spdy.data(3, false, &[7; 1 << 16]).await;
    }
    spdy.data(3, true, b"").await;
    let (streams, _) = spdy.rest().await;
    assert_eq!(streams[&5], bytes.to_string().into_bytes());

    let mut ws = WebSocket::connect(&daemon.exec(&["count"]), "v5.channel.k8s.io").await;
    for _ in 0..bytes >> 16 {
        ws.binary(&[0; (1 << 16) + 1]).await;
    }
    ws.binary(&[255, 0]).await;
    let (channels, _) = ws.rest().await;
    assert_eq!(channels[&1], bytes.to_string().into_bytes());
}

#[tokio::test]
async fn windows_of_a_client_that_counts_them_are_kept() {
    let daemon = daemon().await;
    let mut spdy = Spdy::connect(&daemon.exec(&["flood", "100000"]), "v4.channel.k8s.io").await;
    spdy.control(kind::SETTINGS, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 10]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        let id = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.see().await, Seen::Reply(id));
    }
    assert_eq!(spdy.see().await, Seen::Data(5, vec![b'x'; 10]));
    spdy.control(kind::PING, 0, &1u32.to_be_bytes()).await;
    assert_eq!(spdy.see().await, Seen::Pong(1), "and not one byte more");
    spdy.control(kind::WINDOW_UPDATE, 0, &[0, 0, 0, 5, 0, 0, 0, 3]).await;
    assert_eq!(spdy.see().await, Seen::Data(5, vec![b'x'; 3]));
    spdy.control(kind::WINDOW_UPDATE, 0, &[0, 0, 0, 5, 0, 2, 0, 0]).await;
    spdy.control(kind::WINDOW_UPDATE, 0, &[0, 0, 0, 1, 0, 2, 0, 0]).await;
    let (streams, _) = spdy.rest().await;
    assert_eq!(streams[&5].len(), 100_000 - 13);
    assert!(!streams[&1].is_empty());
}

#[tokio::test]
async fn the_client_gets_back_the_window_it_used() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["count"])).await;
    spdy.data(3, false, &[0; 40_000]).await;
    let credits = [spdy.see().await, spdy.see().await];
    assert!(credits.contains(&Seen::Credit(0, 40_000)), "{credits:?}");
    assert!(matches!(credits[1], Seen::Credit(3, 32_768..=40_000)), "{credits:?}");
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let daemon = daemon_with(Settings { max_streams: 4, ..Settings::default() }).await;
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    let mut spdy = Spdy::connect(&url, "portforward.k8s.io").await;
    for request in ["0", "1", "2", "3"] {
        let headers = [("port", "80"), ("requestid", request), ("streamtype", "error")];
        let id = spdy.open(&headers).await;
        assert_eq!(spdy.see().await, Seen::Reply(id));
    }
    let id = spdy.open(&[("port", "80"), ("requestid", "4"), ("streamtype", "error")]).await;
    assert_eq!(spdy.see().await, Seen::Reset(id, REFUSED_STREAM));
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let daemon = daemon_with(Settings { max_connections: 1, ..Settings::default() }).await;
    let first = Spdy::exec(&daemon.exec(&["wait"])).await;
    let url = daemon.exec(&["both"]);
    let second = Spdy::connect(&url, "v4.channel.k8s.io");
    tokio::pin!(second);
    tokio::select! {
        _ = &mut second => panic!("there is no room yet"),
        () = tokio::time::sleep(Duration::from_millis(100)) => {}
    }
    drop(first);
    within(second).await;
}

#[tokio::test]
async fn idle_clients_and_those_without_streams_are_cut_off() {
    let settings = Settings {
        idle_timeout: Duration::from_millis(200),
        creation_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let daemon = daemon_with(settings).await;
    let mut spdy = Spdy::exec(&daemon.exec(&["wait"])).await;
    daemon.told(1).await;
    assert_eq!(spdy.rest().await.1, 0);
    let mut spdy = Spdy::connect(&daemon.exec(&["wait"]), "v4.channel.k8s.io").await;
    assert_eq!(spdy.rest().await.1, 0);
    let mut ws = WebSocket::connect(&daemon.exec(&["wait"]), "v5.channel.k8s.io").await;
    daemon.told(2).await;
    assert_eq!(ws.rest().await.1, 1000);
}

#[tokio::test]
async fn broken_spdy_ends_the_connection() {
    let daemon = daemon().await;
    let mut bomb = Vec::new();
    let block = crate::spdy::headers::tests::Deflater::new().raw(&vec![0; 10 << 20]);
    frame::control(kind::SYN_STREAM, 0, &[&9u32.to_be_bytes(), &[0; 6], &block], &mut bomb);
    let cases: &[(&str, &[u8])] = &[
        ("data without a stream", &[0, 0, 0, 0, 0, 0, 0, 1, b'x']),
        ("another version", &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
        ("a long control frame", &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("a short SYN_STREAM", &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9]),
        ("no zlib", &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 2]),
        ("a long PING", &[0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0]),
        ("a short RST_STREAM", &[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0]),
        ("SETTINGS that lie", &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        ("a window too large", &[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]),
        ("too much window", &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
        ("a zip bomb", &bomb),
    ];
    for (what, bytes) in cases {
        let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
        spdy.raw(bytes).await;
        assert_eq!(spdy.see().await, Seen::Goodbye(1), "{what}");
        assert_eq!(spdy.see().await, Seen::Closed, "{what}");
        daemon.settles().await;
    }
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    let block = spdy.deflater.block(&[("streamtype", "resize")]);
    let body = [&2u32.to_be_bytes()[..], &[0; 6], &block].concat();
    spdy.control(kind::SYN_STREAM, 0, &body).await;
    assert_eq!(spdy.see().await, Seen::Goodbye(1), "a stream of the server's");
    // In the middle of a frame.
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    spdy.raw(&[0, 0, 0, 3, 0, 0, 0, 9, b'x']).await;
    spdy.stream.shutdown().await.unwrap();
    while spdy.see().await != Seen::Closed {}
    daemon.settles().await;
}

#[tokio::test]
async fn what_a_spdy_client_may_say_besides_is_ignored() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    spdy.control(77, 0, b"unknown").await;
    spdy.control(kind::GOAWAY, 0, &[0; 8]).await;
    spdy.control(kind::RST_STREAM, 0, &[0, 0, 0, 99, 0, 0, 0, 5]).await;
    spdy.control(kind::PING, 0, &[0, 0, 0, 2]).await;
    let block = spdy.deflater.block(&[("x", "y")]);
    spdy.control(kind::HEADERS, 0, &[&3u32.to_be_bytes()[..], &block].concat()).await;
    spdy.data(99, true, b"to nobody").await;
    spdy.data(3, true, b"hello").await;
    let (streams, _) = spdy.rest().await;
    assert_eq!(streams[&5], b"hello");
}

#[tokio::test]
async fn broken_websockets_are_closed() {
    let daemon = daemon().await;
    let cases: &[(&str, &[u8])] = &[
        ("no mask", &[0x82, 2, 0, b'x']),
        ("an extension", &[0xc2, 0x81, 0, 0, 0, 0, 0]),
        ("an unknown kind", &[0x83, 0x80, 0, 0, 0, 0]),
        ("a long ping", &[0x89, 0xfe, 0, 200, 0, 0, 0, 0]),
        ("a continuation of nothing", &[0x80, 0x81, 0, 0, 0, 0, 0]),
        ("a close signal without a channel", &[0x82, 0x81, 0, 0, 0, 0, 255]),
    ];
    for (what, bytes) in cases {
        let mut ws = WebSocket::connect(&daemon.exec(&["cat"]), "v5.channel.k8s.io").await;
        ws.stream.write_all(bytes).await.unwrap();
        assert_eq!(ws.rest().await.1, 1002, "{what}");
        daemon.settles().await;
    }
}

#[tokio::test]
async fn floods_of_pings_wait_for_their_answers_to_be_read() {
    let daemon = daemon().await;
    let mut spdy = Spdy::exec(&daemon.exec(&["cat"])).await;
    let mut pings = Vec::new();
    for _ in 0..4096 {
        frame::control(kind::PING, 0, &[&1u32.to_be_bytes()], &mut pings);
    }
    // Until the server reads no more, because nobody reads its answers.
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), spdy.stream.write(&pings[sent % 12..])).await
    {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "bounded");
    }
    let mut answer = [0; 12];
    within(spdy.stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer[..4], &[0x80, 3, 0, 6]);
    drop(spdy);
    daemon.settles().await;
}
