//! Counter: a sum of signed increments.
//!
//! Each increment adds a dot that carries its amount, and the value is the sum over live dots
//! (Almeida, Shoker, Baquero 2018, section 7, with dots instead of per-replica pairs). An increment
//! *folds* into its own dot those earlier dots of the same replica that no peer can have seen, or all
//! of them once a row holds more than [`FOLD_PAST`]. A removal supersedes what it has seen, so an
//! increment concurrent with it survives alone.
//!
//! Folding has a price. An increment that a removal has seen counts again if a later increment of the
//! same replica, which that removal has not seen, folds it in; no increment that every removal has
//! missed is ever lost. It takes one of two things: a fold past [`FOLD_PAST`] that is concurrent
//! with the removal, or a removal by a replica that had received the folded increment but not yet the
//! one that folds it, because the link broke between two commits of one batch.
//!
//! Cost: an increment writes one dot and names what it folds; a read is linear in the live dots, at
//! most [`FOLD_PAST`] + 1 for each replica that is concurrently writing.

use crate::planted::{self, Bug};
use crate::{Payload, ReplicaId, Row};

/// A replica folds all its own dots of a row once it holds more than this many of them.
pub const FOLD_PAST: usize = 16;

/// The sum of the live increments, held within the range of `i64`.
pub fn value(row: Option<&Row>) -> i64 {
    let sum: i128 = row.into_iter().flat_map(Row::iter).map(|(_, payload)| amount(payload)).sum();
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

/// The dots that an increment by `replica` folds in, and their sum. `sent` is the highest of its own
/// sequence numbers that a peer may know.
pub(crate) fn folded(row: &Row, replica: ReplicaId, sent: u64) -> (Vec<crate::Dot>, i128) {
    let own = || row.iter().filter(move |(dot, _)| dot.replica == replica);
    let fold_all = own().count() > FOLD_PAST || planted::is(Bug::CounterFoldsSent);
    let folded = own().filter(|(dot, _)| fold_all || dot.sequence > sent);
    folded.fold((Vec::new(), 0), |(mut dots, sum), (dot, payload)| {
        dots.push(dot);
        (dots, sum + amount(payload))
    })
}

fn amount(payload: &Payload) -> i128 {
    if let Payload::Counter(amount) = payload { i128::from(*amount) } else { 0 }
}
