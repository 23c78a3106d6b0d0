//! Any bytes are refused as a row of each kind, or are the one encoding of it, and can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::{Kind, Row, kind};

fuzz_target!(|bytes: &[u8]| {
    for of in Kind::ALL {
        let Ok(row) = Row::from_bytes(of, bytes) else { continue };
        assert_eq!(row.to_bytes(), bytes);
        let row = Some(&row);
        let winner = kind::register::siblings(row).into_iter().next();
        assert_eq!(winner, kind::register::latest(row));
        let _ = kind::counter::value(row);
        let _ = (kind::flag::is_enabled(row), kind::element::is_present(row));
    }
});
