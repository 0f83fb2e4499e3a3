//! The socket over which an external runtime hands out the master of a terminal (`--console-socket`).

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::error::{Code, Context, Error, Result};

/// Listens in a directory of its own that only we may enter; both go with the value.
pub struct ConsoleSocket {
    dir: PathBuf,
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Left-overs in the temporary directory harm nobody.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl ConsoleSocket {
    pub fn bind() -> Result<ConsoleSocket> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let pid = std::process::id();
        let dir = (0u32..)
            .map(|number| base.join(format!("pty{pid}-{number}")))
            .find_map(|dir| match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => Some(Ok(dir)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                Err(error) => Some(Err(error).at("make directory", dir)),
            })
            .ok_or_else(|| Error::unknown("no free name for a console socket"))??;
        let path = dir.join("pty.sock");
        let listener = UnixListener::bind(&path).at("bind", &path)?;
        Ok(ConsoleSocket { dir, path, listener })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The master that the runtime sends.
    pub async fn receive(self, limit: Duration) -> Result<OwnedFd> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            loop {
                stream.readable().await?;
                match stream.try_io(Interest::READABLE, || take(&stream)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        };
        match timeout(limit, receive).await {
            Ok(result) => result.op("receive console"),
            Err(_) => Err(Error::class(Code::DeadlineExceeded, "the runtime sent no console")),
        }
    }
}

fn take(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other("no descriptor in the message"))
}
