//! What a store is made to do before it is crashed, and plain maps of what it must show.
//!
//! The writers keep to subtrees of their own: here `l`, a peer whose commits are applied `r`, and a peer whose state
//! is joined `j`. So every row has one writer, and what it must read needs no theory of conflicts.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use rejoin_crdt::{
    Kind, Path, PathError, PrepareError, ReplicaId, Row, RowKey, SpaceId, Transaction, Value,
    VersionVector, kind,
};
use rejoin_store::{
    CommitsAfter, Durability, FreshIds, Lsn, OpenReport, SpaceIndex, Store, StoreError,
    StoreOptions,
};

use crate::disk::{DiskFaults, SimDisk};
use crate::history::{Datum, Key, RowKind, Wish};
use crate::random::Random;

const SPACES: usize = 2;
/// How many steps a workload has.
const STEPS: usize = 45;
const OWN: u8 = 1;
const APPLIED: u8 = 2;
const JOINED: u8 = 3;

/// What a row must read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plain {
    /// A register: the time of its put, and its value.
    Text(u64, String),
    Sum(i64),
    Present,
}

type Rows = BTreeMap<(Key, RowKind), Plain>;
type BoxedError = Box<dyn std::error::Error + Send + Sync>;
type Prepared = Result<(), PrepareError<StoreError>>;

/// What a store must show, all of it. Clones share the rows.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    spaces: [Option<SpaceState>; SPACES],
}

#[derive(Debug, Clone, Default)]
struct SpaceState {
    /// By the first letter of the key.
    rows: BTreeMap<u8, Arc<Rows>>,
    version: BTreeMap<ReplicaId, u64>,
}

/// Which commits a store shows, by space; `None` for a space that it does not know.
pub(super) type ShownVersion = [Option<BTreeMap<ReplicaId, u64>>; SPACES];

/// One run of a workload, to its end or its death.
#[derive(Debug)]
pub(super) struct Run {
    /// All states that were acknowledged or on the way, in order.
    pub(super) states: Vec<State>,
    /// How many operations the disk was asked for.
    pub(super) operations: u64,
    /// What failed although the disk was in order.
    pub(super) failed: Option<String>,
    bounds: Vec<Bounds>,
    options: StoreOptions,
}

/// What must be there from a number of operations on.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    operations: u64,
    /// The state that was acknowledged.
    least: usize,
    /// The last state of which anything can be on disk.
    most: usize,
}

impl Run {
    /// Runs the workload of `seed` on a disk until it ends or the disk dies.
    pub(super) fn of(seed: u64, disk: &SimDisk) -> Self {
        let mut random = Random::labelled(seed, "workload");
        let options = options(&mut random);
        let run = Self {
            states: vec![State::default()],
            operations: 0,
            failed: None,
            bounds: vec![Bounds { operations: 0, least: 0, most: 0 }],
            options,
        };
        let mut runner = Runner { random, disk, run, store: None, spaces: Vec::new(), wall_ms: 1 };
        let ended = runner.run_all();
        runner.run.operations = disk.operations();
        if let Err(error) = ended
            && !disk.is_dead()
        {
            runner.run.failed = Some(error.to_string());
        }
        runner.run
    }

    /// Opens what is on a disk as the workload does.
    pub(super) fn open(&self, disk: &SimDisk) -> Result<(Store, OpenReport), StoreError> {
        open(disk, OWN, &self.options)
    }

    /// The first and the last state that a crash after so many operations may show.
    pub(super) fn bounds(&self, operations: u64) -> (usize, usize) {
        let behind = self.bounds.partition_point(|bounds| bounds.operations <= operations);
        let bounds = self.bounds[behind.saturating_sub(1)];
        (bounds.least, bounds.most)
    }

    /// Which of the states the store shows.
    pub(super) fn find(
        &self,
        store: &Store,
        states: RangeInclusive<usize>,
    ) -> Result<usize, String> {
        let first = *states.start();
        find(store, &self.states[states]).map(|index| first + index)
    }
}

/// Which of the states the store shows, or in what it differs from all.
pub(super) fn find(store: &Store, states: &[State]) -> Result<usize, String> {
    let shown = shown_version(store)?;
    let Some(index) = states.iter().position(|state| state.version() == shown) else {
        let expected: Vec<_> = states.iter().map(State::version).collect();
        return Err(format!("it shows {shown:?} and not one of {expected:?}"));
    };
    for (number, space) in states[index].spaces.iter().enumerate() {
        if let (Some(space), Some(found)) = (space, space_index(store, number)) {
            space.compare(store, found).map_err(|text| format!("space {number}: {text}"))?;
        }
    }
    Ok(index)
}

