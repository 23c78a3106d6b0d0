//! Durable commits, commits from a peer, point reads and scans: rejoin beside SQLite and beside the floor.
//!
//! A commit writes [`ROWS_PER_COMMIT`] rows; the same keys and values for all systems. The *floor* of a
//! durable commit is a file to which 300 bytes are appended and synced (`fdatasync`); with n waiting
//! writers, 300 n bytes and one sync. SQLite runs in WAL mode with `synchronous=FULL`, over one connection
//! that its writers share: once with a transaction for each commit, and once with all waiting commits in
//! one transaction, which gives up that each commit stands for itself.
//!
//! Every figure is the median of [`ROUNDS`] rounds, in each of which all systems run in turn.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rejoin::{Durability, Kind, Path, Replica, ReplicaId, Space, SpaceId, StoreError, path};
use rejoin_crdt::{PrepareError, ReadRows, RowKey};
use rejoin_store::{
    CommitRun, CommitsAfter, FileBackend, FreshIds, SpaceIndex, Store, StoreOptions,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1_500);
const ROWS_PER_COMMIT: u64 = 5;
/// Commits choose their rows among so many.
const ROWS: u64 = 500_000;
const FLOOR_BYTES: usize = 300;

fn main() -> Result<(), Failure> {
    // Words on the command line choose tables: `commits`, `peer`. None chooses both.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let chosen = |word: &str| words.is_empty() || words.iter().any(|chosen| chosen == word);
    if chosen("commits") {
        all_commits()?;
    }
    if chosen("peer") {
        println!("Per second, and per second of processor time\n");
        println!("{:<36} {:>22} {:>22} {:>12}", "", "rejoin", "SQLite", "/ SQLite");
        apply_and_read()?;
    }
    Ok(())
}

fn all_commits() -> Result<(), Failure> {
    println!(
        "Durable commits of {ROWS_PER_COMMIT} rows: per second, and per second of processor time\n"
    );
    println!(
        "{:>8} {:>22} {:>22} {:>22} {:>22} {:>12} {:>12}",
        "writers", "rejoin", "floor", "SQLite", "SQLite, batched", "/ floor", "/ best SQLite"
    );
    for writers in [1, 10, 100, 1_000] {
        commits(writers)?;
    }
    println!();
    Ok(())
}

/// How much was done, in what time, and with how much of the processor.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    per_cpu_second: f64,
}

impl Rate {
    fn measure(work: impl FnOnce() -> Result<u64, Failure>) -> Result<Self, Failure> {
        let (wall, cpu) = (Instant::now(), ProcessTime::now());
        let done = work()? as f64;
        Ok(Self {
            per_second: done / wall.elapsed().as_secs_f64(),
            per_cpu_second: done / cpu.elapsed().as_secs_f64().max(1e-6),
        })
    }

    fn median(mut rates: Vec<Rate>) -> Self {
        rates.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        rates[rates.len() / 2]
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.0} ({:.0})", self.per_second, self.per_cpu_second))
    }
}

/// The keys of one commit, each with a value of 32 bytes. Values are new each time: SQLite leaves a page
/// alone, and skips the sync, if a row is replaced with itself.
fn rows(rng: &mut ChaCha8Rng) -> [(u64, String); ROWS_PER_COMMIT as usize] {
    std::array::from_fn(|_| (rng.random_range(0..ROWS), format!("{:032x}", rng.random::<u128>())))
}

fn commits(writers: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let replica = Replica::open(folder.path().join("bench.rejoin"))?;
    let space = replica.space("bench")?;
    let sqlite = Sqlite::open(&folder.path().join("bench.sqlite"))?;
    let batched = Sqlite::open(&folder.path().join("batched.sqlite"))?;
    let mut floor = File::create(folder.path().join("floor"))?;
    let mut rates: [Vec<Rate>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rates[0].push(Rate::measure(|| waiting_writers(writers, |rng| write(&space, rng)))?);
        rates[1].push(Rate::measure(|| append_and_sync(&mut floor, writers))?);
        rates[2].push(Rate::measure(|| waiting_writers(writers, |rng| sqlite.commit(rng, 1)))?);
        rates[3].push(Rate::measure(|| {
            let (mut rng, mut done) = (fresh_rng(), 0);
            let began = Instant::now();
            while began.elapsed() < ROUND {
                batched.commit(&mut rng, writers)?;
                done += writers as u64;
            }
            Ok(done)
        })?);
    }
    let [rejoin, floor, sqlite, batched] = rates.map(Rate::median);
    println!(
        "{writers:>8} {rejoin:>22} {floor:>22} {sqlite:>22} {batched:>22} {:>12.2} {:>12.2}",
        rejoin.per_second / floor.per_second,
        rejoin.per_second / sqlite.per_second.max(batched.per_second),
    );
    Ok(())
}

