//! The tree's file in blocks whose checksums are verified whenever one is read.
//!
//! redb checks its pages only when it repairs a file, and trusts them when it reads. So it is given a file
//! that checks for it. The content is divided into blocks of 4 KiB, and those into groups of 1,024; before each
//! group stands one more block, with a CRC-32 of each block of the group: of its number (8 bytes,
//! little-endian) and its bytes. Block 0 is left out: redb rewrites it in place, and guards it itself.
//!
//! Checksums reach the disk with the same sync as what they are of. A crash may tear that apart, but redb
//! never overwrites what the last commit refers to: only checksums of blocks that nobody will read differ
//! between what is on disk and what was being written, whatever mixture of the two survives.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use rejoin_crdt::planted::{self, Bug};

use crate::backend::StorageFile;
use crate::sync::lock;

const BLOCK_BYTES: u64 = 4_096;
const GROUP_BLOCKS: u64 = 1_024;
const CHECKSUM_BYTES: u64 = 4;
const GROUP_BYTES: u64 = GROUP_BLOCKS * BLOCK_BYTES;

/// A file whose blocks are verified as they are read. Its lengths and offsets leave the checksums out.
#[derive(Debug)]
pub(super) struct BlockFile {
    file: Arc<dyn StorageFile>,
    /// By group, those that were needed so far: 4 KiB of memory for each 4 MiB.
    checksums: Mutex<BTreeMap<u64, Group>>,
    unreadable: Unreadable,
}

/// Why a read first failed, if one did. redb serves nothing any more after that, until it is opened again.
pub(crate) type Unreadable = Arc<OnceLock<Arc<str>>>;

/// The checksums of one group's blocks.
#[derive(Debug)]
struct Group {
    checksums: Vec<u32>,
    /// Whether they differ from what is in the file.
    changed: bool,
}

/// A block that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("a block does not verify")]
pub(super) struct DamagedBlock {
    /// Where it is in the file, in bytes.
    pub(super) position: u64,
}

impl BlockFile {
    pub(super) fn new(file: Arc<dyn StorageFile>) -> Self {
        Self { file, checksums: Mutex::default(), unreadable: Unreadable::default() }
    }

    /// Where it is noted when a read fails.
    pub(super) fn unreadable(&self) -> Unreadable {
        Arc::clone(&self.unreadable)
    }

    /// Notes that a read has failed.
    pub(super) fn note_unreadable(&self, error: &io::Error) {
        self.unreadable.get_or_init(|| format!("reading the tree failed: {error}").into());
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        let length = self.file.len()?;
        let with_checksums = GROUP_BYTES + BLOCK_BYTES;
        let rest = (length % with_checksums).saturating_sub(BLOCK_BYTES);
        Ok(length / with_checksums * GROUP_BYTES + rest)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let groups = len.div_ceil(GROUP_BYTES);
        lock(&self.checksums).retain(|group, _| *group < groups);
        self.file.set_len(len + groups * BLOCK_BYTES)
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if within_first_block(offset, out.len()) {
            return self.file.read_at(place(offset), out);
        }
        if !is_aligned(offset, out.len()) {
            let start = offset / BLOCK_BYTES * BLOCK_BYTES;
            let end = (offset + out.len() as u64).next_multiple_of(BLOCK_BYTES);
            let mut blocks = vec![0; (end - start) as usize];
            self.read(start, &mut blocks)?;
            let skipped = (offset - start) as usize;
            out.copy_from_slice(&blocks[skipped..skipped + out.len()]);
            return Ok(());
        }
        let mut offset = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_mut(in_group(offset, rest.len()));
            self.file.read_at(place(offset), piece)?;
            self.verify(offset, piece)?;
            offset += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if within_first_block(offset, bytes.len()) {
            return self.file.write_at(place(offset), bytes);
        }
        if !is_aligned(offset, bytes.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "redb writes whole pages"));
        }
        let mut offset = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(in_group(offset, rest.len()));
            self.file.write_at(place(offset), piece)?;
            let mut groups = lock(&self.checksums);
            let group = self.group(&mut groups, offset / GROUP_BYTES)?;
            group.changed = true;
            for (number, block) in blocks(offset, piece) {
                group.checksums[(number % GROUP_BLOCKS) as usize] = checksum(number, block);
            }
            offset += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        for (number, group) in lock(&self.checksums).iter_mut().filter(|(_, group)| group.changed) {
            let bytes: Vec<u8> = group.checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.file.write_at(number * (GROUP_BYTES + BLOCK_BYTES), &bytes)?;
            group.changed = false;
        }
        if planted::is(Bug::TreeNotSynced) {
            return Ok(());
        }
        self.file.sync()
    }

    fn verify(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut groups = lock(&self.checksums);
        let group = self.group(&mut groups, offset / GROUP_BYTES)?;
        let mut guarded = blocks(offset, bytes).filter(|(number, _)| *number > 0);
        let damaged = guarded.find(|(number, block)| {
            group.checksums[(number % GROUP_BLOCKS) as usize] != checksum(*number, block)
        });
        match damaged {
            Some((number, _)) => {
                let position = place(number * BLOCK_BYTES);
                Err(io::Error::new(io::ErrorKind::InvalidData, DamagedBlock { position }))
            }
            None => Ok(()),
        }
    }

    /// The checksums of a group, read if they were not yet.
    fn group<'a>(
        &self,
        groups: &'a mut BTreeMap<u64, Group>,
        number: u64,
    ) -> io::Result<&'a mut Group> {
        use std::collections::btree_map::Entry;
        match groups.entry(number) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let mut bytes = vec![0; (GROUP_BLOCKS * CHECKSUM_BYTES) as usize];
                self.file.read_at(number * (GROUP_BYTES + BLOCK_BYTES), &mut bytes)?;
                let words = bytes.as_chunks::<{ CHECKSUM_BYTES as usize }>().0.iter();
                let checksums = words.map(|word| u32::from_le_bytes(*word)).collect();
                Ok(unknown.insert(Group { checksums, changed: false }))
            }
        }
    }
}

