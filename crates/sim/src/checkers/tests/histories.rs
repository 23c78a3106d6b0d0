//! Random honest histories, made by the laws of `rejoin-crdt`: nobody objects, unless they are tampered with.

use rejoin_crdt::laws::{Cluster, Intent, Pulled, Read};
use rejoin_crdt::{Dot, Kind, Path, ReplicaId, RowKey, Value, VersionVector};

use super::*;
use crate::random::Random;

/// What a history is made of.
#[derive(Debug, Clone, Copy)]
struct Shape {
    nodes: usize,
    steps: usize,
    keys: &'static [&'static str],
    /// Instead of `keys`, so many made up.
    keys_many: usize,
    /// How probable it is that a changed replica is read.
    reads: f64,
    kinds: &'static [RowKind],
    /// How probable it is that a wish is to remove something.
    removals: f64,
}

const KINDS: [RowKind; 4] = [RowKind::Register, RowKind::Counter, RowKind::Flag, RowKind::Element];

const SMALL: Shape = Shape {
    nodes: 4,
    steps: 120,
    keys: &["", "m", "m/x", "m/x/q", "m/y", "mm"],
    keys_many: 0,
    reads: 0.7,
    kinds: &KINDS,
    removals: 0.36,
};

/// One counter, so that folds of what nobody was told are many.
const COUNTING: Shape =
    Shape { nodes: 3, steps: 160, keys: &["n"], kinds: &[RowKind::Counter], ..SMALL };

/// Seldom reset, so that it comes to folds of all that there is.
const FOLDING: Shape = Shape { nodes: 2, steps: 300, removals: 0.02, ..COUNTING };

/// The laws' replicas with the checkers beside them. A step tells all that an honest engine would.
struct History {
    shape: Shape,
    random: Random,
    cluster: Cluster,
    told: Told,
}

impl History {
    fn new(seed: u64, shape: Shape) -> Self {
        let nodes = u8::try_from(shape.nodes).expect("there are few");
        let cluster = Cluster::new(nodes);
        let checkers = Checkers::new(CheckerConfig { nodes: shape.nodes, ..Default::default() });
        let told = Told { checkers, now_ms: 0, verdict: Ok(()) };
        let random = Random::labelled(seed, "history");
        let mut history = Self { shape, random, cluster, told };
        for node in 0..shape.nodes {
            let writer = history.writer(node);
            history.tell(node, &Observation::Opened { writer, versions: &[], fresh: true });
        }
        history
    }

    fn run(seed: u64, shape: Shape) -> Self {
        let mut history = Self::new(seed, shape);
        for step in 0..shape.steps {
            let node = history.step();
            assert_eq!(history.told.verdict, Ok(()), "seed {seed}, step {step}");
            if history.random.chance(shape.reads) {
                history.read(node);
                assert_eq!(history.told.verdict, Ok(()), "seed {seed}, step {step}");
            }
        }
        history.converge();
        assert_eq!(history.told.verdict, Ok(()), "seed {seed}, at the end");
        history
    }

    /// Does something and returns to whom.
    fn step(&mut self) -> NodeIndex {
        let (node, peer) =
            (self.random.index(self.shape.nodes), self.random.index(self.shape.nodes));
        match self.random.below(100) {
            0..50 => self.write(node, &ACKNOWLEDGED),
            50..78 => {
                let limits = [None, None, Some(1), Some(3)];
                let limit = limits[self.random.index(limits.len())];
                self.pull(node, peer, limit);
            }
            78..86 => self.join(node, peer),
            86..90 => {
                let keep = self.random.next_u64();
                let mut number = 0;
                self.cluster.truncate(node, |_| {
                    number += 1;
                    keep >> (number % 64) & 1 == 1
                });
            }
            90..95 => {
                self.tell(node, &Observation::Died(Death::PowerCut));
                self.open(node);
            }
            _ => self.lose_a_write(node),
        }
        node
    }

