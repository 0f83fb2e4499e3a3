//! One ttrpc connection to a shim, which tells when it ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;

use crate::error::{Error, Result};

/// Connects to `unix://<path>`, `vsock://<cid>:<port>`, `hvsock://<path>:<port>`, or an abstract socket where the
/// address has no scheme. `on_close` runs once, when the connection has ended for whatever reason.
pub async fn connect(
    address: &str,
    limit: Duration,
    on_close: impl FnOnce() + Send + Sync + 'static,
) -> Result<Client> {
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    let socket = match tokio::time::timeout(limit, dial(address)).await {
        Ok(socket) => socket.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    let socket = socket.ok_or_else(|| Error::Address(address.to_owned()))?;
    Ok(Client::new(Socket::new(Watched { socket, on_close: Some(Box::new(on_close)) })))
}

/// `None` where the address's form is not known.
async fn dial(address: &str) -> io::Result<Option<Socket>> {
    let stream = match address.split_once("://") {
        None => unix(&format!("\0{address}")).await?,
        Some(("unix", path)) => unix(path).await?,
        Some(("hvsock", rest)) => {
            let Some((path, port)) = rest.rsplit_once(':') else { return Ok(None) };
            let Ok(port) = port.parse() else { return Ok(None) };
            hybrid(unix(path).await?, port).await?
        }
        Some(("vsock", _)) => return Socket::connect(address).await.map(Some),
        Some(_) => return Ok(None),
    };
    Ok(Some(Socket::new(stream)))
}

/// Connects to a socket file. Where more wait already than the listener has places for, the kernel refuses instead of
/// letting one wait, and tells nobody when there is a place again.
async fn unix(path: &str) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            connected => return connected,
        }
    }
}

/// The handshake of a virtual machine monitor that carries its guest's sockets.
async fn hybrid(stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    // One byte at a time: what follows the line belongs to ttrpc.
    let mut stream = BufReader::with_capacity(1, stream);
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut line = Vec::new();
    while line.len() < 64 && !line.ends_with(b"\n") {
        let byte = stream.fill_buf().await?;
        if byte.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(byte);
        stream.consume(1);
    }
    if !line.starts_with(b"OK") {
        return Err(io::Error::other("the guest's port does not answer"));
    }
    Ok(stream.into_inner())
}

/// A socket that says when it is dropped, which ttrpc does as soon as either direction fails.
struct Watched {
    socket: Socket,
    on_close: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(on_close) = self.on_close.take() {
            on_close();
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = format!("unix://{}", path.display());
        let first = connect(&address, Duration::from_secs(5), || {}).await.unwrap();
        let more: Vec<_> = (0..4)
            .map(|_| {
                let address = address.clone();
                tokio::spawn(async move { connect(&address, Duration::from_secs(30), || {}).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        // Those that wait get in as places become free.
        let accepted = tokio::task::spawn_blocking(move || {
            (0..5).map(|_| listener.accept().map(|(stream, _)| stream)).collect::<Result<Vec<_>, _>>()
        });
        for task in more {
            task.await.unwrap().unwrap();
        }
        accepted.await.unwrap().unwrap();
        drop(first);
    }
}
