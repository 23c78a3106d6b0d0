//! Any bytes are refused as a version vector, or are the one encoding of it, which joins with itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::VersionVector;
use rejoin_crdt::codec::{self, Class};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(version) = codec::decode::<VersionVector>(bytes, Class::Vector) {
        assert_eq!(codec::encode(&version), bytes);
        let mut joined = VersionVector::default();
        assert_eq!(joined.join(&version), Ok(()));
        assert_eq!(joined, version);
        assert!(version.includes(&joined) && version.dots().all(|dot| version.covers(dot)));
    }
});
