//! Streams of the streaming service: how a transfer's bytes, progress and questions travel.

use anyhow::{Context as _, Result, bail};
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use windlass_api::services::streaming::StreamInit;
use windlass_api::{Any, transfer};

use crate::client::Client;

/// Largest piece of data in one message, and the credit that a receiver gives: containerd's numbers.
const PIECE: usize = 32 * 1024;
const WINDOW: i32 = 2 * PIECE as i32;

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
    (windlass_api::convert::any::name(&any.type_url) == M::full_name()).then(|| M::decode(any.value.as_slice()).ok())?
}

/// An id that nobody else uses.
pub fn unique(prefix: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{prefix}-{}-{now}", std::process::id())
}

impl Stream {
    /// Opens a stream under a new id and waits until the daemon has it.
    pub async fn open(client: &Client, prefix: &str) -> Result<Self> {
        let id = unique(prefix);
        let (sender, messages) = mpsc::channel(4);
        sender.send(pack(&StreamInit { id: id.clone() })).await.context("open a stream")?;
        let answer = client.streaming().stream(ReceiverStream::new(messages)).await.context("open a stream")?;
        let mut receiver = answer.into_inner();
        if receiver.message().await.context("open a stream")?.is_none() {
            bail!("the daemon closed a new stream at once");
        }
        Ok(Self { id, sender, receiver })
    }

    /// Sends all of `input` as far as the other side gives credit, then closes the stream.
    pub async fn send_all(mut self, mut input: impl std::io::Read) -> Result<()> {
        let mut credit = 0i32;
        let mut buffer = vec![0; PIECE];
        loop {
            while credit <= 0 {
                let Some(message) = self.receiver.message().await? else { return Ok(()) };
                credit += unpack::<transfer::WindowUpdate>(&message).map_or(0, |w| w.update);
            }
            let most = buffer.len().min(credit as usize);
            let count = input.read(&mut buffer[..most]).context("read the archive")?;
            if count == 0 {
                break;
            }
            credit -= count as i32;
            if self.sender.send(pack(&transfer::Data { data: buffer[..count].to_vec().into() })).await.is_err() {
                return Ok(()); // the transfer has ended; its own answer says how
            }
        }
        // Dropping the receiver would cancel what is still on its way: close our side and wait for theirs.
        drop(self.sender);
        while self.receiver.message().await?.is_some() {}
        Ok(())
    }

    /// Writes all that comes to `output`; answers its bytes.
    pub async fn receive_all(mut self, mut output: impl std::io::Write) -> Result<u64> {
        let (mut credit, mut total) = (0i32, 0u64);
        loop {
            if credit < WINDOW {
                credit += WINDOW;
                // The stream may be complete already: what follows says so.
                let _ = self.sender.send(pack(&transfer::WindowUpdate { update: WINDOW })).await;
            }
            let Some(message) = self.receiver.message().await? else { break };
            if let Some(data) = unpack::<transfer::Data>(&message) {
                output.write_all(&data.data).context("write the archive")?;
                credit -= data.data.len() as i32;
                total += data.data.len() as u64;
            }
        }
        output.flush().context("write the archive")?;
        Ok(total)
    }
}
