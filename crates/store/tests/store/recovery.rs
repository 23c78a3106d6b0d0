//! What an opening makes of a log that was cut or changed, and that every way to a state leads to the same bytes.

use rejoin_crdt::{Path, ReadRows, StateDigest, Value};
use rejoin_store::*;

use crate::support::*;

const LOG: &str = "00000000000000000000.log";

/// A store with some commits and no checkpoint but that of its creation; the digest after each commit.
fn written(commits: u64) -> (MemoryBackend, SpaceIndex, Vec<StateDigest>) {
    let (backend, store, space) = new_store(1);
    let mut digests = vec![digest(&store, space)];
    for number in 0..commits {
        write_varied(&store, space, number);
        digests.push(digest(&store, space));
    }
    drop(store);
    (backend, space, digests)
}

#[test]
fn a_log_cut_at_every_byte_opens_to_a_prefix_of_the_acknowledged_commits() {
    let (backend, space, digests) = written(12);
    let content = backend.content(LOG).unwrap();
    let mut seen = vec![0; digests.len()];
    for cut in 0..content.len() {
        let copy = backend.copy();
        copy.set_content(LOG, content[..cut].to_vec());
        let (store, report) = try_open(&copy, 1, small_log()).unwrap();
        if store.spaces().is_empty() {
            assert_eq!(report.replayed_commits, 0);
            continue;
        }
        let commits = report.replayed_commits as usize;
        assert_eq!(digest(&store, space), digests[commits], "cut at {cut}");
        seen[commits] += 1;
    }
    assert!(seen[..12].iter().all(|cuts| *cuts > 0), "every prefix comes up: {seen:?}");
}

#[test]
fn every_flipped_byte_of_the_log_gives_a_prefix_or_a_refusal_with_its_position() {
    let (backend, space, digests) = written(6);
    let content = backend.content(LOG).unwrap();
    let records_end = 1 + content.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for at in 0..content.len() {
        let copy = backend.copy();
        let mut flipped = content.clone();
        flipped[at] ^= 0x10;
        copy.set_content(LOG, flipped);
        match try_open(&copy, 1, small_log()) {
            Ok((store, report)) => {
                let commits = report.replayed_commits as usize;
                assert_eq!(digest(&store, space), digests[commits], "flip at {at}");
                // Behind the records is room for more, where a stray byte costs nothing.
                let expected = if at < records_end { 5 } else { 6 };
                assert_eq!(commits, expected, "only the last batch can be taken for a torn tail");
                assert!(report.torn_tail.is_some());
            }
            Err(StoreError::Damaged { file, position, .. }) => {
                assert_eq!(file, LOG);
                assert!(position <= at as u64, "{position} for a flip at {at}");
                refused += 1;
            }
            Err(other) => panic!("flip at {at}: {other}"),
        }
    }
    assert!(refused > records_end / 2);
}

#[test]
fn after_a_checkpoint_a_flipped_byte_never_changes_what_is_read() {
    let (backend, space, digests) = written(6);
    open(&backend, 1).close().unwrap();
    let content = backend.content(LOG).unwrap();
    for at in (0..content.len()).step_by(3) {
        let copy = backend.copy();
        let mut flipped = content.clone();
        flipped[at] ^= 0x10;
        copy.set_content(LOG, flipped);
        let store = match try_open(&copy, 1, small_log()) {
            Ok((store, _)) => store,
            Err(StoreError::Damaged { .. }) => continue,
            Err(other) => panic!("flip at {at}: {other}"),
        };
        assert_eq!(digest(&store, space), digests[6], "flip at {at}");
        // What peers ask for is verified as it is read.
        match store.commits_after(space, &Default::default(), usize::MAX) {
            Ok(CommitsAfter::Commits { runs, .. }) => assert_eq!(runs[0].bodies.len(), 6),
            Err(StoreError::Damaged { position, .. }) => assert!(position <= at as u64),
            other => panic!("flip at {at}: {other:?}"),
        }
    }
}

