//! Any bytes are refused as a commit's body, or are the one encoding of it; and what is taken can be
//! applied to rows and judged against a version vector.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::{CommitBody, Dot, MemoryRows, ReplicaId, VersionVector, apply};

fuzz_target!(|bytes: &[u8]| {
    let dot = Dot { replica: ReplicaId::from_bytes([b'r'; ReplicaId::BYTES]), sequence: 100 };
    if let Ok(body) = CommitBody::from_bytes(dot, bytes) {
        assert_eq!(body.to_bytes(dot.replica).as_deref(), Ok(bytes));
        assert!(body.ready(dot, &VersionVector::default()).is_err());
        let Ok(()) = apply(&mut MemoryRows::default(), dot, &body);
    }
});
