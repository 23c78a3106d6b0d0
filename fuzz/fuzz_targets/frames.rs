//! A stream of any bytes, in pieces of any size, gives a preamble and frames within their limits, or an
//! error; and how it was cut into pieces makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_gossip::wire::{FrameError, FrameReader, Incoming};

fn read(pieces: &[&[u8]]) -> (Vec<Incoming>, Option<FrameError>) {
    let mut reader = FrameReader::default();
    let mut incoming = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(next)) => incoming.push(next),
                Ok(None) => break,
                Err(error) => return (incoming, Some(error)),
            }
        }
    }
    (incoming, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let pieces: Vec<_> = bytes.chunks(usize::from(size).max(1)).collect();
    assert_eq!(read(&pieces), read(&[bytes]));
});