/// Rows that were never written before, the same from run to run.
fn fresh_rng() -> ChaCha8Rng {
    static MADE: AtomicU64 = AtomicU64::new(0);
    ChaCha8Rng::seed_from_u64(MADE.fetch_add(1, Ordering::Relaxed))
}

/// Has so many threads commit one after the other until the round is over; the number of commits.
fn waiting_writers(
    writers: usize,
    commit: impl Fn(&mut ChaCha8Rng) -> Result<(), Failure> + Sync,
) -> Result<u64, Failure> {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..writers {
            let (over, done, failure, commit) = (&over, &done, &failure, &commit);
            let work = move || {
                let mut rng = fresh_rng();
                while !over.load(Ordering::Relaxed) {
                    if let Err(error) = commit(&mut rng) {
                        failure.lock().expect("no writer panics").get_or_insert(error);
                        return;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            };
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, work)
                .expect("the system allows a thousand threads");
        }
        std::thread::sleep(ROUND);
        over.store(true, Ordering::Relaxed);
    });
    match failure.into_inner().expect("no writer panics") {
        Some(error) => Err(error),
        None => Ok(done.into_inner()),
    }
}

fn write(space: &Space, rng: &mut ChaCha8Rng) -> Result<(), Failure> {
    let rows = rows(rng);
    Ok(space.write(|tx| {
        for (key, value) in rows {
            tx.register(path!["row", key]).put(value)?;
        }
        Ok(())
    })?)
}

fn append_and_sync(file: &mut File, writers: usize) -> Result<u64, Failure> {
    let batch = vec![7; FLOOR_BYTES * writers];
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        file.write_all(&batch)?;
        file.sync_data()?;
        done += writers as u64;
    }
    Ok(done)
}

struct Sqlite {
    connection: Mutex<rusqlite::Connection>,
}