/// Which commits the store shows.
pub(super) fn shown_version(store: &Store) -> Result<ShownVersion, String> {
    let mut shown = ShownVersion::default();
    for (number, version) in shown.iter_mut().enumerate() {
        if let Some(index) = space_index(store, number) {
            let snapshot = store.snapshot(index).map_err(|error| error.to_string())?;
            let heads = snapshot.version().iter();
            *version = Some(heads.map(|(replica, head)| (replica, head.sequence)).collect());
        }
    }
    Ok(shown)
}

/// Makes a commit that none of the workload is like, durably.
pub(super) fn write_one_more(store: &Store) -> Result<(), BoxedError> {
    let space = store.create_space(space_id(0), "space")?;
    store.write(space, 7, |tx| grant(tx, &one_more()))?;
    store.sync()?;
    Ok(())
}

fn one_more() -> Wish {
    Wish::Put("l/one more".to_owned(), Datum::Text("one more".to_owned()))
}

impl State {
    /// How many commits it shows.
    pub(super) fn commits(&self) -> u64 {
        self.spaces.iter().flatten().flat_map(|space| space.version.values()).sum()
    }

    /// How many of its commits are missing in what a store shows.
    pub(super) fn missing_in(&self, shown: &ShownVersion) -> u64 {
        let spaces = self.spaces.iter().zip(shown);
        spaces
            .flat_map(|(space, shown)| {
                let of = |replica| {
                    shown.as_ref().and_then(|shown| shown.get(replica)).copied().unwrap_or(0)
                };
                let version = space.iter().flat_map(|space| &space.version);
                version.map(move |(replica, sequence)| sequence.saturating_sub(of(replica)))
            })
            .sum()
    }

    /// The state that [`write_one_more`] leads to.
    pub(super) fn with_one_more(&self) -> Self {
        let mut state = self.with_space();
        if let Some(space) = &mut state.spaces[0] {
            space.commit(replica(OWN), b'l', 7, &[one_more()]);
        }
        state
    }

    /// The state once [`write_one_more`] has made sure that there is a space.
    pub(super) fn with_space(&self) -> Self {
        let mut state = self.clone();
        state.spaces[0].get_or_insert_default();
        state
    }

    fn version(&self) -> ShownVersion {
        self.spaces.each_ref().map(|space| space.as_ref().map(|space| space.version.clone()))
    }
}

impl SpaceState {
    fn commit(&mut self, by: ReplicaId, letter: u8, wall_ms: u64, wishes: &[Wish]) {
        let rows = Arc::make_mut(self.rows.entry(letter).or_default());
        wishes.iter().for_each(|wish| imagine(rows, wall_ms, wish));
        *self.version.entry(by).or_default() += 1;
    }

    /// Compares every row that the store shows of the space.
    fn compare(&self, store: &Store, index: SpaceIndex) -> Result<(), String> {
        let snapshot = store.snapshot(index).map_err(|error| error.to_string())?;
        let mut count = 0;
        for entry in snapshot.iter(&Path::root()) {
            let (key, row) = entry.map_err(|error| error.to_string())?;
            let name = (key.path.to_string(), row_kind(key.kind));
            let letter = name.0.bytes().next().unwrap_or_default();
            let expected = self.rows.get(&letter).and_then(|rows| rows.get(&name));
            let found = plain(&key, &row);
            if found.as_ref() != expected {
                return Err(format!("{name:?} reads {found:?} and not {expected:?}"));
            }
            count += 1;
        }
        let expected: usize = self.rows.values().map(|rows| rows.len()).sum();
        if count < expected {
            return Err(format!("there are {count} rows and not {expected}"));
        }
        Ok(())
    }
}

/// Does the steps of a workload and writes down what they must lead to.
struct Runner<'a> {
    random: Random,
    disk: &'a SimDisk,
    run: Run,
    store: Option<Store>,
    spaces: Vec<SpaceIndex>,
    wall_ms: u64,
}

/// A replica from which the store under test learns.
struct Peer {
    store: Store,
    spaces: Vec<SpaceIndex>,
    letter: u8,
    /// Its own states, by space and after each commit.
    states: [Vec<SpaceState>; SPACES],
}

