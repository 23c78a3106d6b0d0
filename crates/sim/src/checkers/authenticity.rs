//! Authenticity: what is visible was written by whom it is said to be from, and nothing beyond.
//!
//! That the bytes are those that the writer sent is for the [ledger](super::ledger) to see.

use super::cut::Cut;
use super::ledger::Ledger;
use super::{Verdict, object};
use crate::history::{Checker, DotName, SpaceNumber};

/// Every visible commit of an honest writer is one that it made, or is making just now.
///
/// `writing` tells for a writer how many of its transactions have begun and not ended.
pub(super) fn visible(
    ledger: &Ledger,
    space: SpaceNumber,
    cut: &Cut,
    writing: impl Fn(usize) -> u64,
) -> Verdict {
    let honest = cut.iter().filter(|(writer, _)| !ledger.is_liar(*writer));
    for (writer, sequence) in honest {
        let count = ledger.count(space, writer);
        if sequence > count + writing(writer) {
            let dot = ledger.writers.dot(writer, sequence);
            let stranger = ledger.home(writer).is_none();
            return object(Checker::Authenticity, || forged(space, dot, stranger, count));
        }
    }
    Ok(())
}

fn forged(space: SpaceNumber, dot: DotName, stranger: bool, count: u64) -> String {
    match stranger {
        true => format!("space {space}: {dot} is visible, but no replica has that name"),
        false => {
            format!("space {space}: {dot} is visible, but its writer made only {count} commits")
        }
    }
}
