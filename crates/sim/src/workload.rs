//! What replicas are used for: transactions drawn at random, as wishes in plain words.

use crate::history::{Datum, DotName, NodeIndex, RowKind, SpaceNumber, Wish};
use crate::plan::{Plan, Use};
use crate::random::Random;

/// A set to which a transaction adds its name, together with another: whoever sees one addition must see both.
/// One sorts before all other keys and one behind them, as a commit has its changes: half of it has one of them.
const WITNESS_SETS: [&str; 2] = ["!a", "~b"];

/// Draws what the replicas of one world write.
#[derive(Debug)]
pub(crate) struct Workload {
    work: Use,
    spaces: usize,
    witnessed: f64,
    random: Random,
    /// How many values were made so far, so that no two are alike.
    values: u64,
}

impl Workload {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            work: plan.work,
            spaces: plan.spaces,
            witnessed: plan.witnessed,
            random: Random::labelled(plan.seed, "workload"),
            values: 0,
        }
    }

    /// When in the troubled part each transaction is made, and by whom.
    pub(crate) fn schedule(&mut self, plan: &Plan) -> Vec<(u64, NodeIndex)> {
        let mut schedule = Vec::new();
        let count = u64::from(plan.actions);
        match self.work {
            Use::Bursts => {
                let bursts = self.random.within(2..=4);
                for _ in 0..bursts {
                    let begin = self.random.below(plan.troubled_ms);
                    let node = self.random.index(plan.replicas);
                    for number in 0..count / bursts {
                        // Most of a burst is one replica's.
                        let other = self.random.chance(0.2);
                        let by = if other { self.random.index(plan.replicas) } else { node };
                        schedule.push((begin + number * 3, by));
                    }
                }
            }
            _ => {
                let busiest = Random::labelled(plan.seed, "busiest").index(plan.replicas);
                for _ in 0..count {
                    let at = self.random.below(plan.troubled_ms);
                    let node = self.random.index(plan.replicas);
                    let by = if self.random.chance(plan.busiest) { busiest } else { node };
                    schedule.push((at, by));
                }
            }
        }
        schedule.sort_unstable();
        schedule
    }

    /// One transaction.
    pub(crate) fn transaction(&mut self, node: NodeIndex) -> (SpaceNumber, Vec<Wish>) {
        let space = self.random.index(self.spaces);
        let wishes = match self.work {
            Use::Carts | Use::Application => self.cart(),
            Use::HotKeys | Use::Bursts => self.hot(),
            Use::Trees => self.tree(),
            Use::LargeValues => self.large(),
            Use::ManySpaces => self.little(node),
            Use::OrderBook => self.invoice(),
        };
        (space, wishes)
    }

    /// The witnesses of the transaction with this name, if it has any.
    pub(crate) fn witnesses(&mut self, dot: DotName, surely: bool) -> Vec<Wish> {
        if !self.random.chance(self.witnessed) && !surely {
            return Vec::new();
        }
        let name = format!("{:032x}.{}", dot.writer, dot.sequence);
        WITNESS_SETS.iter().map(|set| Wish::Insert(format!("{set}/{name}"))).collect()
    }

    fn value(&mut self) -> Datum {
        self.values += 1;
        match self.random.below(3) {
            0 => Datum::Integer(self.values as i64),
            1 => Datum::Text(format!("value {}", self.values)),
            _ => Datum::Bytes(self.values.to_le_bytes().to_vec()),
        }
    }

    fn cart(&mut self) -> Vec<Wish> {
        let cart = format!("cart/c{}", self.random.below(3));
        let item = format!("{cart}/items/s{}", self.random.below(8));
        let amount = self.random.within(1..=5) as i64;
        match self.random.below(12) {
            0..5 => vec![Wish::Add(format!("{item}/quantity"), amount)],
            5 => vec![Wish::Add(format!("{item}/quantity"), -amount)],
            6 => vec![
                Wish::Put(format!("{item}/title"), self.value()),
                Wish::Add(format!("{item}/quantity"), amount),
            ],
            7 => vec![Wish::Insert(format!("{cart}/coupons/k{}", self.random.below(4)))],
            8 => vec![Wish::RemoveRow(
                format!("{cart}/coupons/k{}", self.random.below(4)),
                RowKind::Element,
            )],
            9 => vec![Wish::RemoveTree(item)],
            10 => vec![Wish::Enable(format!("{cart}/gift"))],
            _ => match self.random.below(4) {
                0 => vec![Wish::RemoveTree(cart)],
                1 => vec![Wish::RemoveRow(format!("{cart}/gift"), RowKind::Flag)],
                _ => vec![Wish::RemoveRow(format!("{item}/quantity"), RowKind::Counter)],
            },
        }
    }

    fn hot(&mut self) -> Vec<Wish> {
        (0..self.random.within(1..=4)).map(|_| self.hot_wish()).collect()
    }

    fn hot_wish(&mut self) -> Wish {
        let key = format!("hot/{}", self.random.below(3));
        let element = format!("{key}/e{}", self.random.below(3));
        match self.random.below(16) {
            0..4 => Wish::Put(key, self.value()),
            4..8 => Wish::Add(key, self.random.within(0..=20) as i64 - 8),
            8..10 => Wish::Enable(key),
            10..12 => Wish::Insert(element),
            12 => Wish::RemoveRow(element, RowKind::Element),
            13 => Wish::RemoveRow(key, RowKind::Register),
            14 => match self.random.below(2) {
                0 => Wish::RemoveRow(key, RowKind::Counter),
                _ => Wish::RemoveRow(key, RowKind::Flag),
            },
            _ => Wish::Remove(if self.random.chance(0.5) { key } else { element }),
        }
    }

    fn tree(&mut self) -> Vec<Wish> {
        let (a, b, c) = (self.random.below(3), self.random.below(3), self.random.below(4));
        if self.random.chance(0.2) {
            return vec![match self.random.below(4) {
                0 => Wish::RemoveTree(format!("tree/{a}")),
                _ => Wish::RemoveTree(format!("tree/{a}/{b}")),
            }];
        }
        let leaf = format!("tree/{a}/{b}/{c}");
        let mut wishes = vec![match self.random.below(4) {
            0 => Wish::Put(leaf, self.value()),
            1 => Wish::Add(leaf, 1),
            2 => Wish::Enable(leaf),
            _ => {
                self.values += 1;
                // Never added again: what is removed of these must never come back.
                Wish::Insert(format!("tree/{a}/{b}/unique/{}", self.values))
            }
        }];
        if self.random.chance(0.2) {
            // Moved: removed here and put there, in one transaction.
            wishes.push(Wish::Put(format!("tree/{b}/{a}/{c}"), self.value()));
            wishes.push(Wish::RemoveTree(format!("tree/{a}/{c}")));
        }
        wishes
    }

    fn large(&mut self) -> Vec<Wish> {
        let key = format!("large/{}", self.random.below(6));
        if self.random.chance(0.1) {
            return vec![Wish::Remove(key)];
        }
        self.values += 1;
        let length = match self.random.below(4) {
            0 => self.random.within(1..=64) as usize,
            1..3 => self.random.within(1_000..=8_000) as usize,
            _ => self.random.within(8_000..=60_000) as usize,
        };
        let bytes = (0..length).map(|at| ((at as u64 * self.values) >> 3) as u8).collect();
        vec![Wish::Put(key, Datum::Bytes(bytes))]
    }

    fn little(&mut self, node: NodeIndex) -> Vec<Wish> {
        match self.random.below(3) {
            0 => vec![Wish::Put(format!("of/{node}"), self.value())],
            1 => vec![Wish::Add("of/all".to_owned(), 1)],
            _ => vec![Wish::Insert(format!("members/{node}"))],
        }
    }

    fn invoice(&mut self) -> Vec<Wish> {
        let customer = self.random.below(20);
        let cancelled = self.random.chance(0.1);
        // In the real book half of the invoices have more than ten lines, and few have a hundred.
        let lines = self.random.wait_ms(8.0).min(40);
        (0..lines)
            .map(|_| {
                // Popular articles: the square of a uniform number.
                let popular = self.random.below(1_000) as f64 / 1_000.0;
                let article = (popular * popular * 60.0) as u64;
                let quantity = self.random.within(1..=24) as i64;
                let quantity = if cancelled { -quantity } else { quantity };
                Wish::Add(format!("cart/{customer}/{article}"), quantity)
            })
            .collect()
    }
}
