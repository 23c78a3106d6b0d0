//! Any bytes are refused as a path and as a row key, or are the one encoding of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::{Path, RowKey};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = Path::from_bytes(bytes) {
        let segments: Vec<_> = path.segments().collect();
        assert_eq!(Path::of(&segments).as_ref().map(Path::as_bytes), Ok(bytes));
    }
    if let Ok(key) = RowKey::from_bytes(bytes) {
        assert_eq!(key.to_bytes(), bytes);
    }
});