impl Runner<'_> {
    fn run_all(&mut self) -> Result<(), BoxedError> {
        let mut applied = Peer::new(APPLIED, b'r')?;
        let mut joined = Peer::new(JOINED, b'j')?;
        self.begin(|_| {});
        self.reopen(false)?;
        for number in 0..SPACES {
            self.begin(|state| state.spaces[number] = Some(SpaceState::default()));
            let index = self.store()?.create_space(space_id(number), "space")?;
            self.spaces.push(index);
            self.end(true);
        }
        for _ in 0..STEPS {
            match self.random.below(100) {
                0..60 => self.write()?,
                60..73 => self.apply(&mut applied)?,
                73..78 => self.join(&mut joined)?,
                78..86 => self.checkpoint()?,
                86..91 => self.truncate()?,
                91..94 => self.reopen(true)?,
                94..97 => self.reopen(false)?,
                _ => {
                    self.begin(|_| {});
                    self.store()?.sync()?;
                    self.end(true);
                }
            }
        }
        self.begin(|_| {});
        if let Some(store) = self.store.take() {
            store.close()?;
        }
        self.end(true);
        Ok(())
    }

    fn store(&self) -> Result<&Store, BoxedError> {
        self.store.as_ref().ok_or_else(|| "the store is closed".into())
    }

    fn is_immediate(&self) -> bool {
        self.run.options.durability == Durability::Immediate
    }

    /// Notes a step that is to change the last state.
    fn begin(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.run.states.last().cloned().unwrap_or_default();
        let before = state.version();
        change(&mut state);
        if state.version() != before {
            self.run.states.push(state);
        }
        self.note(false);
    }

    /// Notes that the last step has returned. What it led to may be `durable`, by its promise.
    fn end(&mut self, durable: bool) {
        self.note(durable);
    }

    fn note(&mut self, durable: bool) {
        let most = self.run.states.len() - 1;
        let before = self.run.bounds.last().map_or(0, |bounds| bounds.least);
        let least = if durable { most } else { before };
        self.run.bounds.push(Bounds { operations: self.disk.operations(), least, most });
    }

    fn write(&mut self) -> Result<(), BoxedError> {
        let number = self.random.index(SPACES);
        let wishes = wishes(&mut self.random, "l");
        self.wall_ms += 1;
        let wall_ms = self.wall_ms;
        self.begin(|state| {
            if let Some(space) = &mut state.spaces[number] {
                space.commit(replica(OWN), b'l', wall_ms, &wishes);
            }
        });
        let (_, committed) =
            self.store()?.write(self.spaces[number], wall_ms, |tx| grant_all(tx, &wishes))?;
        if committed.is_none() {
            // It changed nothing, which does not count as a commit: there never was such a state.
            self.run.states.pop();
            self.run.bounds.pop();
            return Ok(());
        }
        self.end(self.is_immediate());
        Ok(())
    }

    fn apply(&mut self, peer: &mut Peer) -> Result<(), BoxedError> {
        let number = self.random.index(SPACES);
        let first = peer.states[number].len() - 1;
        for _ in 0..self.random.within(1..=4) {
            peer.write(number, &mut self.random)?;
        }
        for state in &peer.states[number][first + 1..] {
            self.begin(|ours| peer.show(state, &mut ours.spaces[number]));
        }
        let store = self.store()?;
        let version = store.durable_version(self.spaces[number])?;
        let answer = peer.store.commits_after(peer.spaces[number], &version, usize::MAX)?;
        let CommitsAfter::Commits { runs, .. } = answer else {
            return Err(format!("asked for commits, got {answer:?}").into());
        };
        store.apply(self.spaces[number], &runs)?;
        self.end(self.is_immediate());
        Ok(())
    }

    fn join(&mut self, peer: &mut Peer) -> Result<(), BoxedError> {
        let number = self.random.index(SPACES);
        for _ in 0..self.random.within(1..=6) {
            peer.write(number, &mut self.random)?;
        }
        if let Some(state) = peer.states[number].last() {
            self.begin(|ours| peer.show(state, &mut ours.spaces[number]));
        }
        let snapshot = peer.store.snapshot(peer.spaces[number])?;
        let store = self.store()?;
        let version = VersionVector::clone(snapshot.version());
        let mut stage = store.begin_state(self.spaces[number], version)?;
        for entry in snapshot.iter(&Path::root()) {
            let (key, row) = entry?;
            stage.push(&key.to_bytes(), &row.to_bytes())?;
        }
        store.commit_state(stage)?;
        self.end(true);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), BoxedError> {
        self.begin(|_| {});
        self.store()?.checkpoint()?;
        self.end(true);
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), BoxedError> {
        self.begin(|_| {});
        let store = self.store()?;
        for index in &self.spaces {
            let confirmed = store.durable_version(*index)?.sequence(store.replica_id());
            store.mark_confirmed(*index, confirmed)?;
        }
        store.checkpoint()?;
        store.truncate_log(Lsn::MAX)?;
        self.end(true);
        Ok(())
    }

    /// Opens the store; before that closes it, or drops it as if the process had ended without a word.
    fn reopen(&mut self, close: bool) -> Result<(), BoxedError> {
        self.begin(|_| {});
        if let Some(store) = self.store.take() {
            if close || !self.is_immediate() {
                store.close()?;
                self.end(true);
            } else {
                drop(store);
            }
        }
        if self.disk.is_dead() {
            // A store says nothing of what fails while it is dropped.
            return Err("the machine is down".into());
        }
        self.store = Some(self.run.open(self.disk)?.0);
        self.end(self.is_immediate());
        Ok(())
    }
}