    fn write(&mut self, node: NodeIndex, outcome: &WriteOutcome) {
        let state = self.cluster.replica(node).state();
        let past = self.version(&state.version);
        let writer = self.writer(node);
        let dot = DotName { writer, sequence: past.sequence(writer) + 1 };
        let wishes = self.wishes(dot);
        let intents: Vec<_> = wishes.iter().map(intent).collect();
        let wall_time_ms = self.random.below(4);
        self.cluster.commit(node, wall_time_ms, &intents).expect("the laws hold");
        let transaction = Transaction { dot, past, wall_time_ms, wishes };
        self.told.checkers.began_write(self.told.now_ms, node, 0);
        let transaction = &transaction;
        self.tell(node, &Observation::Wrote { space: 0, transaction, known: true, outcome });
        self.deliver(node, &[dot]);
    }

    /// A write whose process dies, and of which nothing is left.
    fn lose_a_write(&mut self, node: NodeIndex) {
        let before = self.cluster.clone();
        self.told.checkers.began_write(self.told.now_ms, node, 0);
        let state = self.cluster.replica(node).state();
        let past = self.version(&state.version);
        let writer = self.writer(node);
        let dot = DotName { writer, sequence: past.sequence(writer) + 1 };
        let wishes = self.wishes(dot);
        let transaction = &Transaction { dot, past, wall_time_ms: 9, wishes };
        let outcome = &unknown();
        self.tell(node, &Observation::Wrote { space: 0, transaction, known: true, outcome });
        self.tell(node, &Observation::Died(Death::Killed));
        self.cluster = before;
        self.open(node);
    }

    fn pull(&mut self, to: NodeIndex, from: NodeIndex, limit: Option<usize>) {
        if to == from {
            return;
        }
        let before = self.cluster.replica(to).state().version.clone();
        if self.cluster.pull(to, from, limit).expect("the laws hold") == Pulled::LogTooShort {
            return self.join(to, from);
        }
        let mut dots = Vec::new();
        for (replica, head) in self.cluster.replica(to).state().version.clone().iter() {
            let sequences = before.sequence(replica) + 1..=head.sequence;
            let bodies: Vec<_> = sequences.clone().map(|seq| self.body(replica, seq)).collect();
            let first = DotName { writer: number(replica), sequence: *sequences.start() };
            dots.extend(sequences.map(|sequence| DotName { sequence, ..first }));
            let bodies = bodies.as_slice();
            if !bodies.is_empty() {
                self.tell(from, &Observation::Carried { space: 0, first, bodies, sending: true });
                self.tell(to, &Observation::Carried { space: 0, first, bodies, sending: false });
            }
        }
        self.deliver(to, &dots);
    }

    fn join(&mut self, to: NodeIndex, from: NodeIndex) {
        if to == from {
            return;
        }
        self.cluster.join(to, from).expect("the laws hold");
        let version = self.version(&self.cluster.replica(to).state().version);
        self.tell(to, &Observation::Reread { space: 0, version: &version });
    }

    fn open(&mut self, node: NodeIndex) {
        let versions = [(0, self.version(&self.cluster.replica(node).state().version))];
        let writer = self.writer(node);
        self.tell(node, &Observation::Opened { writer, versions: &versions, fresh: false });
    }

    /// What a watch tells: each commit after its past.
    fn deliver(&mut self, node: NodeIndex, dots: &[DotName]) {
        let mut left = dots.to_vec();
        while !left.is_empty() {
            let ready = |dot: &DotName| {
                let past = &self.told.checkers.transaction(0, *dot).expect("it was written").past;
                left.iter().all(|other| other == dot || !past.covers(*other))
            };
            let next = left.remove(left.iter().position(ready).expect("causality has no cycles"));
            self.tell(node, &Observation::Delivered { space: 0, dot: next });
        }
    }

    fn read(&mut self, node: NodeIndex) {
        let (version, rows, bytes) = self.look(node);
        let (version, rows) = (&version, &rows);
        self.tell(node, &Observation::Read { space: 0, version, rows, bytes });
    }

    fn look(&self, node: NodeIndex) -> (Version, ReadRows, [u8; 32]) {
        let state = self.cluster.replica(node).state();
        let reads = state.reads().into_iter();
        let rows =
            reads.map(|(key, read)| ((path_text(&key.path), row_kind(key.kind)), seen(read)));
        let bytes = *blake3::hash(&state.to_bytes()).as_bytes();
        (self.version(&state.version), rows.collect(), bytes)
    }

