//! Flag: on or off, where enabling wins over a concurrent disabling.
//!
//! Enabling supersedes the enablings it has seen and adds a dot; disabling supersedes what it has
//! seen and adds none. So the flag is on exactly if some visible enabling has been seen by no visible
//! disabling (the enable-wins flag; Almeida, Shoker, Baquero 2018, section 7).
//!
//! Cost: one dot when enabled, nothing when disabled; a read is constant.

use crate::Row;

/// Whether the flag is on.
pub fn is_enabled(row: Option<&Row>) -> bool {
    row.is_some_and(|row| !row.is_empty())
}
