// Helpers, too, fail by panicking.
#![allow(clippy::unwrap_used)]

use rejoin_crdt::{Path, ReplicaId, SpaceId, Value};
use rejoin_store::{FreshIds, StorageFile, Store, StoreError, StoreOptions, WriteError};

use super::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Random::new(seed), DiskFaults::default())
}

fn faulty(seed: u64, faults: DiskFaults) -> SimDisk {
    SimDisk::new(Random::new(seed), faults)
}

/// A file of `bytes` that is durable, name and all.
fn durable(disk: &SimDisk, name: &str, bytes: &[u8]) -> (Arc<dyn Backend>, Arc<dyn StorageFile>) {
    let backend = disk.boot();
    let file = backend.create(name).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
    backend.sync_directory().unwrap();
    (backend, file)
}

fn content(disk: &SimDisk, name: &str) -> Vec<u8> {
    disk.image().read(name).unwrap()
}

fn count(disk: &SimDisk, class: &str) -> u64 {
    disk.counts().get(class).copied().unwrap_or(0)
}

#[test]
fn bytes_read_back_across_pages_and_holes() {
    let disk = disk(1);
    let backend = disk.boot();
    let file = backend.create("a").unwrap();
    let bytes: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8).collect();
    file.write_at(5_000, &bytes).unwrap();
    assert_eq!(file.len().unwrap(), 25_000);
    let mut out = vec![1; 25_000];
    file.read_at(0, &mut out).unwrap();
    assert_eq!(out[..5_000], [0; 5_000]);
    assert_eq!(out[5_000..], bytes);
    file.set_len(6_000).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut out = [1; 2_000];
    file.read_at(5_500, &mut out).unwrap();
    assert_eq!(out[..500], bytes[500..1_000]);
    assert_eq!(out[500..], [0; 1_500]);
    let error = file.read_at((1 << 40) - 1, &mut out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    file.write_at(5_000, &[0; 1_000]).unwrap();
    file.read_at(5_000, &mut out).unwrap();
    assert_eq!(out, [0; 2_000]);
}

#[test]
fn what_was_synced_survives_every_power_cut_and_the_rest_as_chance_will_have_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk(seed);
        let (backend, file) = durable(&disk, "a", &[1; 6_000]);
        file.write_at(0, &[2; 1_000]).unwrap();
        file.write_at(4_096, &[3; 1_000]).unwrap();
        backend.create("b").unwrap();
        disk.power_cut();
        assert!(disk.is_dead());
        assert_eq!(file.len().unwrap_err().kind(), io::ErrorKind::Other);
        let bytes = content(&disk, "a");
        assert_eq!(bytes.len(), 6_000);
        assert!(bytes[..1_000].iter().all(|byte| [1, 2].contains(byte)));
        assert!(bytes[1_000..4_096].iter().all(|byte| *byte == 1));
        assert!(bytes[4_096..5_096].iter().all(|byte| [1, 3].contains(byte)));
        assert!(bytes[5_096..].iter().all(|byte| *byte == 1));
        let whole = |at: usize| match bytes[at..at + 1_000].iter().filter(|b| **b == 1).count() {
            0 => "kept",
            1_000 => "lost",
            _ => "torn",
        };
        seen.insert((whole(0), whole(4_096), disk.image().read("b").is_some()));
        // What is there after a power cut is there for good.
        disk.boot();
        disk.power_cut();
        assert_eq!(content(&disk, "a"), bytes);
    }
    let fates = ["kept", "lost", "torn"];
    let pairs = fates.iter().flat_map(|first| fates.iter().map(move |second| (*first, *second)));
    for (first, second) in pairs {
        assert!(
            seen.iter().any(|seen| (seen.0, seen.1) == (first, second)),
            "{first}, {second} in {seen:?}"
        );
    }
}

