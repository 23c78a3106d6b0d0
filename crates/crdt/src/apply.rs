//! The effect of a commit on the rows: deterministic, and the same on every replica.

use crate::planted::{self, Bug};
use crate::{CommitBody, Dot, Kind, Operation, PAGE_ROWS_MAX, Path, Row, RowKey, WriteRows};

/// Applies the commit named `dot` to `rows`.
///
/// The caller has made sure that it is [`ready`](CommitBody::ready), and records it in the version
/// vector together with the rows.
///
/// # Errors
/// Whatever keeps the rows from being reached. The commit is then partly applied: the caller
/// discards its writes.
pub fn apply<R: WriteRows>(rows: &mut R, dot: Dot, body: &CommitBody) -> Result<(), R::Error> {
    for operation in &body.operations {
        match operation {
            Operation::Set { key, observed, payload } => {
                let mut row = rows.row(key)?.unwrap_or_default();
                #[cfg(feature = "mutants")]
                let observed = &planted::superseded(&row, observed, payload);
                observed.iter().for_each(|dot| row.remove(*dot));
                let blind = planted::is(Bug::BlindPut) && key.kind == Kind::Register;
                if blind || planted::is(Bug::AddForgetsSiblings) && key.kind == Kind::Element {
                    row = Row::default();
                }
                row.insert(dot, payload.clone());
                rows.set_row(key, row)?;
            }
            Operation::Remove { key, observed } => {
                if let Some(mut row) = rows.row(key)? {
                    observed.iter().for_each(|dot| row.remove(*dot));
                    rows.set_row(key, row)?;
                } else if planted::is(Bug::RemovalEndsCommit) {
                    return Ok(());
                }
            }
            Operation::RemoveTree { path, past } => remove_tree(rows, path, past)?,
        }
    }
    Ok(())
}

/// Removes every dot under `path` that `past` (one dot for each replica, in order) covers.
fn remove_tree<R: WriteRows>(rows: &mut R, path: &Path, past: &[Dot]) -> Result<(), R::Error> {
    let mut after: Option<RowKey> = None;
    loop {
        let page = rows.page(path, after.as_ref(), PAGE_ROWS_MAX)?;
        let last_page = page.len() < PAGE_ROWS_MAX;
        for (key, mut row) in page {
            let before = row.len();
            row.retain(|dot| !covers(past, dot) && !planted::is(Bug::RemoveTreeBlind));
            if row.len() < before {
                rows.set_row(&key, row)?;
            }
            after = Some(key);
        }
        if last_page {
            return Ok(());
        }
    }
}

fn covers(past: &[Dot], dot: Dot) -> bool {
    past.binary_search_by_key(&dot.replica, |head| head.replica)
        .is_ok_and(|index| past[index].sequence >= dot.sequence)
}
