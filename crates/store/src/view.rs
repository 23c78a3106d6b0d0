//! A consistent view of everything stored: two buffers in memory over the tree, shared and never copied.
//!
//! What is looked for in the *active* buffer first, then in the *frozen* one, which a checkpoint is bringing
//! into the tree, then in the tree. Cloning a view is cheap: the buffers are persistent maps, so a clone
//! shares what later writes leave alone.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{Path, ReadRows, Row, RowKey, RowPage, SpaceId, VersionVector};

use crate::entry::{ReplicaIndex, SpaceIndex};
use crate::error::StoreError;
use crate::log::{Location, Lsn};
use crate::replicas::Replicas;
use crate::tree::Tree;

/// A row's key in the whole store: [`space_prefix`], then the encoding of the row key.
pub(crate) type StoredKey = Arc<[u8]>;
/// A row as a buffer holds it; `None` hides what lies under it: the row was deleted.
pub(crate) type BufferedRow = Option<Arc<Row>>;
/// Names a commit by small numbers.
pub(crate) type IndexKey = (SpaceIndex, ReplicaIndex, u64);

/// What a row costs in a buffer beside its key and dots, in bytes; a guess.
const ROW_OVERHEAD_BYTES: usize = 160;
/// What a dot costs in a row in memory, in bytes; a guess that leaves its value out.
const DOT_OVERHEAD_BYTES: usize = 64;
/// What an entry of the index costs in memory, in bytes; a guess.
const INDEX_ENTRY_BYTES: usize = 64;

/// The name and the id of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceInfo {
    /// The id, which is the same on every replica.
    pub id: SpaceId,
    /// What this store's owner calls it.
    pub name: String,
}

/// What is known of a space beside its rows.
#[derive(Debug, Clone)]
pub(crate) struct SpaceState {
    pub(crate) info: Arc<SpaceInfo>,
    pub(crate) version: Arc<VersionVector>,
    /// The last own commit that a peer is known to hold.
    pub(crate) confirmed: u64,
}

/// What was written since a checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffer {
    pub(crate) rows: OrdMap<StoredKey, BufferedRow>,
    /// Where the commits are whose effects are in `rows`.
    pub(crate) index: OrdMap<IndexKey, Location>,
    /// About how much memory this takes.
    pub(crate) bytes: usize,
}

/// Everything, as of one position in the log.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) active: Buffer,
    pub(crate) frozen: Option<Buffer>,
    pub(crate) tree: Arc<Tree>,
    pub(crate) spaces: OrdMap<SpaceIndex, SpaceState>,
    /// The indexes of the spaces.
    pub(crate) space_ids: OrdMap<SpaceId, SpaceIndex>,
    pub(crate) replicas: Arc<Replicas>,
    /// Behind the last record whose effects are here.
    pub(crate) lsn: Lsn,
}

/// Where keys of the whole store begin and end; never the wrong way round.
#[derive(Debug)]
pub(crate) struct KeyRange {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
}

/// The rows of one space in a view.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpaceRows<'a> {
    pub(crate) view: &'a View,
    pub(crate) space: SpaceIndex,
}

impl SpaceState {
    pub(crate) fn new(info: SpaceInfo) -> Self {
        Self { info: Arc::new(info), version: Arc::default(), confirmed: 0 }
    }
}

impl Buffer {
    /// Puts a row, and gives back what was there.
    pub(crate) fn set(&mut self, key: StoredKey, row: BufferedRow) -> Option<BufferedRow> {
        self.bytes += row_bytes(&key, &row);
        let key_bytes = key.len();
        let old = self.rows.insert(key, row);
        if let Some(old) = &old {
            self.bytes = self.bytes.saturating_sub(row_bytes_of(key_bytes, old));
        }
        old
    }

