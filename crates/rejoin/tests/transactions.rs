//! Transactions through the public API: whole or not at all, their own writes, their limits, their errors.

use rejoin::{
    Durability, Error, Options, Replica, Segment, Space, StoreError, StoreOptions, Value, path,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn space() -> Result<Space, Failure> {
    Ok(Replica::in_memory(Options::default())?.space("tested")?)
}

#[test]
fn a_transaction_reads_its_own_writes_and_nobody_else_does() -> Result<(), Failure> {
    let space = space()?;
    let before = space.read()?;
    space.write(|tx| {
        tx.counter("n").add(2)?;
        tx.counter("n").add(3)?;
        assert_eq!(tx.counter("n").get()?, 5);
        tx.set("s").insert("x")?;
        assert!(tx.set("s").contains("x")?);
        tx.set("s").remove("x")?;
        assert!(!tx.set("s").contains("x")?);
        tx.register(path!["t", 1]).put("one")?;
        tx.register(path!["t", 2]).put("two")?;
        let children: Result<Vec<_>, _> = tx.tree("t")?.children().collect();
        assert_eq!(children?.len(), 2);
        tx.remove_tree("t")?;
        assert!(tx.tree("t")?.is_empty()?);
        tx.register(path!["t", 3]).put("three")
    })?;
    assert_eq!(before.counter("n")?, 0, "a snapshot moved");
    let after = space.read()?;
    assert_eq!(after.counter("n")?, 5);
    assert_eq!(after.scan().count(), 2, "the counter and one register are left");
    assert_eq!(after.register(path!["t", 3])?, Some(Value::from("three")));
    Ok(())
}

#[test]
fn a_transaction_that_is_given_up_or_empty_makes_no_commit() -> Result<(), Failure> {
    let space = space()?;
    space.write(|tx| tx.counter("n").add(1))?;
    let version = space.durable_version()?;
    let given_up = space.write(|tx| {
        tx.counter("n").add(1)?;
        Err::<(), _>(Error::abort("no"))
    });
    assert!(matches!(given_up, Err(Error::Aborted(_))));
    space.write(|tx| {
        tx.set("s").remove("never there")?;
        tx.remove_tree("nothing here")?;
        tx.remove("nor here")
    })?;
    assert_eq!(space.durable_version()?, version);
    assert_eq!(space.read()?.counter("n")?, 1);
    Ok(())
}

#[test]
fn bad_input_is_a_typed_error_and_changes_nothing() -> Result<(), Failure> {
    let replica = Replica::in_memory(Options::default())?;
    assert!(matches!(replica.space(""), Err(Error::SpaceName { length: 0 })));
    assert!(matches!(replica.space(&"x".repeat(2_000)), Err(Error::SpaceName { length: 2_000 })));
    let space = replica.space("tested")?;
    let long = "x".repeat(5_000);
    assert!(matches!(space.write(|tx| tx.counter(long.as_str()).add(1)), Err(Error::Path(_))));
    assert!(matches!(space.watch(long.as_str()), Err(Error::Path(_))));
    assert!(matches!(space.read()?.counter(long.as_str()), Err(Error::Path(_))));
    let large = vec![0u8; 2 << 20];
    assert!(matches!(space.write(|tx| tx.register("r").put(large)), Err(Error::Value(_))));
    let deep = (0..100).fold(Value::Null, |inner, _| Value::List(vec![inner]));
    assert!(matches!(space.write(|tx| tx.register("r").put(deep)), Err(Error::Value(_))));
    let overflow = space.write(|tx| {
        tx.counter("n").add(i64::MAX)?;
        tx.counter("n").add(1)
    });
    assert!(matches!(overflow, Err(Error::CounterOverflow)));
    let huge = space.write(|tx| {
        let megabyte = vec![7u8; 1_000_000];
        (0..6).try_for_each(|number| tx.register(path![number]).put(megabyte.clone()))
    });
    assert!(matches!(huge, Err(Error::Commit(_))), "{huge:?}");
    assert!(space.durable_version()?.is_empty());
    Ok(())
}

#[test]
fn an_error_inside_a_transaction_changes_nothing_of_it() -> Result<(), Failure> {
    let space = space()?;
    space.write(|tx| {
        tx.counter("n").add(i64::MAX)?;
        assert!(matches!(tx.counter("n").add(1), Err(Error::CounterOverflow)));
        tx.counter("n").add(-1)
    })?;
    assert_eq!(space.read()?.counter("n")?, i64::MAX - 1);
    Ok(())
}

#[test]
fn scans_are_in_the_order_of_paths_and_complete() -> Result<(), Failure> {
    let space = space()?;
    space.write(|tx| {
        for number in (0..1_000u64).rev() {
            tx.counter(path!["numbers", number]).add(number as i64)?;
        }
        tx.set("names").insert("b")?;
        tx.set("names").insert("a")?;
        tx.flag("on").enable()
    })?;
    let snapshot = space.read()?;
    let numbers: Result<Vec<_>, _> = snapshot.tree("numbers")?.children().collect();
    let numbers: Vec<_> = numbers?.into_iter().map(|(segment, _)| segment).collect();
    assert_eq!(numbers, (0..1_000).map(Segment::U64).collect::<Vec<_>>());
    let names: Result<Vec<_>, _> = snapshot.tree("names")?.elements().collect();
    assert_eq!(names?, [Segment::String("a".into()), Segment::String("b".into())]);
    let entries: Result<Vec<_>, _> = snapshot.scan().collect();
    let paths: Vec<_> = entries?.into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths.len(), 1_003);
    assert!(paths.is_sorted());
    Ok(())
}

