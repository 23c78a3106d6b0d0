//! The join of two whole states.

use std::iter::Peekable;

use crate::planted::{self, Bug};
use crate::{
    Dot, Fork, Head, PAGE_ROWS_MAX, Path, ReadRows, ReplicaId, Row, RowKey, RowPage, VersionVector,
    WriteRows,
};

/// Why two states cannot be joined, apart from failures of the rows themselves (`E`).
///
/// Except for `Rows`, the fault lies with whoever sent the other state. Some rows may have been
/// written: the caller discards its writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError<E> {
    /// The rows could not be read or written.
    #[error("the rows could not be reached")]
    Rows(#[source] E),
    /// The two sides hold one dot with two payloads: a fork, a bug or corruption.
    #[error("the commit {dot} has two payloads in the row at {}", key.path)]
    TwoPayloads {
        /// The dot.
        dot: Dot,
        /// The row.
        key: Box<RowKey>,
    },
    /// The two version vectors disagree about one commit.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// The other side's rows are not in strictly ascending order of keys.
    #[error("rows of the other side are out of order")]
    OutOfOrder,
    /// A row of the other side holds a dot that its version vector does not cover.
    #[error("a row of the other side holds {0}, which its version does not cover")]
    Uncovered(Dot),
}

/// A dot that both sides hold with different payloads.
#[derive(Debug)]
pub(crate) struct JoinConflict(pub(crate) Option<Dot>);

/// Joins the state of another replica into `rows`, which stand at `version`, and returns the joined
/// version vector.
///
/// `theirs` gives the other side's rows in the order of keys. A dot survives if both sides hold it,
/// or if the side without it has never seen it. The cost is linear in the rows of both sides; memory
/// is bounded by a page.
///
/// # Errors
/// [`JoinError`]; some rows may then have been written, and the caller discards its writes.
pub fn join<R: WriteRows>(
    rows: &mut R,
    version: &VersionVector,
    theirs: impl IntoIterator<Item = Result<(RowKey, Row), R::Error>>,
    their_version: &VersionVector,
) -> Result<VersionVector, JoinError<R::Error>> {
    let mut joined_version = version.clone();
    joined_version.join(their_version)?;
    let forgetful = planted::is(Bug::JoinForgetsOurs);
    let seen_there = if forgetful { &joined_version } else { their_version };
    let mut theirs = theirs.into_iter().peekable();
    let mut mine = Mine::default();
    let mut last: Option<RowKey> = None;
    while let Some(Pair { key, mine: my_row, theirs: their_row }) =
        next_pair(rows, &mut mine, &mut theirs)?
    {
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(JoinError::OutOfOrder);
        }
        if let Some(dot) = their_row.dots().find(|dot| !their_version.covers(*dot)) {
            return Err(JoinError::Uncovered(dot));
        }
        let row = my_row.join(version, &their_row, seen_there).map_err(|JoinConflict(dot)| {
            let dot = dot.expect("a conflict is found at a dot that both sides hold");
            JoinError::TwoPayloads { dot, key: Box::new(key.clone()) }
        })?;
        #[cfg(feature = "mutants")]
        let row = planted::joined_row(key.kind, row);
        if row != my_row {
            rows.set_row(&key, row).map_err(JoinError::Rows)?;
        }
        last = Some(key);
    }
    if planted::is(Bug::VersionPruned) {
        let there = |(replica, _): &(ReplicaId, Head)| their_version.head(*replica).is_some();
        return Ok(joined_version.iter().filter(there).collect());
    }
    Ok(joined_version)
}

/// One key of either side, with the row of each; empty where a side has none.
struct Pair {
    key: RowKey,
    mine: Row,
    theirs: Row,
}

/// The next key of either side, in order.
fn next_pair<R: ReadRows>(
    rows: &R,
    mine: &mut Mine,
    theirs: &mut Peekable<impl Iterator<Item = Result<(RowKey, Row), R::Error>>>,
) -> Result<Option<Pair>, JoinError<R::Error>> {
    let my_key = mine.peek(rows).map_err(JoinError::Rows)?;
    let take_theirs = match (my_key, theirs.peek()) {
        (None, None) => return Ok(None),
        (Some(_), None) => false,
        (_, Some(Err(_))) | (None, Some(Ok(_))) => true,
        (Some(my_key), Some(Ok((their_key, _)))) if my_key == their_key => {
            let (key, my_row) = mine.take();
            let their_row = match theirs.next() {
                Some(Ok((_, row))) => row,
                _ => Row::default(),
            };
            return Ok(Some(Pair { key, mine: my_row, theirs: their_row }));
        }
        (Some(my_key), Some(Ok((their_key, _)))) => their_key < my_key,
    };
    if !take_theirs {
        let (key, row) = mine.take();
        return Ok(Some(Pair { key, mine: row, theirs: Row::default() }));
    }
    match theirs.next() {
        Some(Ok((key, row))) => Ok(Some(Pair { key, mine: Row::default(), theirs: row })),
        Some(Err(error)) => Err(JoinError::Rows(error)),
        None => Ok(None),
    }
}

/// This side's rows, a page at a time.
#[derive(Default)]
struct Mine {
    page: std::collections::VecDeque<(RowKey, Row)>,
    after: Option<RowKey>,
    ended: bool,
}

impl Mine {
    fn peek<R: ReadRows>(&mut self, rows: &R) -> Result<Option<&RowKey>, R::Error> {
        if self.page.is_empty() && !self.ended {
            let page: RowPage = rows.page(&Path::root(), self.after.as_ref(), PAGE_ROWS_MAX)?;
            self.ended = page.len() < PAGE_ROWS_MAX;
            self.after = page.last().map(|(key, _)| key.clone());
            self.page = page.into();
        }
        Ok(self.page.front().map(|(key, _)| key))
    }

    fn take(&mut self) -> (RowKey, Row) {
        self.page.pop_front().expect("a key was peeked at before it is taken")
    }
}