#[test]
fn a_removal_that_was_not_synced_may_come_back() {
    let back = |seed| {
        let disk = disk(seed);
        let (backend, _) = durable(&disk, "a", b"x");
        backend.remove("a").unwrap();
        assert!(backend.list().unwrap().is_empty());
        disk.power_cut();
        disk.boot().list().unwrap() == ["a"]
    };
    assert!((0..20).any(back) && !(0..20).all(back));
    let disk = disk(1);
    let (backend, file) = durable(&disk, "a", b"x");
    backend.remove("a").unwrap();
    backend.sync_directory().unwrap();
    file.read_at(0, &mut [0]).unwrap();
    disk.power_cut();
    assert!(disk.boot().list().unwrap().is_empty());
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_a_power_cut_may_still_take_it() {
    let survives = |seed| {
        let disk = disk(seed);
        let (backend, file) = durable(&disk, "a", &[1; 10]);
        file.write_at(0, &[2; 10]).unwrap();
        let _lock = backend.lock().unwrap();
        disk.kill();
        assert!(disk.is_dead());
        assert_eq!(content(&disk, "a"), [2; 10]);
        assert_eq!(file.sync().unwrap_err().to_string(), "the machine is down");
        assert!(backend.list().is_err());
        let backend = disk.boot();
        backend.lock().unwrap();
        let mut out = [0; 10];
        backend.open("a").unwrap().read_at(0, &mut out).unwrap();
        assert_eq!(out, [2; 10]);
        disk.power_cut();
        content(&disk, "a") == [2; 10]
    };
    assert!((0..20).any(survives) && !(0..20).all(survives));
}

#[test]
fn the_chosen_operation_is_the_last_one() {
    let disk = disk(3);
    let (_, file) = durable(&disk, "a", b"abc");
    disk.crash_after(Some(2));
    file.len().unwrap();
    file.read_at(0, &mut [0; 3]).unwrap();
    file.read_at(0, &mut [0; 3]).unwrap_err();
    assert!(disk.is_dead());
    assert_eq!(disk.operations(), 7);
    file.len().unwrap_err();
    assert_eq!(disk.operations(), 7, "a machine that is down is asked nothing");

    let torn = |seed| {
        let disk = tests::disk(seed);
        let (_, file) = durable(&disk, "a", &[1; 100]);
        disk.crash_after_kill(Some(0));
        file.write_at(0, &[2; 100]).unwrap_err();
        let bytes = content(&disk, "a");
        let made = bytes.iter().take_while(|byte| **byte == 2).count();
        assert!(bytes[made..].iter().all(|byte| *byte == 1));
        assert_eq!(count(&disk, "disk: process killed"), 1);
        (1..100).contains(&made)
    };
    assert!((0..20).any(torn));
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_brings_back() {
    let mut lost = 0;
    for (seed, lingers) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = disk(seed);
        let (_, file) = durable(&disk, "a", &[1; 8_192]);
        disk.set_faults(DiskFaults {
            failed_sync: 1.0,
            failed_sync_lingers: lingers,
            ..DiskFaults::default()
        });
        file.write_at(100, &[2; 10]).unwrap();
        file.sync().unwrap_err();
        disk.set_faults(DiskFaults { failed_sync_lingers: lingers, ..DiskFaults::default() });
        let mut out = [0; 10];
        file.read_at(100, &mut out).unwrap();
        assert_eq!(out, [2; 10], "the cache has it");
        file.write_at(200, &[3; 10]).unwrap();
        file.sync().unwrap();
        drop(file);
        disk.boot();
        let is_lost = count(&disk, "disk: lost write") == 1;
        let seen_again = if is_lost && !lingers { 1 } else { 2 };
        assert_eq!(content(&disk, "a")[100], seen_again);
        disk.power_cut();
        assert_eq!(content(&disk, "a")[100], if is_lost { 1 } else { 2 });
        assert_eq!(content(&disk, "a")[200], 3);
        lost += u64::from(is_lost);
        assert_eq!(count(&disk, "disk: failed sync"), 1);
    }
    assert!(lost > 0 && lost < 40);
}

#[test]
fn a_failed_write_makes_a_first_part_and_a_failed_read_is_over_at_once() {
    let disk = disk(5);
    let (_, file) = durable(&disk, "a", &[1; 100]);
    disk.set_faults(DiskFaults { failed_write: 1.0, ..DiskFaults::default() });
    file.write_at(0, &[2; 100]).unwrap_err();
    let bytes = content(&disk, "a");
    let made = bytes.iter().take_while(|byte| **byte == 2).count();
    assert!(bytes[made..].iter().all(|byte| *byte == 1));
    disk.set_faults(DiskFaults { failed_read: 1.0, ..DiskFaults::default() });
    file.read_at(0, &mut [0]).unwrap_err();
    file.write_at(0, &[3; 100]).unwrap();
    disk.set_faults(DiskFaults::default());
    file.read_at(0, &mut [0]).unwrap();
    let counts = disk.counts();
    assert_eq!(counts, BTreeMap::from([("disk: failed read", 1), ("disk: failed write", 1)]));
}

#[test]
fn rot_flips_a_few_bits_of_one_durable_page_and_says_where() {
    for seed in 0..50 {
        let disk = disk(seed);
        assert_eq!(disk.rot(), None);
        let (_, file) = durable(&disk, "a", &[0x55; 10_000]);
        file.write_at(4_096, &[0xaa; 10]).unwrap();
        let before = content(&disk, "a");
        let place = disk.rot().unwrap();
        let after = content(&disk, "a");
        let flipped: Vec<usize> = (0..10_000).filter(|at| before[*at] != after[*at]).collect();
        let bits: u32 = flipped.iter().map(|at| (before[*at] ^ after[*at]).count_ones()).sum();
        assert!((1..=128).contains(&bits), "{place}");
        let page = flipped[0] / 4_096;
        assert!(page != 1 && flipped.iter().all(|at| at / 4_096 == page), "{place}");
        assert!(place.starts_with("a: ") && place.contains(&format!(" {}.", flipped[0])));
        assert_eq!(disk.take_damage(), [(Damage::BitRot, place)]);
        // It is the medium that rots.
        drop(file);
        disk.power_cut();
        assert_eq!(content(&disk, "a")[flipped[0]], after[flipped[0]]);
    }
    let disk = faulty(1, DiskFaults { bit_rot: 1.0, ..DiskFaults::default() });
    durable(&disk, "a", b"abc");
    assert!(count(&disk, "disk: bit rot") > 0);
}

#[test]
fn one_misdirected_write_goes_to_another_page() {
    for seed in 0..20 {
        let disk = disk(seed);
        let (_, file) = durable(&disk, "a", &[1; 3 * 4_096]);
        disk.misdirect_next_write();
        file.write_at(4_096 + 7, &[2; 10]).unwrap();
        file.write_at(0, &[3]).unwrap();
        let bytes = content(&disk, "a");
        let hit: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == 2).collect();
        assert_eq!(hit.len(), 10);
        assert!(hit[0] == 7 || hit[0] == 2 * 4_096 + 7);
        assert_eq!(bytes[0], 3);
        assert_eq!(count(&disk, "disk: misdirected write"), 1);
        assert_eq!(disk.take_damage().len(), 1);
    }
}

