//! Any payload is refused as a message of the sync protocol, or is the one encoding of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_gossip::wire::{ControlMessage, SpaceMessage};

fuzz_target!(|payload: &[u8]| {
    // A frame is the payload with its length, 4 bytes, before it.
    if let Ok(message) = ControlMessage::from_payload(payload) {
        assert_eq!(message.to_frame().expect("it came in a frame")[4..], *payload);
    }
    if let Ok(message) = SpaceMessage::from_payload(payload) {
        assert_eq!(message.to_frame().expect("it came in a frame")[4..], *payload);
    }
});
