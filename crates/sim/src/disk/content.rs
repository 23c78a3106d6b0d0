//! What is in a file: pages that copies share, and holes that cost nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// The size of a page, in bytes: what is allocated, and shared between copies, as one.
pub(super) const PAGE_BYTES: u64 = 4_096;
const PAGE: usize = PAGE_BYTES as usize;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The content of a file. A clone shares its pages until one of the two is written to.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    /// The pages that were ever written to, by number; `None` for one that is all zeros.
    pages: BTreeMap<u64, Option<Arc<[u8; PAGE]>>>,
}

/// Bytes that were written, cheap to clone and to cut.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// So many zeros.
    Zeros(u64),
    /// Bytes that are not all zero.
    Bytes(Bytes),
}

impl Data {
    pub(super) fn of(bytes: &[u8]) -> Self {
        if bytes.chunks(PAGE).all(|chunk| *chunk == ZEROS[..chunk.len()]) {
            Data::Zeros(bytes.len() as u64)
        } else {
            Data::Bytes(Bytes::copy_from_slice(bytes))
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Data::Zeros(len) => *len,
            Data::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// The part from `start` to `end`, which are within.
    pub(super) fn part(&self, start: u64, end: u64) -> Self {
        match self {
            Data::Zeros(_) => Data::Zeros(end - start),
            Data::Bytes(bytes) => Data::Bytes(bytes.slice(start as usize..end as usize)),
        }
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many pages are allocated.
    pub(super) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// The numbers of the allocated pages, ascending.
    pub(super) fn page_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// Fills `out` from `offset` on; `false` if the file ends before.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return false;
        }
        for (number, start, piece) in pieces_mut(offset, out) {
            match self.pages.get(&number) {
                Some(Some(page)) => piece.copy_from_slice(&page[start..start + piece.len()]),
                _ => piece.fill(0),
            }
        }
        true
    }

    /// How many of `len` bytes from `offset` on can be written if no more than `room` pages can be allocated.
    pub(super) fn fitting(&self, offset: u64, len: u64, mut room: u64) -> u64 {
        let end = offset + len;
        for number in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            if !self.pages.contains_key(&number) {
                if room == 0 {
                    return (number * PAGE_BYTES).saturating_sub(offset);
                }
                room -= 1;
            }
        }
        len
    }

    pub(super) fn write(&mut self, offset: u64, data: &Data) {
        self.len = self.len.max(offset + data.len());
        match data {
            Data::Bytes(bytes) => {
                for (number, start, piece) in pieces(offset, bytes) {
                    self.write_piece(number, start, piece);
                }
            }
            Data::Zeros(len) => {
                let mut at = offset;
                while at < offset + len {
                    let start = (at % PAGE_BYTES) as usize;
                    let length = (PAGE_BYTES - at % PAGE_BYTES).min(offset + len - at);
                    self.write_piece(at / PAGE_BYTES, start, &ZEROS[..length as usize]);
                    at += length;
                }
            }
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let rest = (len % PAGE_BYTES) as usize;
            if rest > 0 && self.pages.contains_key(&(len / PAGE_BYTES)) {
                self.write_piece(len / PAGE_BYTES, rest, &ZEROS[rest..]);
            }
        }
        self.len = len;
    }

    /// Makes those pages that `offset` and `len` touch, and the length, what they are in `other`.
    pub(super) fn copy_pages(&mut self, other: &Content, offset: u64, len: u64) {
        for number in offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES) {
            match other.pages.get(&number) {
                Some(page) => self.pages.insert(number, page.clone()),
                None => self.pages.remove(&number),
            };
        }
        self.len = other.len;
    }

    /// Flips one bit; `bit` counts from the start of the file.
    pub(super) fn flip(&mut self, bit: u64) {
        let (number, within) = (bit / 8 / PAGE_BYTES, (bit / 8 % PAGE_BYTES) as usize);
        let page = self.pages.entry(number).or_default();
        Arc::make_mut(page.get_or_insert_with(|| Arc::new(ZEROS)))[within] ^= 1 << (bit % 8);
    }

    /// Adds the length and all bytes to a hash.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.len.to_le_bytes());
        for (number, page) in &self.pages {
            if let Some(page) = page.as_ref().filter(|page| ***page != ZEROS) {
                hasher.update(&number.to_le_bytes());
                hasher.update(&page[..]);
            }
        }
    }

    fn write_piece(&mut self, number: u64, start: usize, piece: &[u8]) {
        let page = self.pages.entry(number).or_default();
        let zeros = *piece == ZEROS[..piece.len()];
        if zeros && (page.is_none() || piece.len() == PAGE) {
            *page = None;
        } else if let (0, Ok(whole)) = (start, <&[u8; PAGE]>::try_from(piece)) {
            *page = Some(Arc::new(*whole));
        } else {
            let page = Arc::make_mut(page.get_or_insert_with(|| Arc::new(ZEROS)));
            page[start..start + piece.len()].copy_from_slice(piece);
        }
    }
}

/// Cuts `bytes`, which lie at `offset`, at the borders of pages: page number, start within it, bytes.
fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let head = head_len(offset, bytes.len());
    let (head, rest) = bytes.split_at(head);
    let aligned = offset.div_ceil(PAGE_BYTES);
    (!head.is_empty())
        .then_some((offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize, head))
        .into_iter()
        .chain((aligned..).zip(rest.chunks(PAGE)).map(|(number, piece)| (number, 0, piece)))
}

/// As [`pieces`], of bytes to be filled.
fn pieces_mut(offset: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let head = head_len(offset, bytes.len());
    let (head, rest) = bytes.split_at_mut(head);
    let aligned = offset.div_ceil(PAGE_BYTES);
    (!head.is_empty())
        .then_some((offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize, head))
        .into_iter()
        .chain((aligned..).zip(rest.chunks_mut(PAGE)).map(|(number, piece)| (number, 0, piece)))
}

/// How many bytes lie before the first border of pages.
fn head_len(offset: u64, length: usize) -> usize {
    match offset % PAGE_BYTES {
        0 => 0,
        within => length.min((PAGE_BYTES - within) as usize),
    }
}
