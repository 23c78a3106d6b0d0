//! Any bytes are refused as a value, or are the one encoding of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::Value;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::from_bytes(bytes) {
        assert_eq!(value.to_bytes().as_deref(), Ok(bytes));
        let _ = value.to_string();
    }
});
