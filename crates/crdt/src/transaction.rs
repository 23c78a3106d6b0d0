//! Prepare: turns what an application wants into operations that name the dots they observed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::kind::counter;
use crate::planted::{self, Bug};
use crate::{
    CommitBody, Dot, Kind, Operation, Path, Payload, ReadRows, ReplicaId, Row, RowKey, RowPage,
    Value, ValueError, VersionVector,
};

/// Why an intent cannot become an operation. The transaction is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError<E> {
    /// The rows could not be read.
    #[error("the rows could not be read")]
    Rows(#[source] E),
    /// The value breaks a limit; the caller's fault.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// One replica's increments of a counter would leave the range of `i64`; the caller's fault.
    #[error("the counter would overflow")]
    CounterOverflow,
}

/// What a transaction must know about the replica that runs it.
#[derive(Debug, Clone, Default)]
pub struct TransactionContext {
    /// Who writes.
    pub replica: ReplicaId,
    /// The writer's clock, in milliseconds since the Unix epoch.
    pub wall_time_ms: u64,
    /// The highest sequence number of the replica's own commits in this space that a peer may know.
    pub sent: u64,
    /// The other replicas' entries that advanced since this replica's previous commit, ascending.
    /// Naming more of the version vector than that is correct and only costs bytes.
    pub dependencies: Vec<Dot>,
}

/// One transaction being built over the rows of a space: reads see its own writes.
///
/// Each row gets at most one operation, since a commit has one dot: later intents on a row replace or
/// extend earlier ones. The rows beneath must stay as they are until [`finish`](Self::finish).
pub struct Transaction<'a, E> {
    base: &'a dyn ReadRows<Error = E>,
    version: &'a VersionVector,
    context: TransactionContext,
    /// Roots of removed subtrees, none under another. Rows beneath them count as gone.
    trees: BTreeSet<Path>,
    pending: BTreeMap<RowKey, Pending>,
}

/// The operation on one row so far.
struct Pending {
    observed: Vec<Dot>,
    payload: Option<Payload>,
}

impl<'a, E> Transaction<'a, E> {
    /// A transaction over `base`, which stands at `version`.
    pub fn new(
        base: &'a dyn ReadRows<Error = E>,
        version: &'a VersionVector,
        context: TransactionContext,
    ) -> Self {
        Self { base, version, context, trees: BTreeSet::new(), pending: BTreeMap::new() }
    }

    /// The dot that the commit will have.
    pub fn dot(&self) -> Dot {
        let replica = self.context.replica;
        Dot { replica, sequence: self.version.sequence(replica) + 1 }
    }

    /// Puts a value into the register at `path`: it supersedes the values seen here.
    ///
    /// # Errors
    /// [`PrepareError`] if the value breaks a limit or the rows cannot be read.
    pub fn put(&mut self, path: Path, value: Value) -> Result<(), PrepareError<E>> {
        value.to_bytes()?;
        let wall_time_ms = self.context.wall_time_ms;
        self.set(path, Payload::Register { value, wall_time_ms })
    }

    /// Adds `amount` to the counter at `path`.
    ///
    /// # Errors
    /// [`PrepareError`] if this replica's own increments would overflow or the rows cannot be read.
    pub fn increment(&mut self, path: Path, amount: i64) -> Result<(), PrepareError<E>> {
        let key = RowKey { path, kind: Kind::Counter };
        let (observed, before) = match self.pending.get(&key) {
            Some(pending) => {
                let before =
                    if let Some(Payload::Counter(sum)) = pending.payload { sum } else { 0 };
                (pending.observed.clone(), i128::from(before))
            }
            None => match self.base_row(&key)? {
                Some(row) => counter::folded(&row, self.context.replica, self.context.sent),
                None => (Vec::new(), 0),
            },
        };
        let sum = i64::try_from(before + i128::from(amount))
            .map_err(|_| PrepareError::CounterOverflow)?;
        self.pending.insert(key, Pending { observed, payload: Some(Payload::Counter(sum)) });
        Ok(())
    }

    /// Enables the flag at `path`.
    ///
    /// # Errors
    /// [`PrepareError`] if the rows cannot be read.
    pub fn enable(&mut self, path: Path) -> Result<(), PrepareError<E>> {
        self.set(path, Payload::Flag)
    }

    /// Adds the set element at `path` to the set that is its parent.
    ///
    /// # Errors
    /// [`PrepareError`] if the rows cannot be read.
    pub fn add_element(&mut self, path: Path) -> Result<(), PrepareError<E>> {
        self.set(path, Payload::Element)
    }

    /// Removes what is seen of one row: disables a flag, takes an element out of its set, empties a
    /// register, resets a counter.
    ///
    /// # Errors
    /// [`PrepareError`] if the rows cannot be read.
    pub fn remove_row(&mut self, key: RowKey) -> Result<(), PrepareError<E>> {
        let observed = self.observe_all(&key)?;
        if observed.is_empty() {
            self.pending.remove(&key);
        } else {
            self.pending.insert(key, Pending { observed, payload: None });
        }
        Ok(())
    }

