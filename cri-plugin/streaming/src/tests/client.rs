//! Clients made by hand: an upgrade, then frames.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;
use crate::spdy::frame::{self, Head, kind};
use crate::spdy::headers::tests::Deflater;

/// Splits a URL into its address and its path.
pub fn split(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").unwrap().1;
    rest.split_at(rest.find('/').unwrap())
}

/// Sends a request and returns the connection and the head of the answer.
pub async fn request(url: &str, method: &str, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let (address, path) = split(url);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(within(stream.read_u8()).await.unwrap());
    }
    (stream, String::from_utf8(answer).unwrap())
}

/// What a SPDY client gets to see.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Reply(u32),
    Data(u32, Vec<u8>),
    End(u32),
    Reset(u32, u32),
    Credit(u32, u32),
    Pong(u32),
    Goodbye(u32),
    Closed,
}

pub struct Spdy {
    pub stream: TcpStream,
    pub deflater: Deflater,
    next: u32,
    /// A stream whose end came with its last data.
    ended: Option<u32>,
}

impl Spdy {
    pub async fn connect(url: &str, protocols: &str) -> Self {
        let headers =
            [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocols)];
        let (stream, answer) = request(url, "POST", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        Self { stream, deflater: Deflater::new(), next: 1, ended: None }
    }

    /// Connects and opens the streams of an exec, which get the numbers 1, 3, 5 and 7.
    pub async fn exec(url: &str) -> Self {
        let mut spdy = Self::connect(url, "v4.channel.k8s.io").await;
        for kind in ["error", "stdin", "stdout", "stderr"] {
            let id = spdy.open(&[("streamtype", kind)]).await;
            assert_eq!(spdy.see().await, Seen::Reply(id));
        }
        spdy
    }

    pub async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let block = self.deflater.block(headers);
        self.control(kind::SYN_STREAM, 0, &[&id.to_be_bytes()[..], &[0; 6], &block].concat()).await;
        id
    }

    pub async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) {
        let mut out = Vec::new();
        frame::control(kind, flags, &[body], &mut out);
        self.raw(&out).await;
    }

    pub async fn data(&mut self, id: u32, end: bool, payload: &[u8]) {
        let mut out = Vec::new();
        frame::data(id, end, payload, &mut out);
        self.raw(&out).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next frame; the end of a stream counts as one of its own.
    pub async fn see(&mut self) -> Seen {
        if let Some(id) = self.ended.take() {
            return Seen::End(id);
        }
        within(self.frame()).await
    }

    async fn frame(&mut self) -> Seen {
        let mut head = [0; frame::HEAD];
        if self.stream.read_exact(&mut head).await.is_err() {
            return Seen::Closed;
        }
        let head = Head::parse(head);
        let (Head::Data { length, .. } | Head::Control { length, .. }) = head;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        match head {
            Head::Data { stream, end: true, length: 0 } => Seen::End(stream),
            Head::Data { stream, end, .. } => {
                self.ended = end.then_some(stream);
                Seen::Data(stream, body)
            }
            Head::Control { kind: kind::SYN_REPLY, .. } => Seen::Reply(word(0)),
            Head::Control { kind: kind::RST_STREAM, .. } => Seen::Reset(word(0), word(4)),
            Head::Control { kind: kind::WINDOW_UPDATE, .. } => Seen::Credit(word(0), word(4)),
            Head::Control { kind: kind::PING, .. } => Seen::Pong(word(0)),
            Head::Control { kind: kind::GOAWAY, .. } => Seen::Goodbye(word(4)),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// All bytes by stream until the server says goodbye, and what it says.
    pub async fn rest(&mut self) -> (HashMap<u32, Vec<u8>>, u32) {
        let mut streams: HashMap<u32, Vec<u8>> = HashMap::new();
        loop {
            match self.see().await {
                Seen::Data(id, bytes) => streams.entry(id).or_default().extend(bytes),
                Seen::Goodbye(code) => return (streams, code),
                Seen::Closed => panic!("no goodbye"),
                _ => {}
            }
        }
    }
}

pub struct WebSocket {
    pub stream: TcpStream,
}

impl WebSocket {
    pub async fn connect(url: &str, protocol: &str) -> Self {
        let mut headers = vec![
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !protocol.is_empty() {
            headers.push(("Sec-WebSocket-Protocol", protocol));
        }
        let (stream, answer) = request(url, "GET", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let answer = answer.to_ascii_lowercase();
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        let agreed = format!("sec-websocket-protocol: {}\r\n", protocol.to_ascii_lowercase());
        assert_eq!(answer.contains(&agreed), !protocol.is_empty(), "{answer}");
        Self { stream }
    }

    /// Sends a frame with a mask.
    pub async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut out = Vec::new();
        crate::websocket::frame::head(first & 0x0f, payload.len(), &mut out);
        out[0] = first;
        out[1] |= 0x80;
        let mask = [1, 2, 3, 4];
        out.extend_from_slice(&mask);
        let begin = out.len();
        out.extend_from_slice(payload);
        crate::websocket::frame::unmask(&mut out[begin..], mask, 0);
        within(self.stream.write_all(&out)).await.unwrap();
    }

    pub async fn binary(&mut self, payload: &[u8]) {
        self.frame(0x82, payload).await;
    }

    /// The next frame's opcode and payload; `None` at the end of the connection.
    pub async fn see(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = within(self.stream.read_u8()).await.ok()?;
        assert_eq!(first & 0xf0, 0x80, "whole messages");
        let length = match within(self.stream.read_u8()).await.unwrap() {
            126 => self.stream.read_u16().await.unwrap().into(),
            127 => self.stream.read_u64().await.unwrap(),
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        within(self.stream.read_exact(&mut payload)).await.unwrap();
        Some((first & 0x0f, payload))
    }

    /// All bytes by channel until the server closes, and its code.
    pub async fn rest(&mut self) -> (HashMap<u8, Vec<u8>>, u16) {
        let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
        loop {
            match self.see().await.expect("a close frame") {
                (8, payload) => return (channels, u16::from_be_bytes(payload.try_into().unwrap())),
                (10, _) => {}
                (_, payload) => channels.entry(payload[0]).or_default().extend(&payload[1..]),
            }
        }
    }
}
