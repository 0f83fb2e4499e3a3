//! Input with faults in it, for readers that must survive any.

use std::future::Future;

use tokio::net::{TcpListener, TcpStream};

use super::within;
use crate::error::Broken;
use crate::mux::Mux;
use crate::socket::Socket;

/// Numbers without pattern, the same in each run (xorshift).
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Gives a reader thousands of variants of `bytes`, each with some bytes changed, cut out or doubled, and waits until
/// it has read them. Returns how many ended well and how many broken.
pub async fn try_mutations<F>(bytes: &[u8], read: impl Fn(Mux, Socket, Vec<u8>) -> F) -> (usize, usize)
where
    F: Future<Output = Result<(), Broken>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0).unwrap();
    let mut random = Random(0x5eed);
    let (mut well, mut broken) = (0, 0);
    for _ in 0..5000 {
        let mut bytes = bytes.to_vec();
        for _ in 0..random.below(4) {
            let (at, length) = (random.below(bytes.len()), random.below(16));
            let end = (at + length).min(bytes.len());
            match random.below(4) {
                0 => drop(bytes.drain(at..end)),
                1 => bytes.extend_from_within(at..end),
                2 => bytes[at] = 0xff,
                _ => bytes[at] ^= 1 << random.below(8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let mux = Mux::new(8);
        match within(read(mux.clone(), socket.clone(), bytes)).await {
            Ok(()) => well += 1,
            Err(_) => broken += 1,
        }
        mux.close();
    }
    (well, broken)
}