#[test]
fn eventual_writes_are_visible_at_once_and_durable_after_a_sync() -> Result<(), Failure> {
    let store = StoreOptions {
        durability: Durability::Eventual { interval_ms: 3_600_000 },
        ..StoreOptions::default()
    };
    let replica = Replica::in_memory(Options { store, ..Options::default() })?;
    let space = replica.space("tested")?;
    space.write(|tx| tx.counter("n").add(1))?;
    assert_eq!(space.read()?.counter("n")?, 1);
    assert!(space.durable_version()?.is_empty(), "peers may be told of what is not on disk");
    replica.sync()?;
    assert_eq!(space.durable_version()?.commits(), 1);
    Ok(())
}

#[test]
fn eventual_writes_become_durable_within_the_interval() -> Result<(), Failure> {
    let store = StoreOptions {
        durability: Durability::Eventual { interval_ms: 10 },
        ..StoreOptions::default()
    };
    let replica = Replica::in_memory(Options { store, ..Options::default() })?;
    let space = replica.space("tested")?;
    space.write(|tx| tx.counter("n").add(1))?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while space.durable_version()?.is_empty() {
        assert!(std::time::Instant::now() < deadline, "nobody synced");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn a_folder_is_open_once_and_free_again_when_all_handles_are_gone() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let replica = Replica::open(folder.path())?;
    let (id, device) = (replica.replica_id(), replica.device_id());
    let space = replica.space("kept")?;
    assert!(matches!(Replica::open(folder.path()), Err(Error::Store(StoreError::Locked))));
    drop(replica);
    assert!(matches!(Replica::open(folder.path()), Err(Error::Store(StoreError::Locked))));
    drop(space);
    let replica = Replica::open(folder.path())?;
    assert_eq!((replica.replica_id(), replica.device_id()), (id, device));
    assert_eq!(replica.spaces(), ["kept"]);
    assert_eq!(replica.open_report().replayed_commits, 0, "closing made no checkpoint");
    Ok(())
}

#[test]
fn writes_after_closing_fail() -> Result<(), Failure> {
    let replica = Replica::in_memory(Options::default())?;
    let space = replica.space("tested")?;
    replica.close()?;
    assert!(matches!(space.write(|tx| tx.flag("f").enable()), Err(Error::Closed)));
    Ok(())
}

#[test]
fn a_damaged_device_key_is_refused_and_a_torn_first_one_replaced() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("device.key");
    drop(Replica::open(folder.path())?);
    // Cut short while the store has no space: the creation never ended.
    std::fs::write(&key, b"short")?;
    let replica = Replica::open(folder.path())?;
    let device = replica.device_id();
    replica.space("used")?;
    drop(replica);
    assert_eq!(Replica::open(folder.path())?.device_id(), device);
    let mut bytes = std::fs::read(&key)?;
    bytes[0] ^= 1;
    std::fs::write(&key, &bytes)?;
    assert!(matches!(Replica::open(folder.path()), Err(Error::DeviceKey(_))));
    std::fs::remove_file(&key)?;
    assert!(matches!(Replica::open(folder.path()), Err(Error::DeviceKey(_))));
    Ok(())
}

#[test]
fn calls_that_would_wait_for_their_own_transaction_are_refused() -> Result<(), Failure> {
    let replica = Replica::in_memory(Options::default())?;
    let space = replica.space("tested")?;
    let elsewhere = self::space()?;
    space.write(|tx| {
        let nested = space.write(|tx| tx.counter("n").add(1));
        assert!(matches!(nested, Err(Error::InsideTransaction)));
        assert!(matches!(replica.space("another"), Err(Error::InsideTransaction)));
        assert!(matches!(replica.sync(), Err(Error::InsideTransaction)));
        assert!(matches!(replica.drop_log(), Err(Error::InsideTransaction)));
        // Another replica's transactions have nothing to do with this one, nor have snapshots.
        elsewhere.write(|tx| {
            assert!(matches!(replica.sync(), Err(Error::InsideTransaction)));
            tx.counter("n").add(7)
        })?;
        assert_eq!(space.read()?.counter("n")?, 0);
        tx.counter("n").add(2)
    })?;
    let panicking = || space.write::<()>(|_| panic!("in a transaction"));
    let given_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking));
    assert!(given_up.is_err());
    space.write(|tx| tx.counter("n").add(3))?;
    assert_eq!(space.read()?.counter("n")?, 5);
    assert_eq!(elsewhere.read()?.counter("n")?, 7);
    Ok(())
}
