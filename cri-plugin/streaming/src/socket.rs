//! A TCP connection that can be watched for its end by one who does not read it: a connection whose input stands still
//! because nobody takes it would otherwise not notice that its client has gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Quiet time after which the kernel asks whether the peer is still there, and the time between its questions.
const KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
        rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEPALIVE)?;
        rustix::net::sockopt::set_tcp_keepcnt(&stream, 4)?;
        Ok(Self(Arc::new(stream)))
    }

    /// Returns when the peer has hung up or the connection is broken, even if there is still something to read.
    pub async fn hung_up(&self) {
        // With the interest in priority data the runtime also reports the closing of the reading side, but not the
        // arrival of ordinary data.
        if let Ok(ready) = self.0.ready(Interest::PRIORITY | Interest::ERROR).await
            && !(ready.is_read_closed() || ready.is_write_closed() || ready.is_error())
        {
            // Urgent data, which no protocol here uses: nothing more can be learnt, so the watch ends.
            std::future::pending::<()>().await;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            Err(rustix::io::Errno::NOTCONN) | Ok(()) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }
}
