//! The name and the header of a segment; the layout is described at the top of [`log`](crate::log).

use super::Lsn;
use crate::error::StoreError;

pub(super) const SEGMENT_HEADER_BYTES: usize = 40;

const MAGIC: &[u8; 8] = b"rejoinLG";
const FORMAT: u32 = 1;
const NAME_DIGITS: usize = 20;
const NAME_SUFFIX: &str = ".log";

pub(super) fn segment_name(first: Lsn) -> String {
    format!("{first:0NAME_DIGITS$}{NAME_SUFFIX}")
}

/// The first LSN of the segment of that name; `None` if the name is not one of a segment.
pub(super) fn parse_segment_name(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(NAME_SUFFIX)?;
    if digits.len() != NAME_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Lsn)
}

pub(super) fn segment_header(salt: &[u8; 16], first: Lsn) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..28].copy_from_slice(salt);
    header[28..36].copy_from_slice(&first.0.to_le_bytes());
    let checksum = crc32fast::hash(&header[..36]);
    header[36..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Whether `bytes` begin with the header of the segment that starts at `first` in this store's log.
///
/// # Errors
/// [`StoreError::UnknownFormat`] if the header is whole, and of another format.
pub(super) fn is_segment_header(
    bytes: &[u8],
    salt: &[u8; 16],
    first: Lsn,
) -> Result<bool, StoreError> {
    let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else { return Ok(false) };
    if *header == segment_header(salt, first) {
        return Ok(true);
    }
    let is_whole =
        &header[..8] == MAGIC && crc32fast::hash(&header[..36]).to_le_bytes() == header[36..];
    let found = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if is_whole && found != FORMAT {
        return Err(StoreError::UnknownFormat { file: segment_name(first), found, known: FORMAT });
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_positions_do_and_nothing_else_is_one() {
        let mut names: Vec<_> =
            [u64::MAX, 0, 9, 10, 1 << 40].map(|lsn| segment_name(Lsn(lsn))).to_vec();
        names.sort();
        let positions: Vec<_> =
            names.iter().map(|name| parse_segment_name(name).unwrap().0).collect();
        assert_eq!(positions, [0, 9, 10, 1 << 40, u64::MAX]);
        for other in ["tree.redb", "1.log", "+0000000000000000001.log", "99999999999999999999.log"]
        {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_header_of_a_later_format_is_named_as_such() {
        let mut header = segment_header(&[7; 16], Lsn(5));
        assert!(is_segment_header(&header, &[7; 16], Lsn(5)).unwrap());
        assert!(!is_segment_header(&header, &[8; 16], Lsn(5)).unwrap());
        assert!(!is_segment_header(&header, &[7; 16], Lsn(6)).unwrap());
        header[8] = 9;
        assert!(!is_segment_header(&header, &[7; 16], Lsn(5)).unwrap());
        let checksum = crc32fast::hash(&header[..36]);
        header[36..].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(
            is_segment_header(&header, &[7; 16], Lsn(5)),
            Err(StoreError::UnknownFormat { found: 9, known: 1, .. })
        ));
    }
}
