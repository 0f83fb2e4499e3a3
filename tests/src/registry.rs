//! A registry of one image: the test image's archive behind the pull half of the OCI distribution API.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Serves on a free port of 127.0.0.1 until dropped.
pub struct Registry {
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    _layout: tempfile::TempDir,
}

/// What a registry with a login takes: user `me`, password `hunter2`.
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";

impl Registry {
    pub fn start() -> Self {
        Self::serving(false)
    }

    /// One that wants the user `me` with the password `hunter2`.
    pub fn with_login() -> Self {
        Self::serving(true)
    }

    fn serving(login: bool) -> Self {
        let layout = tempfile::tempdir().expect("a temporary directory can be made");
        let status =
            Command::new("tar").arg("-xf").arg(crate::archive()).arg("-C").arg(layout.path()).status();
        assert!(status.expect("tar runs").success());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, root) = (stop.clone(), layout.path().to_owned());
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let root = root.clone();
                std::thread::spawn(move || serve(connection, &root, login));
            }
        });
        Self { address, stop, thread: Some(thread), _layout: layout }
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The image's reference.
    pub fn image(&self) -> String {
        format!("{}/windlass/demo:latest", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const UNKNOWN: &[u8] =
    b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"test\"\r\ncontent-length: 0\r\n\r\n";

/// Answers the requests of one connection.
fn serve(connection: TcpStream, layout: &Path, login: bool) {
    let Ok(reading) = connection.try_clone() else { return };
    let (mut lines, mut connection) = (BufReader::new(reading).lines(), connection);
    while let Some(Ok(request)) = lines.next() {
        let (mut range, mut known) = (None, !login);
        loop {
            match lines.next() {
                Some(Ok(line)) if line.is_empty() => break,
                Some(Ok(line)) => {
                    known |= line
                        .split_once(": ")
                        .is_some_and(|(k, v)| k.eq_ignore_ascii_case("authorization") && v == LOGIN);
                    let lower = line.to_ascii_lowercase();
                    if let Some(from) = lower.strip_prefix("range: bytes=") {
                        range = from.split('-').next().and_then(|n| n.parse::<usize>().ok());
                    }
                }
                _ => return,
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let answer = if known { answer(method, path, range, layout) } else { UNKNOWN.to_vec() };
        if connection.write_all(&answer).is_err() {
            return;
        }
    }
}

fn manifest_digest(layout: &Path) -> String {
    let index = std::fs::read(layout.join("index.json")).expect("a layout has an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("the index is JSON");
    index["manifests"][0]["digest"].as_str().expect("a manifest has a digest").to_owned()
}

fn answer(method: &str, path: &str, range: Option<usize>, layout: &Path) -> Vec<u8> {
    let blob = |digest: &str| -> PathBuf { layout.join("blobs").join(digest.replace(':', "/")) };
    let (file, kind) = if path == "/v2/" {
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    } else if let Some(reference) = path.strip_prefix("/v2/windlass/demo/manifests/") {
        let digest = if reference == "latest" { manifest_digest(layout) } else { reference.to_owned() };
        (blob(&digest), "application/vnd.oci.image.manifest.v1+json")
    } else if let Some(digest) = path.strip_prefix("/v2/windlass/demo/blobs/") {
        (blob(digest), "application/octet-stream")
    } else {
        (PathBuf::new(), "")
    };
    let Ok(data) = std::fs::read(&file) else {
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
    };
    let digest = format!("sha256:{}", file.file_name().unwrap_or_default().to_string_lossy());
    let (status, body) = match range {
        Some(from) if from <= data.len() => ("206 Partial Content", &data[from..]),
        _ => ("200 OK", &data[..]),
    };
    let span = range.map_or(String::new(), |from| {
        format!("content-range: bytes {from}-{}/{}\r\n", data.len().saturating_sub(1), data.len())
    });
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ndocker-content-digest: {digest}\r\naccept-ranges: bytes\r\n{span}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut all = head.into_bytes();
    if method == "GET" {
        all.extend_from_slice(body);
    }
    all
}