    /// Undoes a [`set`](Self::set) that gave back `old`.
    pub(crate) fn restore(&mut self, key: StoredKey, old: Option<BufferedRow>) {
        match old {
            Some(row) => {
                self.set(key, row);
            }
            None => {
                if let Some(row) = self.rows.remove(&key) {
                    self.bytes = self.bytes.saturating_sub(row_bytes(&key, &row));
                }
            }
        }
    }

    pub(crate) fn index(&mut self, key: IndexKey, location: Location) {
        self.index.insert(key, location);
        if !planted::is(Bug::BufferUncounted) {
            self.bytes += INDEX_ENTRY_BYTES + location.body_bytes as usize;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.index.is_empty()
    }

    fn range<'a>(
        &'a self,
        range: &'a KeyRange,
    ) -> impl Iterator<Item = (&'a StoredKey, &'a BufferedRow)> {
        self.rows.range::<_, [u8]>(range.bounds())
    }
}

impl View {
    pub(crate) fn space(&self, space: SpaceIndex) -> Result<&SpaceState, StoreError> {
        self.spaces.get(&space).ok_or(StoreError::NoSuchSpace)
    }

    /// Where the commits of a replica are, from a sequence number on, in order, up to about `limit`.
    pub(crate) fn locations(
        &self,
        first: IndexKey,
        limit: usize,
    ) -> Result<Vec<(u64, Location)>, StoreError> {
        // What a buffer holds of one replica is behind all that lies under it.
        let mut locations = self.tree.locations(first, limit)?;
        for buffer in self.frozen.iter().chain([&self.active]) {
            let bounds = first..=(first.0, first.1, u64::MAX);
            let entries = buffer.index.range(bounds).map(|((_, _, sequence), at)| (*sequence, *at));
            locations.extend(entries.take(limit.saturating_sub(locations.len())));
        }
        Ok(locations)
    }

    /// Rests the view on a later tree than it was taken on, one which has what was frozen then.
    pub(crate) fn rebase(&mut self, tree: &Arc<Tree>) {
        if self.tree.generation != tree.generation {
            self.frozen = None;
            self.tree = tree.clone();
        }
    }
}

impl ReadRows for SpaceRows<'_> {
    type Error = StoreError;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        let stored = tree_key(self.space, key);
        let buffers = [Some(&self.view.active), self.view.frozen.as_ref()];
        match buffers.into_iter().flatten().find_map(|buffer| buffer.rows.get(&stored[..])) {
            Some(row) => Ok(row.as_deref().cloned()),
            None => self.view.tree.row(&stored, key.kind, &self.view.replicas),
        }
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, StoreError> {
        let Some(range) = KeyRange::new(self.space, prefix, after) else {
            return Ok(RowPage::new());
        };
        let empty = Buffer::default();
        let frozen = self.view.frozen.as_ref().unwrap_or(&empty);
        let mut buffered = Overlay {
            over: self.view.active.range(&range).peekable(),
            under: frozen.range(&range).peekable(),
        }
        .peekable();
        let mut stored = self.view.tree.rows(&range)?.peekable();
        let mut page = RowPage::new();
        while page.len() < limit {
            let take_stored = match (buffered.peek(), stored.peek()) {
                (None, None) => break,
                (Some(_), None) => false,
                (_, Some(Err(_))) | (None, Some(Ok(_))) => true,
                (Some((over, _)), Some(Ok(under))) => {
                    let order = over[..].cmp(under.key());
                    if order.is_eq() {
                        stored.next();
                    }
                    order.is_gt()
                }
            };
            if take_stored {
                if let Some(row) = stored.next() {
                    page.push(row?.decode(&self.view.replicas)?);
                }
            } else if let Some((key, Some(row))) = buffered.next() {
                let key = row_key_of(key).expect("a buffer holds only keys made from row keys");
                page.push((key, Row::clone(row)));
            }
        }
        Ok(page)
    }
}

/// Merges two buffers in the order of keys; where both have a key, `over` wins.
struct Overlay<A: Iterator, B: Iterator> {
    over: Peekable<A>,
    under: Peekable<B>,
}

