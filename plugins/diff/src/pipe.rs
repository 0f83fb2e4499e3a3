//! A bounded pipe between two threads that moves buffers instead of copying bytes.

use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use windlass_core::Digest;
use windlass_core::diff::Applied;
use windlass_core::digest::Hasher;

const BUFFER: usize = 128 << 10;
/// Buffers on the way at most; what they hold is all that a layer takes in memory.
const BUFFERS: usize = 8;

/// The pipe's ends: what `send` puts in comes out of the reader.
pub fn pipe() -> (Writer, Reader) {
    let (full, filled) = sync_channel(BUFFERS);
    let (back, returned) = channel();
    for _ in 0..BUFFERS {
        // Both ends are here: it arrives.
        let _ = back.send(Vec::new());
    }
    (
        Writer { full, returned, buffer: None },
        Reader { filled, back, buffer: Vec::new(), at: 0, hasher: Hasher::new(None), size: 0, ended: false },
    )
}

pub struct Writer {
    full: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    /// Partly filled, for [`Write`].
    buffer: Option<Vec<u8>>,
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => {
                let mut buffer = self.returned.recv().map_err(|_| gone())?;
                buffer.clear();
                buffer.reserve(BUFFER);
                buffer
            }
        };
        let len = data.len().min(BUFFER - buffer.len());
        buffer.extend_from_slice(&data[..len]);
        if buffer.len() == BUFFER {
            self.full.send(buffer).map_err(|_| gone())?;
        } else {
            self.buffer = Some(buffer);
        }
        Ok(len)
    }

    /// Nothing goes on its way before a buffer is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    /// Says that all was written, for those who use [`Write`].
    pub fn finish(mut self) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if let Some(last) = self.buffer.take().filter(|b| !b.is_empty()) {
            self.full.send(last).map_err(gone)?;
        }
        self.full.send(Vec::new()).map_err(gone)
    }

    /// Moves everything from `source` into the pipe. Ends early, without an error, where the reader has gone.
    pub fn send(self, source: &mut dyn Read) -> io::Result<()> {
        loop {
            let Ok(mut buffer) = self.returned.recv() else { return Ok(()) };
            buffer.resize(BUFFER, 0);
            let len = fill(source, &mut buffer)?;
            buffer.truncate(len);
            if len == 0 {
                // An empty buffer says that the source ended well; a pipe that just breaks does not.
                let _ = self.full.send(buffer);
                return Ok(());
            }
            if self.full.send(buffer).is_err() {
                return Ok(());
            }
        }
    }
}

fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match source.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

/// Hashes and counts what passes.
pub struct Reader {
    filled: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    hasher: Hasher,
    size: u64,
    ended: bool,
}

impl Reader {
    /// Reads away what is left and answers what all of it was.
    pub fn finish(mut self) -> io::Result<Applied> {
        loop {
            let len = self.fill_buf()?.len();
            if len == 0 {
                return Ok(Applied { diff_id: self.digest(), size: self.size });
            }
            self.consume(len);
        }
    }

    fn digest(&self) -> Digest {
        self.hasher.digest()
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && !self.ended {
            // The writer may have gone; then nobody needs the buffer back.
            let _ = self.back.send(std::mem::take(&mut self.buffer));
            self.at = 0;
            self.buffer = self.filled.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            self.ended = self.buffer.is_empty();
            self.hasher.update(&self.buffer);
            self.size += self.buffer.len() as u64;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_is_hashed() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 / 3) as u8).collect();
        let (writer, mut reader) = pipe();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.send(&mut &data[..]).unwrap());
            let mut first = vec![0; 1000];
            reader.read_exact(&mut first).unwrap();
            assert_eq!(first, data[..1000]);
            let applied = reader.finish().unwrap();
            assert_eq!(applied, Applied { diff_id: Digest::of(&data), size: data.len() as u64 });
        });
    }

    #[test]
    fn small_writes_are_gathered() {
        let (mut writer, reader) = pipe();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..100_000u32 {
                    writer.write_all(&n.to_le_bytes()).unwrap();
                }
                writer.finish().unwrap();
            });
            let want: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
            assert_eq!(reader.finish().unwrap(), Applied { diff_id: Digest::of(&want), size: 400_000 });
        });
    }

    #[test]
    fn a_reader_that_goes_ends_the_writer_and_the_other_way_round() {
        let (writer, reader) = pipe();
        drop(reader);
        writer.send(&mut io::repeat(0)).unwrap();
        let (writer, mut reader) = pipe();
        drop(writer);
        assert!(reader.fill_buf().is_err());
    }
}