/// Opens a store whose tree was tampered with and reads all of it.
fn read_all(backend: &MemoryBackend, tree: Vec<u8>) -> Result<StateDigest, StoreError> {
    let copy = backend.copy();
    copy.set_content("tree.redb", tree);
    let (store, _) = try_open(&copy, 1, small_log())?;
    let space = store.spaces()[0].0;
    let snapshot = store.snapshot(space)?;
    rejoin_crdt::state_digest(&snapshot, snapshot.version())
}

#[test]
fn a_tampered_tree_is_refused_or_read_right_and_never_a_panic() {
    let (backend, store, space) = new_store(1);
    for number in 0..400 {
        store
            .append(space, number, |tx| tx.increment(path("n").child(number * 7).unwrap(), 1))
            .unwrap();
    }
    store.checkpoint().unwrap();
    let expected = digest(&store, space);
    store.close().unwrap();
    let content = backend.content("tree.redb").unwrap();
    let header = 4_096..4_096 + 320;
    let written: Vec<_> = (0..content.len()).filter(|at| content[*at] != 0).collect();
    let mut refused = 0;
    for (number, at) in header.chain(written.into_iter().step_by(61)).enumerate() {
        let mut flipped = content.clone();
        flipped[at] ^= 1 << (number % 8);
        match read_all(&backend, flipped) {
            Ok(digest) => assert_eq!(digest, expected, "flip at {at}"),
            Err(StoreError::Damaged { file, .. }) => {
                assert_eq!(file, "tree.redb");
                refused += 1;
            }
            Err(StoreError::Io { .. } | StoreError::UnknownFormat { .. }) => refused += 1,
            Err(other) => panic!("flip at {at}: {other}"),
        }
    }
    assert!(refused > 300, "{refused} refusals");
    for cut in (0..content.len()).step_by(40_961) {
        let digest = read_all(&backend, content[..cut].to_vec());
        assert!(digest.is_err() || digest.is_ok_and(|digest| digest == expected), "cut at {cut}");
    }
}

#[test]
fn a_missing_log_or_tree_is_refused() {
    let (backend, _, _) = written(3);
    open(&backend, 1).close().unwrap();
    for missing in [LOG, "tree.redb"] {
        let copy = backend.copy();
        Backend::remove(&copy, missing).unwrap();
        assert!(try_open(&copy, 1, small_log()).is_err(), "without {missing}");
    }
}