impl Peer {
    fn new(number: u8, letter: u8) -> Result<Self, BoxedError> {
        let disk = SimDisk::new(Random::new(0), DiskFaults::default());
        let (store, _) = open(&disk, number, &StoreOptions::default())?;
        let spaces = (0..SPACES)
            .map(|number| store.create_space(space_id(number), "space"))
            .collect::<Result<_, _>>()?;
        let states = std::array::from_fn(|_| vec![SpaceState::default()]);
        Ok(Self { store, spaces, letter, states })
    }

    fn write(&mut self, number: usize, random: &mut Random) -> Result<(), BoxedError> {
        let wishes = wishes(random, if self.letter == b'r' { "r" } else { "j" });
        let wall_ms = random.below(1 << 20);
        let write = |tx: &mut Transaction<'_, StoreError>| grant_all(tx, &wishes);
        if self.store.write(self.spaces[number], wall_ms, write)?.1.is_some() {
            let mut state = self.states[number].last().cloned().unwrap_or_default();
            state.commit(self.store.replica_id(), self.letter, wall_ms, &wishes);
            self.states[number].push(state);
        }
        Ok(())
    }

    /// Puts one of this peer's states into what the store under test shows.
    fn show(&self, state: &SpaceState, ours: &mut Option<SpaceState>) {
        let Some(ours) = ours else { return };
        if let Some(rows) = state.rows.get(&self.letter) {
            ours.rows.insert(self.letter, rows.clone());
        }
        ours.version.extend(&state.version);
    }
}

/// Small files and small buffers, so that all of a store's life happens within few steps.
fn options(random: &mut Random) -> StoreOptions {
    let durability = match random.below(4) {
        0 => Durability::Eventual { interval_ms: 1_000 },
        _ => Durability::Immediate,
    };
    StoreOptions {
        durability,
        segment_bytes: random.pick(&[600, 4 << 10, 16 << 10]).copied().unwrap_or(600),
        reserve_bytes: random.pick(&[0, 100, 4 << 10]).copied().unwrap_or(0),
        pending_bytes_max: 64 << 10,
        buffer_bytes: 4 << 10,
        buffer_bytes_max: 12 << 10,
        tree_cache_bytes: 1 << 20,
        snapshot_checkpoints_max: 2,
        ..StoreOptions::default()
    }
}

fn open(
    disk: &SimDisk,
    number: u8,
    options: &StoreOptions,
) -> Result<(Store, OpenReport), StoreError> {
    let fresh = FreshIds { replica: replica(number), salt: [number; 16] };
    Store::open(disk.boot(), options.clone(), fresh, Box::new(()))
}

fn replica(number: u8) -> ReplicaId {
    ReplicaId::from_bytes([number; 16])
}

fn space_id(number: usize) -> SpaceId {
    SpaceId::from_bytes([number as u8 + 1; 32])
}

fn space_index(store: &Store, number: usize) -> Option<SpaceIndex> {
    let id = space_id(number);
    store.spaces().into_iter().find(|(_, info)| info.id == id).map(|(index, _)| index)
}

