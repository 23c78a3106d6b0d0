//! Group commit: writers that wait for the disk share one write and one sync.
//!
//! What is appended goes into the batch that is being filled. The first writer to wait for a batch leads it:
//! it waits for the batch before to be written (by the lock of the log's writer), closes its own, and writes
//! it. Those who wait for the same batch meanwhile sleep on it, and are woken once, when it is done; a writer
//! alone writes on its own thread without any handing over.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rejoin_crdt::Dot;

use crate::log::Lsn;
use crate::sync::lock;

/// Why a batch failed, and with it the store.
pub(crate) type Cause = Arc<str>;

/// A receipt for a commit that was appended and not waited for; see [`Store::wait`](crate::Store::wait).
#[derive(Debug, Clone)]
#[must_use = "what was appended is durable only once it was waited for"]
pub struct Ticket {
    pub(crate) batch: Arc<Batch>,
    pub(crate) committed: Committed,
}

impl Ticket {
    /// The commit.
    pub fn committed(&self) -> Committed {
        self.committed
    }
}

/// A commit that this replica made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its name.
    pub dot: Dot,
    /// Behind its record in the log.
    pub lsn: Lsn,
}

/// What one write will bring to the disk, as those see it who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    state: Mutex<BatchState>,
    resolved: Condvar,
}

#[derive(Debug, Default)]
struct BatchState {
    led: bool,
    /// How many sleep until the outcome is there. Waking nobody would cost a system call.
    waiting: usize,
    outcome: Option<Result<(), Cause>>,
}

impl Batch {
    pub(crate) fn outcome(&self) -> Option<Result<(), Cause>> {
        lock(&self.state).outcome.clone()
    }

    /// Waits until the batch is written; calls `lead`, which writes it, if nobody else has.
    pub(crate) fn wait(&self, lead: impl FnOnce()) -> Result<(), Cause> {
        let mut state = lock(&self.state);
        if state.outcome.is_none() && !state.led {
            state.led = true;
            drop(state);
            lead();
            state = lock(&self.state);
        }
        loop {
            match &state.outcome {
                Some(outcome) => return outcome.clone(),
                None => {
                    state.waiting += 1;
                    state = self.resolved.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.waiting -= 1;
                }
            }
        }
    }

    /// Lets all who wait go on. Only the first outcome counts.
    pub(crate) fn resolve(&self, outcome: Result<(), Cause>) {
        let mut state = lock(&self.state);
        state.outcome.get_or_insert(outcome);
        let anybody = state.waiting > 0;
        drop(state);
        if anybody {
            self.resolved.notify_all();
        }
    }
}
