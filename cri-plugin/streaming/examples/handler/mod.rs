//! A handler without containers: commands that echo, exit, flood, fail or wait, told by their first word.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use windlass_core::{Error, Result};
use windlass_streaming::{Attach, Duplex, Exec, Handler, Streams};

/// The port whose forwarding fails.
pub const FAILING_PORT: u16 = 1;
/// Nothing comes from it, and it notices nothing.
pub const SILENT_PORT: u16 = 2;

#[derive(Clone)]
pub struct Echo {
    /// How many calls are running.
    running: Arc<watch::Sender<usize>>,
    /// How many commands were told that their client had gone.
    told: Arc<watch::Sender<usize>>,
}

/// One running call.
struct Running(Echo);

impl Running {
    fn new(echo: &Echo) -> Self {
        echo.running.send_modify(|n| *n += 1);
        Self(echo.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|n| *n -= 1);
    }
}

impl Default for Echo {
    fn default() -> Self {
        Self { running: Arc::new(watch::channel(0).0), told: Arc::new(watch::channel(0).0) }
    }
}

impl Echo {
    pub fn running(&self) -> watch::Receiver<usize> {
        self.running.subscribe()
    }

    pub fn told(&self) -> watch::Receiver<usize> {
        self.told.subscribe()
    }

    async fn run(&self, cmd: &[String], mut io: Streams) -> Result<i32> {
        let io_error = |e| Error::io("move bytes", e);
        let argument = cmd.get(1).map(String::as_str).unwrap_or_default();
        match cmd.first().map(String::as_str).unwrap_or_default() {
            "cat" => {
                let (Some(mut stdin), Some(mut stdout)) = (io.stdin, io.stdout) else {
                    return Err(Error::invalid("cat needs stdin and stdout"));
                };
                tokio::io::copy(&mut stdin, &mut stdout).await.map_err(io_error)?;
                Ok(0)
            }
            "exit" => argument.parse().map_err(|_| Error::invalid("exit needs a number")),
            "both" => {
                for (stream, text) in [(&mut io.stdout, "to stdout"), (&mut io.stderr, "to stderr")] {
                    if let Some(stream) = stream {
                        stream.write_all(text.as_bytes()).await.map_err(io_error)?;
                    }
                }
                Ok(0)
            }
            "flood" => {
                let Some(mut stdout) = io.stdout else { return Err(Error::invalid("flood needs stdout")) };
                let mut left: u64 = argument.parse().map_err(|_| Error::invalid("flood needs a number"))?;
                let piece = vec![b'x'; 32 << 10];
                while left > 0 {
                    let length = left.min(piece.len() as u64);
                    if stdout.write_all(&piece[..length as usize]).await.is_err() {
                        self.told.send_modify(|n| *n += 1);
                        return Ok(141);
                    }
                    left -= length;
                }
                Ok(0)
            }
            "count" => {
                let Some(mut stdin) = io.stdin else { return Err(Error::invalid("count needs stdin")) };
                let bytes = tokio::io::copy(&mut stdin, &mut tokio::io::sink()).await.map_err(io_error)?;
                if let Some(stdout) = &mut io.stdout {
                    stdout.write_all(bytes.to_string().as_bytes()).await.map_err(io_error)?;
                }
                Ok(0)
            }
            "sizes" => {
                let wanted = argument.parse().unwrap_or(1);
                for _ in 0..wanted {
                    let Some(size) = io.resize.recv().await else { return Ok(1) };
                    let text = format!("{}x{}\n", size.width, size.height);
                    if let Some(stdout) = &mut io.stdout {
                        stdout.write_all(text.as_bytes()).await.map_err(io_error)?;
                    }
                }
                Ok(0)
            }
            // Neither reads nor writes, as `sleep` does.
            "wait" => {
                io.gone.cancelled().await;
                self.told.send_modify(|n| *n += 1);
                Ok(0)
            }
            "panic" => panic!("as told"),
            other => Err(Error::not_found(format!("exec {other:?}: executable file not found"))),
        }
    }
}

#[async_trait::async_trait]
impl Handler for Echo {
    async fn exec(&self, request: Exec, io: Streams) -> Result<i32> {
        let _running = Running::new(self);
        self.run(&request.cmd, io).await
    }

    async fn attach(&self, request: Attach, io: Streams) -> Result<()> {
        let _running = Running::new(self);
        if request.container_id == "missing" {
            return Err(Error::not_found("no such container"));
        }
        self.run(&["cat".to_owned()], io).await.map(|_| ())
    }

    async fn port_forward(&self, _sandbox: &str, port: u16, mut stream: Box<dyn Duplex>) -> Result<()> {
        let _running = Running::new(self);
        if port == SILENT_PORT {
            std::future::pending::<()>().await;
        }
        if port == FAILING_PORT {
            return Err(Error::unavailable("connection refused"));
        }
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = stream.read(&mut buffer).await.map_err(|e| Error::io("read", e))?;
            if length == 0 {
                return stream.shutdown().await.map_err(|e| Error::io("shut down", e));
            }
            buffer[..length].make_ascii_uppercase();
            stream.write_all(&buffer[..length]).await.map_err(|e| Error::io("write", e))?;
        }
    }
}