#[test]
fn a_full_disk_has_room_again_once_something_is_removed() {
    let faults = DiskFaults { capacity_bytes: Some(4 * 4_096), ..DiskFaults::default() };
    let disk = faulty(1, faults);
    let (backend, file) = durable(&disk, "a", &[1; 3 * 4_096]);
    let other = backend.create("b").unwrap();
    other.set_len(1 << 30).unwrap();
    let error = other.write_at(100, &[2; 8_000]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.used_bytes(), 4 * 4_096, "what fits is written");
    file.write_at(0, &[4; 3 * 4_096]).unwrap();
    file.set_len(4_096).unwrap();
    other.write_at(100, &[2; 8_000]).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 4_096);
    backend.remove("b").unwrap();
    assert_eq!(disk.used_bytes(), 4_096);
    assert_eq!(count(&disk, "disk: full"), 1);
}

#[test]
fn a_slow_disk_takes_its_time() {
    let faults =
        DiskFaults { operation_us: 300, stall: 0.5, stall_ms: 100, ..DiskFaults::default() };
    let disk = faulty(1, faults);
    durable(&disk, "a", b"x");
    assert_eq!(count(&disk, "disk: slow"), 4);
    assert!(count(&disk, "disk: stall") > 0);
    assert!(disk.take_busy_ms() > 1);
    assert_eq!(disk.take_busy_ms(), 0);
}

#[test]
fn an_image_stays_what_it_was_and_can_be_put_back_or_cloned() {
    let disk = disk(1);
    let (backend, file) = durable(&disk, "a", &[1; 5_000]);
    let image = disk.image();
    file.write_at(0, &[2; 5_000]).unwrap();
    file.sync().unwrap();
    backend.create("b").unwrap();
    let newer = disk.image();
    let twin = SimDisk::from_image(Random::new(2), DiskFaults::default(), &image);
    disk.restore(&image);
    assert!(disk.is_dead() && file.len().is_err());
    disk.boot();
    disk.power_cut();
    assert_eq!(disk.image().hash(), image.hash());
    assert_eq!(content(&disk, "a"), [1; 5_000]);
    assert_eq!(newer.files().collect::<Vec<_>>(), [("a", 5_000), ("b", 0)]);
    assert_eq!(newer.read("a").unwrap(), [2; 5_000]);
    twin.boot().open("a").unwrap().write_at(0, &[9]).unwrap();
    assert_eq!(content(&disk, "a")[0], 1);
}