/// Where in the file the content at `offset` is.
fn place(offset: u64) -> u64 {
    offset + (offset / GROUP_BYTES + 1) * BLOCK_BYTES
}

fn within_first_block(offset: u64, length: usize) -> bool {
    offset + length as u64 <= BLOCK_BYTES
}

fn is_aligned(offset: u64, length: usize) -> bool {
    offset.is_multiple_of(BLOCK_BYTES) && (length as u64).is_multiple_of(BLOCK_BYTES)
}

/// How many of `length` bytes from `offset` on are in its group.
fn in_group(offset: u64, length: usize) -> usize {
    length.min((GROUP_BYTES - offset % GROUP_BYTES) as usize)
}

/// The blocks in `bytes`, which begin with one, and their numbers.
fn blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (offset / BLOCK_BYTES..).zip(bytes.chunks(BLOCK_BYTES as usize))
}

fn checksum(number: u64, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let part = if planted::is(Bug::BlockPartlyChecked) { block.len() / 4 } else { block.len() };
    hasher.update(&block[..part]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, MemoryBackend};

    const BLOCK: usize = BLOCK_BYTES as usize;

    fn block_file(backend: &MemoryBackend) -> BlockFile {
        BlockFile::new(backend.open("tree").unwrap())
    }

    #[test]
    fn content_reads_back_across_groups_and_openings() {
        let backend = MemoryBackend::default();
        backend.create("tree").unwrap();
        let file = block_file(&backend);
        for len in
            [0, 1, BLOCK_BYTES, GROUP_BYTES, GROUP_BYTES + 1, 3 * GROUP_BYTES + 5 * BLOCK_BYTES]
        {
            file.set_len(len).unwrap();
            assert_eq!(file.len().unwrap(), len);
        }
        let offset = GROUP_BYTES - 2 * BLOCK_BYTES;
        let content: Vec<u8> = (0..4 * BLOCK).map(|at| (at / 7) as u8).collect();
        file.write(offset, &content).unwrap();
        file.write(0, b"header").unwrap();
        file.sync().unwrap();
        for file in [file, block_file(&backend)] {
            let mut out = vec![0; content.len()];
            file.read(offset, &mut out).unwrap();
            assert_eq!(out, content);
            let mut part = [0; 5_000];
            file.read(offset + 100, &mut part).unwrap();
            assert_eq!(part, content[100..5_100]);
            file.read(0, &mut part[..6]).unwrap();
            assert_eq!(&part[..6], b"header");
            assert_eq!(
                file.write(offset + 1, &content).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }

    #[test]
    fn every_flipped_byte_behind_the_first_block_is_found() {
        let backend = MemoryBackend::default();
        backend.create("tree").unwrap();
        let file = block_file(&backend);
        file.set_len(3 * BLOCK_BYTES).unwrap();
        file.write(BLOCK_BYTES, &vec![7; 2 * BLOCK]).unwrap();
        file.sync().unwrap();
        let content = backend.content("tree").unwrap();
        for at in (2 * BLOCK..content.len()).step_by(97).chain([4, 11]) {
            let mut flipped = content.clone();
            flipped[at] ^= 1;
            let copy = backend.copy();
            copy.set_content("tree", flipped);
            let error = block_file(&copy).read(BLOCK_BYTES, &mut vec![0; 2 * BLOCK]).unwrap_err();
            let damage = error.get_ref().unwrap().downcast_ref::<DamagedBlock>().unwrap();
            let expected = if at < BLOCK { 2 + (at / 4 - 1) } else { at / BLOCK };
            assert_eq!(damage.position, (expected * BLOCK) as u64, "flip at {at}");
        }
    }

    #[test]
    fn a_block_that_was_never_written_or_stands_in_another_place_does_not_verify() {
        let backend = MemoryBackend::default();
        backend.create("tree").unwrap();
        let file = block_file(&backend);
        file.set_len(4 * BLOCK_BYTES).unwrap();
        file.write(BLOCK_BYTES, &vec![7; BLOCK]).unwrap();
        file.write(2 * BLOCK_BYTES, &vec![8; BLOCK]).unwrap();
        file.sync().unwrap();
        assert!(file.read(3 * BLOCK_BYTES, &mut vec![0; BLOCK]).is_err());
        let mut swapped = backend.content("tree").unwrap();
        let (low, high) = swapped.split_at_mut(3 * BLOCK);
        low[2 * BLOCK..].swap_with_slice(&mut high[..BLOCK]);
        let (first, second) = swapped[4..12].split_at_mut(4);
        first.swap_with_slice(second);
        backend.set_content("tree", swapped);
        assert!(block_file(&backend).read(BLOCK_BYTES, &mut vec![0; BLOCK]).is_err());
    }
}