    /// Removes what is seen of the rows of every kind at exactly `path`.
    ///
    /// # Errors
    /// [`PrepareError`] if the rows cannot be read.
    pub fn remove(&mut self, path: &Path) -> Result<(), PrepareError<E>> {
        let last = if planted::is(Bug::RemoveForgetsKind) { Kind::Flag } else { Kind::Element };
        for kind in Kind::ALL.into_iter().filter(|kind| *kind <= last) {
            self.remove_row(RowKey { path: path.clone(), kind })?;
        }
        Ok(())
    }

    /// Removes everything seen at and under `path`. The commit carries the version vector and not a
    /// list, so its size does not depend on the number of rows.
    ///
    /// # Errors
    /// [`PrepareError`] if the rows cannot be read.
    pub fn remove_tree(&mut self, path: &Path) -> Result<(), PrepareError<E>> {
        let has_rows = !self.base.page(path, None, 1).map_err(PrepareError::Rows)?.is_empty();
        self.pending.retain(|key, _| !key.path.starts_with(path));
        if has_rows && !self.is_removed(path) {
            self.trees.retain(|tree| !tree.starts_with(path));
            self.trees.insert(path.clone());
        }
        Ok(())
    }

    /// The commit's body; `None` if the transaction changes nothing.
    pub fn finish(self) -> Option<CommitBody> {
        let past: Vec<_> = self.version.dots().collect();
        let trees =
            self.trees.into_iter().map(|path| Operation::RemoveTree { path, past: past.clone() });
        let rows =
            self.pending.into_iter().map(|(key, Pending { observed, payload })| match payload {
                Some(payload) => Operation::Set { key, observed, payload },
                None => Operation::Remove { key, observed },
            });
        let operations: Vec<_> = trees.chain(rows).collect();
        let TransactionContext { wall_time_ms, dependencies, .. } = self.context;
        (!operations.is_empty()).then_some(CommitBody { dependencies, wall_time_ms, operations })
    }

    fn set(&mut self, path: Path, payload: Payload) -> Result<(), PrepareError<E>> {
        let key = RowKey { path, kind: payload.kind() };
        let observed = self.observe_all(&key)?;
        self.pending.insert(key, Pending { observed, payload: Some(payload) });
        Ok(())
    }

    /// Every dot of the row beneath this transaction.
    fn observe_all(&self, key: &RowKey) -> Result<Vec<Dot>, PrepareError<E>> {
        Ok(self.base_row(key)?.map(|row| row.dots().collect()).unwrap_or_default())
    }

    /// The row beneath this transaction, unless a removed subtree took it.
    fn base_row(&self, key: &RowKey) -> Result<Option<Row>, PrepareError<E>> {
        if self.is_removed(&key.path) {
            return Ok(None);
        }
        self.base.row(key).map_err(PrepareError::Rows)
    }

    fn is_removed(&self, path: &Path) -> bool {
        self.trees.iter().any(|tree| path.starts_with(tree))
    }

    /// What a reader of this transaction sees at `key`, where `base` is the row beneath it.
    fn view(&self, key: &RowKey, base: Option<Row>) -> Option<Row> {
        let mut row = base.filter(|_| !self.is_removed(&key.path)).unwrap_or_default();
        if let Some(pending) = self.pending.get(key) {
            pending.observed.iter().for_each(|dot| row.remove(*dot));
            if let Some(payload) = &pending.payload {
                row.insert(self.dot(), payload.clone());
            }
        }
        (!row.is_empty()).then_some(row)
    }
}

impl<E> ReadRows for Transaction<'_, E> {
    type Error = E;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, E> {
        Ok(self.view(key, self.base.row(key)?))
    }

    fn page(&self, prefix: &Path, after: Option<&RowKey>, limit: usize) -> Result<RowPage, E> {
        let first = RowKey { path: prefix.clone(), kind: Kind::ALL[0] };
        let mut seen = RowPage::new();
        let mut after = after.cloned();
        while seen.len() < limit {
            let page = self.base.page(prefix, after.as_ref(), limit)?;
            let upper =
                (page.len() == limit).then(|| page.last().map(|(key, _)| key.clone())).flatten();
            let mut rows: BTreeMap<RowKey, Option<Row>> =
                page.into_iter().map(|(key, row)| (key, Some(row))).collect();
            let from = match &after {
                Some(after) if *after >= first => Bound::Excluded(after),
                _ => Bound::Included(&first),
            };
            let own = self.pending.range((from, Bound::Unbounded)).map(|(key, _)| key);
            let own = own.take_while(|key| key.path.starts_with(prefix));
            for key in own.take_while(|key| upper.as_ref().is_none_or(|upper| *key <= upper)) {
                rows.entry(key.clone()).or_default();
            }
            let visible = rows
                .into_iter()
                .filter_map(|(key, base)| self.view(&key, base).map(|row| (key, row)));
            seen.extend(visible.take(limit - seen.len()));
            if upper.is_none() {
                break;
            }
            after = upper;
        }
        Ok(seen)
    }
}
