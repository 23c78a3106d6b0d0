//! What a log says after cuts, flips and half-written batches: a prefix, or a refusal with a position.

use std::sync::Arc;

use super::recover::Recovered;
use super::*;
use crate::backend::MemoryBackend;
use crate::error::TornTail;

const SALT: [u8; 16] = [3; 16];
/// Large enough that a log has a few segments and small enough to try every byte of it.
const SEGMENT_BYTES: u64 = 300;

/// With and without room filled ahead of the records.
const RESERVES: [usize; 2] = [0, 24];

type Bodies = Vec<Vec<u8>>;

fn open(backend: &MemoryBackend, mark: Lsn) -> Result<(Recovered, Bodies), StoreError> {
    open_with(backend, mark, 0)
}

fn open_with(
    backend: &MemoryBackend,
    mark: Lsn,
    reserve_bytes: usize,
) -> Result<(Recovered, Bodies), StoreError> {
    let mut bodies = Bodies::new();
    let backend: Arc<dyn Backend> = Arc::new(backend.clone());
    let sizes = LogSizes { segment_bytes: SEGMENT_BYTES, reserve_bytes };
    let recovered = recover(&backend, SALT, mark, sizes, &mut |_, body| {
        bodies.push(body.to_vec());
        Ok(())
    })?;
    Ok((recovered, bodies))
}

fn batch(start: Lsn, bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for body in bodies {
        Framing::new(&SALT).seal(&mut bytes, start, |out| out.extend_from_slice(body));
    }
    bytes
}

/// A log of eight batches of one to three records in several segments; returns the batches too.
fn written(backend: &MemoryBackend) -> Vec<(Lsn, Bodies)> {
    written_with(backend, 0)
}

fn written_with(backend: &MemoryBackend, reserve_bytes: usize) -> Vec<(Lsn, Bodies)> {
    let (mut recovered, _) = open_with(backend, Lsn::ZERO, reserve_bytes).unwrap();
    let mut batches = Vec::new();
    for number in 0..8u8 {
        let bodies: Bodies = (0..=number % 3)
            .map(|index| vec![number * 16 + index; usize::from(number * 7 % 40)])
            .collect();
        let start = recovered.writer.end();
        recovered.writer.append(&batch(start, &bodies)).unwrap();
        batches.push((start, bodies));
    }
    batches
}

fn segments(backend: &MemoryBackend) -> Vec<String> {
    backend.list().unwrap()
}

#[test]
fn reopened_log_gives_back_every_record_from_the_mark_on() {
    let backend = MemoryBackend::default();
    let batches = written(&backend);
    assert!(segments(&backend).len() >= 2, "several segments: {:?}", segments(&backend));
    for (index, (start, _)) in batches.iter().enumerate() {
        let (recovered, bodies) = open(&backend, *start).unwrap();
        let expected: Bodies =
            batches[index..].iter().flat_map(|(_, bodies)| bodies.clone()).collect();
        assert_eq!(bodies, expected);
        assert_eq!(recovered.torn_tail, None);
    }
}

#[test]
fn reads_and_scans_give_what_was_appended() {
    let backend = MemoryBackend::default();
    let batches = written(&backend);
    let (recovered, bodies) = open(&backend, Lsn::ZERO).unwrap();
    let mut scan = recovered.log.scan(Lsn::ZERO).unwrap();
    let mut locations = Vec::new();
    loop {
        match scan.step().unwrap() {
            Scanned::Record(location, body) => {
                assert_eq!(body, bodies[locations.len()]);
                locations.push(location);
            }
            Scanned::End => break,
            Scanned::Gone => panic!("nothing was dropped"),
        }
    }
    let read = recovered.log.read(&locations).unwrap().unwrap();
    assert_eq!(read, bodies);
    assert_eq!(recovered.log.read(&locations[3..5]).unwrap().unwrap(), bodies[3..5]);

    let (first, end) = recovered.log.extents()[0];
    recovered.log.remove(first).unwrap();
    assert_eq!(recovered.log.read(&locations[..1]).unwrap(), None);
    assert!(recovered.log.scan(Lsn::ZERO).is_none());
    assert!(recovered.log.scan(end).is_some());
    let (mark, _) = batches.iter().find(|(start, _)| *start >= end).unwrap();
    open(&backend, *mark).expect("segments wholly before the mark may be missing");
}

#[test]
fn log_cut_at_every_byte_opens_to_a_prefix_and_can_be_appended_to() {
    RESERVES.into_iter().for_each(cut_at_every_byte);
}

