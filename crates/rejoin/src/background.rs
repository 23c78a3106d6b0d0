//! The one thread of a replica: it makes checkpoints when they are due, and syncs the log at the interval
//! that eventual durability states. It sleeps while nothing is written.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rejoin_store::{Durability, Store};

use crate::Error;
use crate::hub::lock;

/// How much is written between two looks at whether a checkpoint is due, in bytes of commits: far less than
/// makes one due.
const WAKE_BYTES: usize = 64 << 10;

/// The running thread.
#[derive(Debug)]
pub(crate) struct Background {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How the thread is woken and ended.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// There is something to look at.
    kicked: bool,
    /// What was written since the thread last looked.
    unseen_bytes: usize,
    /// How much of that there must be before it looks again.
    wake_bytes: usize,
    stopping: bool,
}

impl Background {
    pub(crate) fn start(
        store: &Arc<Store>,
        signal: &Arc<Signal>,
        durability: Durability,
    ) -> Result<Self, Error> {
        lock(&signal.state).wake_bytes = match durability {
            Durability::Immediate => WAKE_BYTES,
            Durability::Eventual { .. } => 0,
        };
        let (store, theirs) = (Arc::clone(store), Arc::clone(signal));
        let run = move || run(&store, &theirs, durability);
        let thread = std::thread::Builder::new().name("rejoin".to_owned()).spawn(run);
        let thread = thread.map_err(Error::folder("starting the background thread"))?;
        Ok(Self { signal: Arc::clone(signal), thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        lock(&self.signal.state).stopping = true;
        self.signal.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, signal: &Signal, durability: Durability) {
    while signal.wait_for_kick() {
        let done = match durability {
            Durability::Eventual { interval_ms } => {
                // An ending replica is synced by its closing.
                if signal.sleep(Duration::from_millis(interval_ms)) { store.sync() } else { return }
            }
            Durability::Immediate => Ok(()),
        };
        let done =
            done.and_then(|()| if store.checkpoint_due() { store.checkpoint() } else { Ok(()) });
        if let Err(error) = done {
            // The store is poisoned, or refuses; whoever writes next is told.
            tracing::error!(%error, "background work of the store");
        }
    }
}

impl Signal {
    /// Says that so many bytes of commits were written. The thread is woken once there is enough for it to look
    /// at, and not for each commit: waking it costs as much as writing one.
    pub(crate) fn written(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.unseen_bytes = state.unseen_bytes.saturating_add(bytes);
        if !state.kicked && state.unseen_bytes >= state.wake_bytes {
            state.kicked = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Waits until something was written; `false` if the thread is to end.
    fn wait_for_kick(&self) -> bool {
        let state = lock(&self.state);
        let waited = self.changed.wait_while(state, |state| !state.kicked && !state.stopping);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.kicked = false;
        state.unseen_bytes = 0;
        !state.stopping
    }

    /// Sleeps so long; `false` if the thread is to end.
    fn sleep(&self, time: Duration) -> bool {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, time, |state| !state.stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}