#[test]
fn commits_recovery_checkpoints_peers_and_joins_all_lead_to_the_same_bytes() {
    let (backend, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    for number in 0..40 {
        write_varied(&a, space, number);
        write_varied(&b, space, 1_000 + number);
        if number % 5 == 0 {
            pull(&a, &b, space);
        }
        if number % 7 == 0 {
            join(&b, &a, space);
        }
        if number % 11 == 0 {
            a.checkpoint().unwrap();
        }
    }
    pull(&a, &b, space);
    join(&b, &a, space);
    let expected = digest(&a, space);
    assert_eq!(digest(&b, space), expected, "by joins");

    let (_, by_commits, _) = new_store(3);
    pull(&by_commits, &a, space);
    assert_eq!(
        digest(&by_commits, space),
        expected,
        "by commits from a peer: a rebuild from the log"
    );
    let (_, by_state, _) = new_store(4);
    join(&by_state, &a, space);
    assert_eq!(digest(&by_state, space), expected, "by one join");
    by_state.checkpoint().unwrap();
    assert_eq!(digest(&by_state, space), expected);

    let crashed = backend.copy();
    let recovered = open(&crashed, 1);
    assert_eq!(digest(&recovered, space), expected, "by recovery");
    a.close().unwrap();
    let reopened = open(&backend, 1);
    assert_eq!(digest(&reopened, space), expected, "from the tree alone");
}

#[test]
fn pages_and_iterators_agree_wherever_rows_lie() {
    let (_, store, space) = new_store(1);
    for number in 0..600u64 {
        let write = |tx: &mut Tx<'_>| tx.increment(path("n").child(number * 7 % 600).unwrap(), 1);
        store.append(space, 0, write).unwrap();
        if number == 200 || number == 400 {
            store.checkpoint().unwrap();
        }
    }
    store.sync().unwrap();
    let snapshot = store.snapshot(space).unwrap();
    let all: Vec<_> = snapshot.iter(&Path::root()).map(|row| row.unwrap().0).collect();
    assert_eq!(all.len(), 600);
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    for limit in [1, 7, 599, 600, 601] {
        let mut paged = Vec::new();
        loop {
            let page = snapshot.page(&path("n"), paged.last(), limit).unwrap();
            let ended = page.len() < limit;
            paged.extend(page.into_iter().map(|(key, _)| key));
            if ended {
                break;
            }
        }
        assert_eq!(paged, all, "pages of {limit}");
    }
}

#[test]
fn what_a_killed_process_left_unsynced_is_durable_once_the_next_one_shows_it() {
    let options =
        StoreOptions { segment_bytes: 500, reserve_bytes: 100, ..StoreOptions::default() };
    // The operation that fails is the one in which the process is killed: what it wrote before is not synced.
    for (writes, killed_in) in (4..12).flat_map(|writes| (0..7).map(move |at| (writes, at))) {
        let backend = MemoryBackend::recording();
        let (store, _) = try_open(&backend, 1, options.clone()).unwrap();
        let space = store.create_space(SPACE, "cart").unwrap();
        (0..writes).for_each(|number| {
            put(&store, space, "row", number);
        });
        backend.fail_after(Some(killed_in));
        let _unknown =
            store.write(space, 1, |tx| tx.put(path("row"), Value::String("x".repeat(90))));
        drop(store);
        backend.fail_after(None);

        let (store, _) = try_open(&backend, 1, options.clone()).unwrap();
        let told = store.durable_version(space).unwrap();
        let after_power_cut = crash_image(&backend.journal(), |_| Fate::Drop);
        let (store, _) = try_open(&after_power_cut, 1, options.clone()).unwrap();
        assert_eq!(version(&store, space), told, "{writes} writes, killed in {killed_in}");
    }
}

#[test]
fn a_creation_torn_within_the_magic_number_of_the_tree_is_begun_anew() {
    let backend = MemoryBackend::recording();
    try_open(&backend, 1, StoreOptions::default()).unwrap();
    let journal = backend.journal();
    // The content of the tree begins behind a block of checksums.
    let tree = |cut| crash_image(&journal[..cut], |_| Fate::Keep).content("tree.redb");
    let with_magic = |cut: &usize| tree(*cut).is_some_and(|tree| tree.get(4_096) == Some(&b'r'));
    let cut = (0..journal.len()).find(with_magic).unwrap();
    for torn in 1..9 {
        let image = crash_image(&journal[..cut], |_| Fate::Keep);
        let mut content = tree(cut).unwrap();
        content[4_096 + torn..4_105].fill(0);
        image.set_content("tree.redb", content);
        try_open(&image, 1, StoreOptions::default()).unwrap();
    }
}

#[test]
fn the_name_of_the_tree_is_durable_before_there_is_a_log() {
    for killed_in in 0.. {
        let backend = MemoryBackend::recording();
        backend.fail_after(Some(killed_in));
        let opened = try_open(&backend, 1, StoreOptions::default());
        backend.fail_after(None);
        if opened.is_ok() {
            break;
        }
        drop(opened);
        let first = backend.journal_len();
        try_open(&backend, 1, StoreOptions::default()).unwrap();
        let journal = backend.journal();
        for cut in first..=journal.len() {
            let lost = |operation: &Operation| match operation {
                Operation::Create(name) if name == "tree.redb" => Fate::Drop,
                _ => Fate::Keep,
            };
            let image = crash_image(&journal[..cut], lost);
            try_open(&image, 1, StoreOptions::default()).expect("a crash is no damage");
        }
    }
}