fn cut_at_every_byte(reserve_bytes: usize) {
    let backend = MemoryBackend::default();
    let batches = written_with(&backend, reserve_bytes);
    let all: Bodies = batches.iter().flat_map(|(_, bodies)| bodies.clone()).collect();
    let name = segments(&backend).pop().unwrap();
    let content = backend.content(&name).unwrap();
    for cut in 0..content.len() {
        let copy = backend.copy();
        copy.set_content(&name, content[..cut].to_vec());
        let (mut recovered, bodies) = open_with(&copy, Lsn::ZERO, reserve_bytes).unwrap();
        assert!(all.starts_with(&bodies), "cut at {cut}");
        let end = recovered.writer.end();
        recovered.writer.append(&batch(end, &[b"after".to_vec()])).unwrap();
        let (again, mut more) = open_with(&copy, Lsn::ZERO, reserve_bytes).unwrap();
        assert_eq!((more.pop(), again.torn_tail), (Some(b"after".to_vec()), None), "cut at {cut}");
        assert_eq!(more, bodies);
    }
}

#[test]
fn every_flipped_byte_gives_a_prefix_that_lacks_the_last_batch_only_or_a_refusal() {
    RESERVES.into_iter().for_each(flip_every_byte);
}

fn flip_every_byte(reserve_bytes: usize) {
    let backend = MemoryBackend::default();
    let batches = written_with(&backend, reserve_bytes);
    let all: Bodies = batches.iter().flat_map(|(_, bodies)| bodies.clone()).collect();
    let last_batch = batches.last().unwrap();
    let synced_before_last = all.len() - last_batch.1.len();
    let mut refused = 0;
    for name in segments(&backend) {
        let content = backend.content(&name).unwrap();
        for at in 0..content.len() {
            let copy = backend.copy();
            let mut flipped = content.clone();
            flipped[at] ^= 0x41;
            copy.set_content(&name, flipped);
            match open_with(&copy, Lsn::ZERO, reserve_bytes) {
                Ok((_, bodies)) => {
                    assert!(all.starts_with(&bodies), "{name} at {at}");
                    assert!(
                        bodies.len() >= synced_before_last,
                        "{name} at {at}: {} records",
                        bodies.len()
                    );
                }
                Err(StoreError::Damaged { file, position, .. }) => {
                    assert_eq!(file, name);
                    assert!(
                        position <= at as u64,
                        "the position is where the damaged record starts"
                    );
                    refused += 1;
                }
                Err(other) => panic!("{name} at {at}: {other}"),
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn unsynced_batch_with_holes_is_a_torn_tail_and_not_damage() {
    let backend = MemoryBackend::default();
    let batches = written(&backend);
    let name = segments(&backend).pop().unwrap();
    let mut content = backend.content(&name).unwrap();
    let end = batches.last().unwrap().0;
    let (mut recovered, before) = open(&backend, Lsn::ZERO).unwrap();
    let start = recovered.writer.end();
    assert!(start > end);
    // Three records of which only the last reached the disk.
    let lost = batch(start, &[vec![1; 50], vec![2; 50], vec![3; 50]]);
    recovered.writer.append(&lost).unwrap();
    let tail = segments(&backend).pop().unwrap();
    let mut torn = backend.content(&tail).unwrap();
    let lost_at = torn.len() - lost.len();
    torn[lost_at..lost_at + 132].fill(0);
    if tail == name {
        content = torn.clone();
    }
    backend.set_content(&tail, torn);
    let (reopened, bodies) = open(&backend, Lsn::ZERO).unwrap();
    assert_eq!(bodies, before);
    assert_eq!(reopened.torn_tail, Some(TornTail { position: start, bytes: lost.len() as u64 }));

    // The same bytes, but a further batch was synced behind them: the hole is damage.
    let mut synced = content;
    let behind = start.after(lost.len());
    if tail == name {
        synced.extend(batch(behind, &[b"synced later".to_vec()]));
        backend.set_content(&tail, synced);
        assert!(matches!(open(&backend, Lsn::ZERO), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn log_that_ends_before_its_checkpoint_is_refused() {
    let backend = MemoryBackend::default();
    let batches = written(&backend);
    let name = segments(&backend).pop().unwrap();
    let content = backend.content(&name).unwrap();
    backend.set_content(&name, content[..content.len() - 1].to_vec());
    let (_, bodies) = open(&backend.copy(), batches.last().unwrap().0).unwrap();
    assert!(bodies.len() < batches.last().unwrap().1.len());
    let end = batches.last().unwrap().0.after(batch(Lsn::ZERO, &batches.last().unwrap().1).len());
    assert!(matches!(open(&backend, end), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let backend = MemoryBackend::default();
    written(&backend);
    let name = segments(&backend).remove(0);
    let mut content = backend.content(&name).unwrap();
    content[..SEGMENT_HEADER_BYTES].copy_from_slice(&segment_header(&[4; 16], Lsn::ZERO));
    backend.set_content(&name, content);
    assert!(matches!(open(&backend, Lsn::ZERO), Err(StoreError::Damaged { position: 0, .. })));
}

#[test]
fn sealing_starts_a_segment_so_that_the_old_one_can_be_dropped() {
    let backend = MemoryBackend::default();
    written(&backend);
    let (mut recovered, _) = open(&backend, Lsn::ZERO).unwrap();
    let before = recovered.log.extents();
    recovered.writer.seal().unwrap();
    recovered.writer.seal().unwrap();
    let after = recovered.log.extents();
    assert_eq!(after.len(), before.len() + 1, "sealing an empty segment does nothing");
    let end = recovered.writer.end();
    for (first, _) in before {
        recovered.log.remove(first).unwrap();
    }
    let (_, bodies) = open(&backend, end).unwrap();
    assert!(bodies.is_empty());
}

#[test]
fn a_log_with_one_record_has_exactly_these_bytes() {
    let backend = MemoryBackend::default();
    let (mut recovered, _) = open(&backend, Lsn::ZERO).unwrap();
    recovered.writer.append(&batch(Lsn::ZERO, &[b"body".to_vec()])).unwrap();
    let content = backend.content("00000000000000000000.log").unwrap();
    // The checksums were computed by another implementation of CRC-32.
    let mut expected = b"rejoinLG\x01\0\0\0".to_vec();
    expected.extend_from_slice(&SALT);
    expected.extend_from_slice(&[0; 8]);
    expected.extend_from_slice(&[128, 84, 203, 30]);
    expected.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[165, 183, 12, 44, 14, 29, 40, 181]);
    expected.extend_from_slice(b"body");
    assert_eq!(content, expected);
}

#[test]
fn room_ahead_is_filled_once_for_many_commits_and_given_back_by_sealing() {
    let backend = MemoryBackend::default();
    let (mut recovered, _) = open_with(&backend, Lsn::ZERO, 100).unwrap();
    let length =
        |backend: &MemoryBackend| backend.content("00000000000000000000.log").unwrap().len();
    let mut lengths = Vec::new();
    for number in 0..6 {
        let end = recovered.writer.end();
        recovered.writer.append(&batch(end, &[vec![number; 4]])).unwrap();
        lengths.push(length(&backend));
    }
    let first = SEGMENT_HEADER_BYTES + 20 + 100;
    assert_eq!(lengths[..6], [first; 6], "five more commits fit into the room of the first");
    let (mut reopened, bodies) = open_with(&backend, Lsn::ZERO, 100).unwrap();
    assert_eq!((bodies.len(), reopened.torn_tail), (6, None));
    reopened.writer.seal().unwrap();
    assert_eq!(length(&backend), SEGMENT_HEADER_BYTES + 6 * 20);
    assert_eq!(open(&backend, Lsn::ZERO).unwrap().1.len(), 6);
}

/// Found by the simulator (a misdirected write): zeros at the end of the last record were taken for room that
/// was never written to, so that it did not verify, and what had been synced before it was cut off.
#[test]
fn damage_before_a_last_record_that_ends_in_zeros_is_not_a_torn_tail() {
    for reserve_bytes in RESERVES {
        let backend = MemoryBackend::default();
        let (mut recovered, _) = open_with(&backend, Lsn::ZERO, reserve_bytes).unwrap();
        let bodies = [vec![1; 20], vec![2; 20], vec![3, 3, 3, 0, 0]];
        let starts = bodies.map(|body| {
            let start = recovered.writer.end();
            recovered.writer.append(&batch(start, &[body])).unwrap();
            start
        });
        let name = segments(&backend).remove(0);
        let mut content = backend.content(&name).unwrap();
        let hole = SEGMENT_HEADER_BYTES + starts[1].0 as usize
            ..SEGMENT_HEADER_BYTES + starts[2].0 as usize;
        content[hole].fill(0);
        backend.set_content(&name, content);
        let opened = open_with(&backend, Lsn::ZERO, reserve_bytes);
        assert!(matches!(opened, Err(StoreError::Damaged { .. })), "reserve of {reserve_bytes}");
    }
}