    fn converge(&mut self) {
        for _ in 0..2 {
            for node in 0..self.shape.nodes {
                self.pull(node, (node + 1) % self.shape.nodes, None);
                (0..self.shape.nodes).for_each(|from| self.pull(node, from, None));
            }
        }
        (0..self.shape.nodes).for_each(|node| self.read(node));
        let latest = (0..self.shape.nodes).map(|node| (node, vec![(0, self.look(node).0)]));
        let latest: Vec<_> = latest.collect();
        let converged = self.told.checkers.converged(0, &latest);
        converged.and(self.told.checkers.all_answered(0)).expect("all is well");
        for (node, versions) in &latest {
            let told = self.told.checkers.watch_told(0, *node, 0, &versions[0].1);
            told.expect("watches were read to the end");
        }
    }

    fn wishes(&mut self, dot: DotName) -> Vec<Wish> {
        let count = self.random.within(1..=4);
        let mut wishes: Vec<_> = (0..count).map(|_| self.wish()).collect();
        if dot.sequence.is_multiple_of(4) {
            let text = format!("{:032x}.{}", dot.writer, dot.sequence);
            wishes.extend(["!a", "~b"].map(|set| insert(&format!("{set}/{text}"))));
        }
        wishes
    }

    fn wish(&mut self) -> Wish {
        let key = match self.shape.keys_many as u64 {
            0 => (*self.random.pick(self.shape.keys).expect("there are some")).to_owned(),
            many => format!("k{}/x{}", self.random.below(4), self.random.below(many / 4)),
        };
        let kind = *self.random.pick(self.shape.kinds).expect("there are some");
        let number = self.random.below(19) as i64 - 9;
        let removal = self.random.chance(self.shape.removals).then(|| self.random.below(4));
        match (removal, kind) {
            (None, RowKind::Register) => put(&key, number),
            (None, RowKind::Counter) => add(&key, number),
            (None, RowKind::Flag) => Wish::Enable(key),
            (None, RowKind::Element) => Wish::Insert(key),
            (Some(0..2), kind) => Wish::RemoveRow(key, kind),
            (Some(2), _) => Wish::Remove(key),
            // Witnesses are under the root, and nothing ever removes them.
            _ if key.is_empty() => Wish::RemoveTree("m".to_owned()),
            _ => Wish::RemoveTree(key.split('/').next().unwrap_or_default().to_owned()),
        }
    }

    fn tell(&mut self, node: NodeIndex, observation: &Observation<'_>) {
        self.told.tell(node, observation);
    }

    fn body(&self, replica: ReplicaId, sequence: u64) -> Bytes {
        let commit = self.cluster.commits().get(Dot { replica, sequence }).expect("it was made");
        Bytes::from(commit.bytes.clone())
    }

    fn writer(&self, node: NodeIndex) -> Writer {
        number(self.cluster.replica(node).id())
    }

    fn version(&self, version: &VersionVector) -> Version {
        Version(version.iter().map(|(id, head)| (number(id), head.sequence)).collect())
    }
}

fn number(replica: ReplicaId) -> Writer {
    u128::from_be_bytes(*replica.as_bytes())
}

fn path(key: &str) -> Path {
    Path::of(key.split('/').filter(|segment| !segment.is_empty())).expect("it is short")
}

fn path_text(path: &Path) -> Key {
    let segments: Vec<_> = path.segments().map(|segment| segment.to_string()).collect();
    segments.join("/")
}

fn row_kind(kind: Kind) -> RowKind {
    match kind {
        Kind::Register => RowKind::Register,
        Kind::Counter => RowKind::Counter,
        Kind::Flag => RowKind::Flag,
        Kind::Element => RowKind::Element,
    }
}

fn kind(kind: RowKind) -> Kind {
    match kind {
        RowKind::Register => Kind::Register,
        RowKind::Counter => Kind::Counter,
        RowKind::Flag => Kind::Flag,
        RowKind::Element => Kind::Element,
    }
}