/// What one transaction does, all of it under `root`.
fn wishes(random: &mut Random, root: &str) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for _ in 0..random.within(1..=3) {
        let item = format!("{root}/items/{}", random.below(4));
        wishes.push(match random.below(12) {
            0..4 => {
                let text = random.next_u64().to_string().repeat(random.within(1..=20) as usize);
                Wish::Put(format!("{item}/title"), Datum::Text(text))
            }
            4..6 => Wish::Add(format!("{item}/count"), random.below(9) as i64 + 1),
            6 => Wish::Enable(format!("{item}/gift")),
            7 | 8 => Wish::Insert(format!("{root}/tags/{}", random.below(12))),
            9 => Wish::RemoveRow(format!("{item}/gift"), RowKind::Flag),
            10 => Wish::Remove(format!("{root}/tags/{}", random.below(12))),
            _ => Wish::RemoveTree(item),
        });
    }
    wishes
}

/// What a wish does to plain rows.
fn imagine(rows: &mut Rows, wall_ms: u64, wish: &Wish) {
    match wish {
        Wish::Put(key, Datum::Text(text)) => {
            let value = Plain::Text(wall_ms, text.clone());
            rows.insert((key.clone(), RowKind::Register), value);
        }
        Wish::Put(..) => {}
        Wish::Add(key, amount) => {
            let row = rows.entry((key.clone(), RowKind::Counter)).or_insert(Plain::Sum(0));
            if let Plain::Sum(sum) = row {
                *sum += amount;
            }
        }
        Wish::Enable(key) => {
            rows.insert((key.clone(), RowKind::Flag), Plain::Present);
        }
        Wish::Insert(key) => {
            rows.insert((key.clone(), RowKind::Element), Plain::Present);
        }
        Wish::RemoveRow(key, kind) => {
            rows.remove(&(key.clone(), *kind));
        }
        Wish::Remove(key) => rows.retain(|(path, _), _| path != key),
        Wish::RemoveTree(key) => rows.retain(|(path, _), _| {
            path.strip_prefix(key).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
        }),
    }
}

fn grant_all(tx: &mut Transaction<'_, StoreError>, wishes: &[Wish]) -> Prepared {
    wishes.iter().try_for_each(|wish| grant(tx, wish))
}

/// Asks the store for what is wished.
fn grant(tx: &mut Transaction<'_, StoreError>, wish: &Wish) -> Prepared {
    match wish {
        Wish::Put(key, Datum::Text(text)) => tx.put(path(key), Value::String(text.clone())),
        Wish::Put(key, Datum::Integer(number)) => tx.put(path(key), Value::I64(*number)),
        Wish::Put(key, Datum::Bytes(bytes)) => tx.put(path(key), Value::Bytes(bytes.clone())),
        Wish::Add(key, amount) => tx.increment(path(key), *amount),
        Wish::Enable(key) => tx.enable(path(key)),
        Wish::Insert(key) => tx.add_element(path(key)),
        Wish::RemoveRow(key, kind) => {
            let kind = match kind {
                RowKind::Register => Kind::Register,
                RowKind::Counter => Kind::Counter,
                RowKind::Flag => Kind::Flag,
                RowKind::Element => Kind::Element,
            };
            tx.remove_row(RowKey { path: path(key), kind })
        }
        Wish::Remove(key) => tx.remove(&path(key)),
        Wish::RemoveTree(key) => tx.remove_tree(&path(key)),
    }
}

fn path(key: &str) -> Path {
    let path: Result<Path, PathError> = Path::of(key.split('/'));
    path.expect("a workload's paths are short")
}

fn row_kind(kind: Kind) -> RowKind {
    match kind {
        Kind::Register => RowKind::Register,
        Kind::Counter => RowKind::Counter,
        Kind::Flag => RowKind::Flag,
        Kind::Element => RowKind::Element,
    }
}

/// What a row of the store reads; `None` for what no row of a workload is.
fn plain(key: &RowKey, row: &Row) -> Option<Plain> {
    match key.kind {
        Kind::Register => match kind::register::siblings(Some(row))[..] {
            [kind::register::Sibling { wall_time_ms, value: Value::String(text), .. }] => {
                Some(Plain::Text(wall_time_ms, text.clone()))
            }
            _ => None,
        },
        Kind::Counter => Some(Plain::Sum(kind::counter::value(Some(row)))),
        Kind::Flag => kind::flag::is_enabled(Some(row)).then_some(Plain::Present),
        Kind::Element => kind::element::is_present(Some(row)).then_some(Plain::Present),
    }
}
