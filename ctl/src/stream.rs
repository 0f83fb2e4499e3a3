//! Streams of the streaming service: how a transfer's bytes, progress and questions travel.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use prost::{Message, Name};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use windlass_api::services::streaming::StreamInit;
use windlass_api::{Any, transfer};

use crate::client::Client;

/// Largest piece of data in one message, and the credit that a receiver gives: containerd's numbers.
const PIECE: usize = 32 * 1024;
const WINDOW: i32 = 2 * PIECE as i32;
/// Two blocks of zeros end a tar archive.
const TAR_END: usize = 1024;
/// How long nothing comes, after a transfer has ended, before the archive is looked at; and how often.
const SILENCE: Duration = Duration::from_millis(200);
const MAX_SILENCE: u32 = 50;
/// Pieces read ahead.
const AHEAD: usize = 4;

/// One stream, opened and acknowledged.
pub struct Stream {
    pub id: String,
    pub sender: mpsc::Sender<Any>,
    pub receiver: tonic::Streaming<Any>,
}

pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The message in `any` if it is one of that type.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    (windlass_api::convert::any::name(&any.type_url) == M::full_name())
        .then(|| M::decode(any.value.as_slice()).ok())?
}

/// An id that nobody else uses.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{prefix}-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Stream {
    /// Opens a stream under a new id and waits until the daemon has it.
    pub async fn open(client: &Client, prefix: &str) -> Result<Self> {
        let id = unique(prefix);
        let (sender, messages) = mpsc::channel(4);
        sender.send(pack(&StreamInit { id: id.clone() })).await.context("open a stream")?;
        let answer =
            client.streaming().stream(ReceiverStream::new(messages)).await.context("open a stream")?;
        let mut receiver = answer.into_inner();
        if receiver.message().await.context("open a stream")?.is_none() {
            bail!("the daemon closed a new stream at once");
        }
        Ok(Self { id, sender, receiver })
    }

    /// Sends all of `input` as far as the other side gives credit, then closes the stream.
    pub async fn send_all(mut self, input: impl std::io::Read + Send + 'static) -> Result<()> {
        let mut pieces = read_ahead(input);
        let mut credit = 0i64;
        while let Some(piece) = pieces.recv().await {
            let piece = piece.context("read the archive")?;
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                while credit <= 0 {
                    let Some(message) = self.receiver.message().await? else { return Ok(()) };
                    credit += unpack::<transfer::WindowUpdate>(&message).map_or(0, |w| i64::from(w.update));
                }
                let count = rest.len().min(usize::try_from(credit).unwrap_or(PIECE));
                let (now, later) = rest.split_at(count);
                credit -= count as i64;
                rest = later;
                if self.sender.send(pack(&transfer::Data { data: now.to_vec().into() })).await.is_err() {
                    return Ok(()); // the transfer has ended; its own answer says how
                }
            }
        }
        // Dropping the receiver would cancel what is still on its way: close our side and wait for theirs.
        drop(self.sender);
        while self.receiver.message().await?.is_some() {}
        Ok(())
    }

    /// Writes a tar archive that comes to `output`, until the daemon closes the stream. containerd leaves it open: there
    /// the archive's own end counts, once the transfer has `ended` and nothing more comes.
    pub async fn receive_archive(
        mut self,
        mut output: impl std::io::Write,
        ended: watch::Receiver<bool>,
    ) -> Result<()> {
        let (mut credit, mut zeros, mut silent) = (0i32, 0usize, 0);
        loop {
            if credit < WINDOW {
                credit += WINDOW;
                // The stream may be complete already: what follows says so.
                let _ = self.sender.send(pack(&transfer::WindowUpdate { update: WINDOW })).await;
            }
            let mut done = ended.clone();
            let silence = async {
                // A sender that has gone has failed, and says so itself.
                let _ = done.wait_for(|ended| *ended).await;
                tokio::time::sleep(SILENCE).await;
            };
            let message = tokio::select! {
                message = self.receiver.message() => message?,
                () = silence => {
                    silent += 1;
                    if zeros >= TAR_END {
                        break;
                    }
                    ensure!(silent < MAX_SILENCE, "the archive has no end: the daemon sent only a part of it");
                    continue;
                }
            };
            let Some(message) = message else { break };
            if let Some(data) = unpack::<transfer::Data>(&message) {
                output.write_all(&data.data).context("write the archive")?;
                credit = credit.saturating_sub(i32::try_from(data.data.len()).unwrap_or(i32::MAX));
                let last = data.data.iter().rev().take_while(|b| **b == 0).count();
                zeros = if last == data.data.len() { zeros.saturating_add(last) } else { last };
                silent = 0;
            }
        }
        output.flush().context("write the archive")
    }
}

/// Reads on a thread of its own: standard input may keep us waiting, and everything else must go on.
fn read_ahead(mut input: impl std::io::Read + Send + 'static) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(buffer[..count].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(unique("a"), unique("a"));
    }

    #[test]
    fn messages_are_told_by_their_type() {
        let any = pack(&transfer::WindowUpdate { update: 5 });
        assert_eq!(unpack::<transfer::WindowUpdate>(&any).map(|w| w.update), Some(5));
        assert!(unpack::<transfer::Data>(&any).is_none());
        let broken = Any { value: vec![0xff], ..any };
        assert!(unpack::<transfer::WindowUpdate>(&broken).is_none());
    }

    #[tokio::test]
    async fn input_is_read_whole() {
        let mut pieces = read_ahead(std::io::Cursor::new(vec![7u8; 3 * PIECE + 1]));
        let mut total = 0;
        while let Some(piece) = pieces.recv().await {
            total += piece.unwrap().len();
        }
        assert_eq!(total, 3 * PIECE + 1);
    }
}