impl Sqlite {
    fn open(file: &std::path::Path) -> Result<Self, Failure> {
        let connection = rusqlite::Connection::open(file)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768;
             CREATE TABLE rows (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID;",
        )?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Writes so many commits in one transaction.
    fn commit(&self, rng: &mut ChaCha8Rng, commits: usize) -> Result<(), Failure> {
        let mut connection = self.connection.lock().expect("no writer panics");
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT OR REPLACE INTO rows (key, value) VALUES (?1, ?2)")?;
            for _ in 0..commits {
                for (key, value) in rows(rng) {
                    insert.execute((key.to_be_bytes(), value))?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

/// How many commits a peer's backlog has.
const BACKLOG: u64 = 40_000;
/// How many bytes of commits are applied at a time.
const BATCH_BYTES: usize = 256 << 10;
const POINT_READS: u64 = 200_000;

fn apply_and_read() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let (source, commits_per_batch) = backlog(folder.path())?;
    let (mut applied, mut inserted) = (Vec::new(), Vec::new());
    let mut last = None;
    for round in 0..ROUNDS {
        let target = Target::open(&folder.path().join(format!("target-{round}.rejoin")))?;
        applied.push(Rate::measure(|| target.apply_all(&source))?);
        let sqlite = Sqlite::open(&folder.path().join(format!("{round}.sqlite")))?;
        inserted.push(Rate::measure(|| {
            let (mut rng, mut done) = (ChaCha8Rng::seed_from_u64(1), 0);
            while done < BACKLOG {
                let batch = commits_per_batch.min(BACKLOG - done);
                sqlite.commit(&mut rng, batch as usize)?;
                done += batch;
            }
            Ok(done)
        })?);
        last = Some((target, sqlite));
    }
    line("commits applied from a peer", applied, inserted);
    let Some((target, sqlite)) = last else { return Ok(()) };
    let (mut reads, mut selects, mut scans, mut select_all) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        reads.push(Rate::measure(|| target.point_reads())?);
        selects.push(Rate::measure(|| sqlite.point_reads())?);
        scans.push(Rate::measure(|| target.scan())?);
        select_all.push(Rate::measure(|| sqlite.scan())?);
    }
    line("point reads, one thread", reads, selects);
    line("rows scanned", scans, select_all);
    Ok(())
}

fn line(what: &str, rejoin: Vec<Rate>, sqlite: Vec<Rate>) {
    let (rejoin, sqlite) = (Rate::median(rejoin), Rate::median(sqlite));
    let ratio = rejoin.per_second / sqlite.per_second;
    println!("{what:<36} {rejoin:>22} {sqlite:>22} {ratio:>12.2}");
}

/// A peer's commits, in the runs in which they would come over the wire.
type Backlog = Vec<Vec<CommitRun>>;

/// Has a peer make its commits; returns them in batches, and how many a batch has on average.
fn backlog(folder: &std::path::Path) -> Result<(Backlog, u64), Failure> {
    let options = StoreOptions {
        durability: Durability::Eventual { interval_ms: 1_000 },
        ..StoreOptions::default()
    };
    let source = Target::open_with(&folder.join("source.rejoin"), options.clone())?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for time in 0..BACKLOG {
        let rows = rows(&mut rng);
        source.store.write(source.space, time, |tx| {
            for (key, value) in rows {
                tx.put(path![key].expect("a short path"), value.into())?;
            }
            Ok::<_, PrepareError<StoreError>>(())
        })?;
    }
    source.store.sync()?;
    // A mirror takes each batch in, and so knows which comes next.
    let mirror = Target::open_with(&folder.join("mirror.rejoin"), options)?;
    let mut batches = Backlog::new();
    loop {
        let version = mirror.store.durable_version(mirror.space)?;
        let missing = source.store.commits_after(source.space, &version, BATCH_BYTES)?;
        let CommitsAfter::Commits { runs, .. } = missing else {
            return Err("the log of the peer does not reach back".into());
        };
        if runs.is_empty() {
            break;
        }
        mirror.store.apply(mirror.space, &runs)?;
        mirror.store.sync()?;
        batches.push(runs);
    }
    let per_batch = BACKLOG / batches.len().max(1) as u64;
    Ok((batches, per_batch))
}

/// A store beneath the public API, as a session reaches it.
struct Target {
    store: Store,
    space: SpaceIndex,
}

impl Target {
    fn open(folder: &std::path::Path) -> Result<Self, Failure> {
        Self::open_with(folder, StoreOptions::default())
    }

    fn open_with(folder: &std::path::Path, options: StoreOptions) -> Result<Self, Failure> {
        let backend = Arc::new(FileBackend::new(folder)?);
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let mut random = ChaCha8Rng::seed_from_u64(OPENED.fetch_add(1, Ordering::Relaxed));
        let fresh =
            FreshIds { replica: ReplicaId::from_bytes(random.random()), salt: random.random() };
        let (store, _) = Store::open(backend, options, fresh, Box::new(()))?;
        let space = store.create_space(SpaceId::from_bytes([1; 32]), "bench")?;
        Ok(Self { store, space })
    }

    /// Applies the backlog batch by batch, each durable before the next, and makes the checkpoints that
    /// become due; the number of commits.
    fn apply_all(&self, backlog: &Backlog) -> Result<u64, Failure> {
        let mut done = 0;
        for batch in backlog {
            done += self.store.apply(self.space, batch)?.applied;
            if self.store.checkpoint_due() {
                self.store.checkpoint()?;
            }
        }
        Ok(done)
    }

    fn point_reads(&self) -> Result<u64, Failure> {
        let snapshot = self.store.snapshot(self.space)?;
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut found = 0;
        for _ in 0..POINT_READS {
            let path = path![rng.random_range(0..ROWS)]?;
            let row = snapshot.row(&RowKey { path, kind: Kind::Register })?;
            found += u64::from(rejoin::kind::register::latest(row.as_ref()).is_some());
        }
        assert!(found > 0, "nothing was read");
        Ok(POINT_READS)
    }

    fn scan(&self) -> Result<u64, Failure> {
        let snapshot = self.store.snapshot(self.space)?;
        let mut rows = 0;
        for row in snapshot.iter(&Path::root()) {
            let (_, row) = row?;
            rows += u64::from(rejoin::kind::register::latest(Some(&row)).is_some());
        }
        Ok(rows)
    }
}

impl Sqlite {
    fn point_reads(&self) -> Result<u64, Failure> {
        let connection = self.connection.lock().expect("no writer panics");
        let mut select = connection.prepare("SELECT value FROM rows WHERE key = ?1")?;
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut found = 0;
        for _ in 0..POINT_READS {
            let key = rng.random_range(0..ROWS).to_be_bytes();
            let mut rows = select.query([key.as_slice()])?;
            found += match rows.next()? {
                Some(row) => u64::from(!row.get_ref(0)?.as_str()?.is_empty()),
                None => 0,
            };
        }
        assert!(found > 0, "nothing was read");
        Ok(POINT_READS)
    }

    fn scan(&self) -> Result<u64, Failure> {
        let connection = self.connection.lock().expect("no writer panics");
        let mut select = connection.prepare("SELECT key, value FROM rows ORDER BY key")?;
        let (mut found, mut count) = (select.query([])?, 0);
        while let Some(row) = found.next()? {
            count += u64::from(!row.get_ref(1)?.as_str()?.is_empty());
        }
        Ok(count)
    }
}
