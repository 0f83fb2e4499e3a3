//! Exec, attach and port forward over WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::WebSocket;
use super::handler::{FAILING_PORT, SILENT_PORT};
use super::*;
use crate::spdy::frame::{self, kind};
use crate::spdy::headers::tests::Deflater;

fn text(bytes: Option<&Vec<u8>>) -> &str {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn v5_ends_input_by_its_signal() {
    let daemon = daemon().await;
    let mut ws = WebSocket::connect(&daemon.exec(&["cat"]), "v5.channel.k8s.io").await;
    assert_eq!(ws.see().await, Some((2, vec![1])), "the client is told that it is connected");
    ws.binary(b"\x00hello ").await;
    assert_eq!(ws.see().await, Some((2, b"\x01hello ".to_vec())));
    // In parts, with a ping between them.
    ws.frame(0x02, b"\x00th").await;
    ws.frame(0x89, b"ping").await;
    ws.frame(0x80, b"ere").await;
    ws.binary(&[255, 0]).await;
    let (channels, code) = ws.rest().await;
    assert_eq!(text(channels.get(&1)), "there");
    assert_eq!(text(channels.get(&3)), r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(code, 1000);
    assert_eq!(ws.see().await, None);
    daemon.settles().await;
}

#[tokio::test]
async fn every_protocol_tells_the_outcome_in_its_way() {
    let daemon = daemon().await;
    for (protocol, json) in [
        ("v5.channel.k8s.io", true),
        ("v4.channel.k8s.io", true),
        ("v3.channel.k8s.io", false),
        ("channel.k8s.io", false),
        ("", false),
    ] {
        let mut ws = WebSocket::connect(&daemon.exec(&["exit", "7"]), protocol).await;
        let (channels, code) = ws.rest().await;
        let told = text(channels.get(&3));
        assert_eq!(told.starts_with('{'), json, "{protocol}: {told}");
        assert!(told.contains("exit code 7"), "{protocol}: {told}");
        assert_eq!(code, 1000);
    }
}

#[tokio::test]
async fn base64_travels_as_text() {
    let daemon = daemon().await;
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let mut ws = WebSocket::connect(&daemon.exec(&["cat"]), protocol).await;
        assert_eq!(ws.see().await, Some((1, b"1".to_vec())));
        ws.frame(0x81, format!("0{}", STANDARD.encode("hello")).as_bytes()).await;
        assert_eq!(ws.see().await, Some((1, format!("1{}", STANDARD.encode("hello")).into_bytes())));
        ws.frame(0x88, &[0x03, 0xe8]).await;
        let (_, code) = ws.rest().await;
        assert_eq!(code, 1000, "a close is answered");
    }
    daemon.settles().await;
}

#[tokio::test]
async fn sizes_reach_the_command() {
    let daemon = daemon().await;
    let exec = Exec { tty: true, stderr: false, ..exec(&["sizes", "1"]) };
    let mut ws = WebSocket::connect(&daemon.server.exec_url(exec).unwrap(), "v5.channel.k8s.io").await;
    ws.binary(b"\x04{\"Width\":100,\"Height\":30}").await;
    let (channels, _) = ws.rest().await;
    assert_eq!(text(channels.get(&1)), "100x30\n");
}

#[tokio::test]
async fn ports_are_forwarded_by_channels() {
    let daemon = daemon().await;
    for protocol in ["v4.channel.k8s.io", "portforward.k8s.io", ""] {
        let url = daemon.server.port_forward_url("s", &[8080, FAILING_PORT]).unwrap();
        let mut ws = WebSocket::connect(&url, protocol).await;
        for (channel, port) in [(0, 8080u16), (1, 8080), (2, FAILING_PORT), (3, FAILING_PORT)] {
            let [low, high] = port.to_le_bytes();
            assert_eq!(ws.see().await, Some((2, vec![channel, low, high])));
        }
        let failed = b"\x03error forwarding port 1 to pod s, uid : connection refused".to_vec();
        assert_eq!(ws.see().await, Some((2, failed)));
        ws.binary(b"\x00hello").await;
        assert_eq!(ws.see().await, Some((2, b"\x00HELLO".to_vec())));
        drop(ws);
        daemon.settles().await;
    }
}

#[tokio::test]
async fn what_a_client_has_left_is_left() {
    let daemon = daemon().await;
    let url = daemon.server.port_forward_url("s", &[SILENT_PORT]).unwrap();
    let mut ws = WebSocket::connect(&url, "portforward.k8s.io").await;
    let [low, high] = SILENT_PORT.to_le_bytes();
    assert_eq!(ws.see().await, Some((2, vec![0, low, high])));
    drop(ws);
    daemon.settles().await;
}

#[tokio::test]
async fn spdy_travels_through_a_websocket() {
    let daemon = daemon().await;
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    let mut ws = WebSocket::connect(&url, "SPDY/3.1+portforward.k8s.io").await;
    let mut deflater = Deflater::new();
    let mut out = Vec::new();
    for (id, kind) in [(1u32, "error"), (3, "data")] {
        let block = deflater.block(&[("port", "80"), ("requestid", "0"), ("streamtype", kind)]);
        frame::control(kind::SYN_STREAM, 0, &[&id.to_be_bytes(), &[0; 6], &block], &mut out);
    }
    frame::data(3, false, b"hello", &mut out);
    for piece in out.chunks(7) {
        ws.binary(piece).await;
    }
    let mut expected = Vec::new();
    frame::data(3, false, b"HELLO", &mut expected);
    let mut seen = Vec::new();
    while !seen.ends_with(&expected) {
        let (opcode, payload) = ws.see().await.unwrap();
        assert_eq!(opcode, 2);
        seen.extend(payload);
    }
    ws.frame(0x88, &[0x03, 0xe8]).await;
    while let Some((opcode, _)) = ws.see().await {
        assert!(opcode == 8 || opcode == 2);
    }
    daemon.settles().await;
}