impl<'a, A, B> Iterator for Overlay<A, B>
where
    A: Iterator<Item = (&'a StoredKey, &'a BufferedRow)>,
    B: Iterator<Item = (&'a StoredKey, &'a BufferedRow)>,
{
    type Item = (&'a StoredKey, &'a BufferedRow);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some((over, _)), Some((under, _))) = (self.over.peek(), self.under.peek()) else {
            return self.over.next().or_else(|| self.under.next());
        };
        let order = over.cmp(under);
        if order.is_eq() {
            self.under.next();
        }
        if order.is_gt() { self.under.next() } else { self.over.next() }
    }
}

pub(crate) fn space_prefix(space: SpaceIndex) -> [u8; 4] {
    space.0.to_be_bytes()
}

/// The key of a row in the whole store.
pub(crate) fn tree_key(space: SpaceIndex, key: &RowKey) -> Vec<u8> {
    let path = key.path.as_bytes();
    let mut bytes = Vec::with_capacity(path.len() + 5);
    bytes.extend_from_slice(&space_prefix(space));
    bytes.extend_from_slice(path);
    bytes.push(key.kind as u8);
    bytes
}

/// The row key in a key of the whole store.
pub(crate) fn row_key_of(stored: &[u8]) -> Option<RowKey> {
    RowKey::from_bytes(stored.get(4..)?).ok()
}

impl KeyRange {
    /// The keys at and under `prefix` and behind `after`; `None` if there can be none.
    pub(crate) fn new(space: SpaceIndex, prefix: &Path, after: Option<&RowKey>) -> Option<Self> {
        let first = [&space_prefix(space), prefix.as_bytes()].concat();
        let end = successor(&first);
        let after = after.map(|after| tree_key(space, after)).filter(|after| *after >= first);
        if let (Some(after), Some(end)) = (&after, &end)
            && after >= end
        {
            return None;
        }
        let start = after.map_or(Bound::Included(first), Bound::Excluded);
        Some(Self { start, end: end.map_or(Bound::Unbounded, Bound::Excluded) })
    }

    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice))
    }
}

/// The first byte string behind all those that begin with `prefix`; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}

fn row_bytes(key: &StoredKey, row: &BufferedRow) -> usize {
    row_bytes_of(key.len(), row)
}

fn row_bytes_of(key_bytes: usize, row: &BufferedRow) -> usize {
    key_bytes + ROW_OVERHEAD_BYTES + row.as_ref().map_or(0, |row| row.len() * DOT_OVERHEAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_keys_holds_exactly_what_is_under_the_prefix_and_behind_the_mark() {
        let space = SpaceIndex(7);
        let key = |segments: &[&str]| RowKey {
            path: Path::of(segments.iter().copied()).unwrap(),
            kind: rejoin_crdt::Kind::Flag,
        };
        let prefix = Path::of(["b"]).unwrap();
        let keys = [&["a"][..], &["b"], &["b", "x"], &["b", "y"], &["ba"], &["c"]].map(key);
        let within = |after: Option<&RowKey>| -> Vec<bool> {
            use std::ops::RangeBounds;
            let range = KeyRange::new(space, &prefix, after);
            let holds = |key| {
                let stored = tree_key(space, key);
                let within =
                    |range: &KeyRange| RangeBounds::<[u8]>::contains(&range.bounds(), &stored[..]);
                range.as_ref().is_some_and(within)
            };
            keys.iter().map(holds).collect()
        };
        assert_eq!(within(None), [false, true, true, true, false, false]);
        assert_eq!(within(Some(&keys[0])), [false, true, true, true, false, false]);
        assert_eq!(within(Some(&keys[2])), [false, false, false, true, false, false]);
        assert_eq!(within(Some(&keys[5])), [false; 6]);
    }

    #[test]
    fn the_successor_of_the_last_prefix_is_none() {
        assert_eq!(successor(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff; 4]), None);
    }
}