const SPACE: SpaceId = SpaceId::from_bytes([5; 32]);

fn open_store(disk: &SimDisk) -> Result<Store, StoreError> {
    let options =
        StoreOptions { segment_bytes: 16_384, reserve_bytes: 4_096, ..StoreOptions::default() };
    let fresh = FreshIds { replica: ReplicaId::from_bytes([1; 16]), salt: [7; 16] };
    Store::open(disk.boot(), options, fresh, Box::new(())).map(|(store, _)| store)
}

/// Writes until the disk dies; returns how many commits were acknowledged.
fn write_on(store: &Store) -> Result<u64, WriteError<rejoin_crdt::PrepareError<StoreError>>> {
    let space = store.create_space(SPACE, "space")?;
    let mut sequence = 0;
    for number in 0..40 {
        let path = Path::of(["row", &format!("{}", number % 7)]).unwrap();
        let write = |tx: &mut rejoin_crdt::Transaction<'_, _>| {
            tx.put(path, Value::String("text ".repeat(20 + number)))
        };
        match store.write(space, 1, write) {
            Ok((_, committed)) => sequence = committed.unwrap().dot.sequence,
            Err(_) => break,
        }
        if number % 10 == 9 && store.checkpoint().is_err() {
            break;
        }
    }
    Ok(sequence)
}

fn story(seed: u64) -> (u64, [u8; 32], [u8; 32], BTreeMap<&'static str, u64>) {
    let disk = disk(seed);
    let mut random = Random::new(seed);
    let mut acknowledged = 0;
    for round in 0..6 {
        let delay = random.below(150);
        if round % 2 == 0 {
            disk.crash_after(Some(delay));
        } else {
            disk.crash_after_kill(Some(delay));
        }
        if let Ok(store) = open_store(&disk) {
            acknowledged = write_on(&store).map_or(acknowledged, |now| now.max(acknowledged));
        }
        disk.crash_after(None);
        disk.power_cut();
        let store = open_store(&disk).expect("a crash is no damage");
        let space = store.create_space(SPACE, "space").unwrap();
        let version = store.snapshot(space).unwrap().version().clone();
        assert!(version.sequence(store.replica_id()) >= acknowledged, "seed {seed}");
    }
    let mut hasher = blake3::Hasher::new();
    disk.digest_into(&mut hasher);
    (disk.operations(), *hasher.finalize().as_bytes(), disk.image().hash(), disk.counts())
}

#[test]
fn a_store_survives_crashes_at_random_moments_and_the_same_seed_gives_the_same_story() {
    for seed in 0..15 {
        let first = story(seed);
        assert_eq!(first, story(seed), "seed {seed}");
        assert!(first.3["disk: power cut"] > 0);
    }
    assert_ne!(story(1).1, story(2).1);
}

#[test]
fn the_tree_writes_its_pages_in_an_order_that_repeats() {
    let asked = |_| {
        let disk = disk(1);
        let options = StoreOptions {
            tree_cache_bytes: 1 << 16,
            buffer_bytes: 1 << 14,
            ..StoreOptions::default()
        };
        let fresh = FreshIds { replica: ReplicaId::from_bytes([1; 16]), salt: [7; 16] };
        let (store, _) = Store::open(disk.boot(), options, fresh, Box::new(())).unwrap();
        let space = store.create_space(SPACE, "space").unwrap();
        for round in 0..6u64 {
            for number in 0..300u64 {
                let name = blake3::hash(&(round * 1_000 + number).to_le_bytes()).to_hex();
                let path = Path::of(["row", name.as_str()]).unwrap();
                let value = Value::String("x".repeat(500 + number as usize % 97));
                let _ticket = store.append(space, 1, |tx| tx.put(path, value)).unwrap();
            }
            store.checkpoint().unwrap();
        }
        store.close().unwrap();
        let mut hasher = blake3::Hasher::new();
        disk.digest_into(&mut hasher);
        (*hasher.finalize().as_bytes(), disk.operations(), disk.used_bytes())
    };
    let first = asked(0);
    assert!(first.2 > 200 * 4_096, "more dirty pages than the tree's write buffer has stripes");
    for again in 1..4 {
        assert_eq!(first, asked(again));
    }
}