fn intent(wish: &Wish) -> Intent {
    match wish {
        Wish::Put(key, Datum::Integer(number)) => {
            Intent::Put { path: path(key), value: Value::I64(*number) }
        }
        Wish::Put(_, other) => panic!("{other:?} is not put here"),
        Wish::Add(key, amount) => Intent::Increment { path: path(key), amount: *amount },
        Wish::Enable(key) => Intent::Enable { path: path(key) },
        Wish::Insert(key) => Intent::AddElement { path: path(key) },
        Wish::RemoveRow(key, of) => {
            Intent::RemoveRow { key: RowKey { path: path(key), kind: kind(*of) } }
        }
        Wish::Remove(key) => Intent::Remove { path: path(key) },
        Wish::RemoveTree(key) => Intent::RemoveTree { path: path(key) },
    }
}

fn seen(read: Read) -> Seen {
    match read {
        Read::Register(siblings) => {
            let sibling = |(ms, writer, value): (u64, ReplicaId, Value)| {
                let Value::I64(value) = value else { panic!("only numbers are put") };
                (ms, number(writer), Datum::Integer(value))
            };
            Seen::Register(siblings.into_iter().map(sibling).collect())
        }
        Read::Counter(sum) => Seen::Counter(sum),
        Read::Flag(true) => Seen::Flag,
        Read::Element(true) => Seen::Element,
        off => panic!("{off:?} is a row"),
    }
}

#[test]
fn nobody_objects_to_an_honest_history() {
    (0..60).for_each(|seed| drop(History::run(seed, SMALL)));
}

#[test]
fn nobody_objects_to_a_counter_that_folds() {
    (0..60).for_each(|seed| drop(History::run(seed, COUNTING)));
    (0..30).for_each(|seed| drop(History::run(seed, FOLDING)));
}

/// Wrong rows, at a version that nobody has read: so it is for the checkers of rows to see.
#[test]
fn whatever_is_changed_in_the_rows_somebody_objects() {
    let mut objections = BTreeMap::<Checker, usize>::new();
    for seed in 0..120 {
        let mut history = History::new(seed, Shape { reads: 0.1, ..SMALL });
        for _ in 0..60 {
            let node = history.step();
            if history.random.chance(0.1) {
                history.read(node);
            }
        }
        history.write(0, &ACKNOWLEDGED);
        let (version, mut rows, bytes) = history.look(0);
        let what = tamper(&mut history.random, &mut rows);
        let (version, rows) = (&version, &rows);
        history.tell(0, &Observation::Read { space: 0, version, rows, bytes });
        let violation = history.told.verdict.expect_err(&format!("seed {seed}: {what}"));
        *objections.entry(violation.checker).or_default() += 1;
    }
    let checkers: Vec<_> = objections.keys().copied().collect();
    assert_eq!(
        checkers,
        [Checker::Atomicity, Checker::Resurrection, Checker::Oracle],
        "{objections:?}"
    );
}

/// Changes something, and says what.
fn tamper(random: &mut Random, rows: &mut ReadRows) -> String {
    let keys: Vec<_> = rows.keys().cloned().collect();
    let Some(key) = random.pick(&keys).filter(|_| random.clone().chance(0.8)).cloned() else {
        // A row that is not there: often one that was and has gone.
        let all = SMALL.keys.iter().flat_map(|key| KINDS.map(|kind| ((*key).to_owned(), kind)));
        let absent: Vec<_> = all.filter(|key| !rows.contains_key(key)).collect();
        let key = absent[random.index(absent.len())].clone();
        let seen = match key.1 {
            RowKind::Register => Seen::Register(vec![(1, 1, Datum::Integer(1))]),
            RowKind::Counter => Seen::Counter(1),
            RowKind::Flag => Seen::Flag,
            RowKind::Element => Seen::Element,
        };
        let what = format!("added {key:?}");
        rows.insert(key, seen);
        return what;
    };
    match rows.get_mut(&key) {
        // Further than any fold could bend it.
        Some(Seen::Counter(sum)) => *sum += 10_000,
        Some(Seen::Register(values)) if values.len() > 1 => values.reverse(),
        Some(Seen::Register(values)) => values.iter_mut().for_each(|value| value.0 += 1),
        _ => drop(rows.remove(&key)),
    }
    format!("changed {key:?}")
}

#[test]
fn nobody_objects_to_a_world_of_many_rows() {
    let shape = Shape { nodes: 5, steps: 700, keys_many: 200, reads: 0.1, ..SMALL };
    let history = History::run(1, shape);
    assert!(history.told.now_ms > 10_000, "each of so many observations takes 10 ms");
}
