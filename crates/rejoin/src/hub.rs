//! Where news of the store goes: to the watches of its spaces, and to the network while there is one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rejoin_quic::QuicNetwork;
use rejoin_store::{Change, Lsn, Observer, SpaceIndex, Store};

use crate::Error;
use crate::background::Signal;
use crate::driven::Surroundings;
use crate::watch::{Feed, FeedEvent};

/// The receivers of news, shared by the engine and the store's observer.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    /// Wakes the background thread.
    pub(crate) signal: Arc<Signal>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    store: Weak<Store>,
    /// The feeds that some watch reads.
    feeds: BTreeMap<SpaceIndex, Weak<Feed>>,
    network: Option<Arc<QuicNetwork>>,
    /// Who carries the sessions of an engine that is driven from outside.
    surroundings: Option<Arc<dyn Surroundings>>,
    /// The spaces with changes that were not durable when peers were last told, and where the last of them ends.
    untold: BTreeMap<SpaceIndex, Lsn>,
    closed: bool,
}

impl Hub {
    /// Makes the store known, before anything is written to it.
    pub(crate) fn begin(&self, store: &Arc<Store>) {
        lock(&self.state).store = Arc::downgrade(store);
    }

    /// Makes known who is told what a network would be told.
    pub(crate) fn surround(&self, surroundings: Arc<dyn Surroundings>) {
        lock(&self.state).surroundings = Some(surroundings);
    }

    /// The feed of a space, made if nobody watches it yet.
    pub(crate) fn feed(&self, space: SpaceIndex) -> Result<Arc<Feed>, Error> {
        let mut state = lock(&self.state);
        if let Some(feed) = state.feeds.get(&space).and_then(Weak::upgrade) {
            return Ok(feed);
        }
        let store = state.store.upgrade().ok_or(Error::Closed)?;
        // What is published while the lock is held comes to the feed too, which passes it over.
        let feed = Arc::new(Feed::new(store.snapshot(space)?.lsn().get()));
        if state.closed {
            feed.close();
        }
        state.feeds.insert(space, Arc::downgrade(&feed));
        Ok(feed)
    }

    pub(crate) fn network(&self) -> Option<Arc<QuicNetwork>> {
        lock(&self.state).network.clone()
    }

    /// Puts the network in its place; `false` if one is there already, or if the replica is closed.
    pub(crate) fn set_network(&self, network: &Arc<QuicNetwork>) -> bool {
        let mut state = lock(&self.state);
        let free = state.network.is_none() && !state.closed;
        if free {
            state.network = Some(Arc::clone(network));
        }
        free
    }

    pub(crate) fn take_network(&self) -> Option<Arc<QuicNetwork>> {
        lock(&self.state).network.take()
    }

    /// Tells the network that the replica has another space.
    pub(crate) fn spaces_changed(&self) {
        let state = lock(&self.state);
        let (network, surroundings) = (state.network.clone(), state.surroundings.clone());
        drop(state);
        if let Some(network) = network {
            network.spaces_changed();
        }
        if let Some(surroundings) = surroundings {
            surroundings.spaces_changed();
        }
    }

    /// Whether the replica is open.
    pub(crate) fn is_open(&self) -> bool {
        !lock(&self.state).closed
    }

    /// Ends all watches, and the network without waiting for it. Whether it was not closed before.
    pub(crate) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.closed, true) {
            return false;
        }
        let network = state.network.take();
        let feeds: Vec<_> = state.feeds.values().filter_map(Weak::upgrade).collect();
        drop(state);
        feeds.iter().for_each(|feed| feed.close());
        drop(network);
        true
    }
}

/// The hub as the store knows it.
#[derive(Debug)]
pub(crate) struct News(pub(crate) Arc<Hub>);

/// The store calls these with a lock of its own held: they do no more than hand on.
impl Observer for News {
    fn published(&self, changes: &[Change]) {
        self.0.published(changes);
    }

    fn durable(&self, lsn: Lsn) {
        self.0.durable(lsn);
    }
}

impl Hub {
    fn published(&self, changes: &[Change]) {
        let mut state = lock(&self.state);
        let own = state.store.upgrade().map(|store| store.replica_id());
        for change in changes {
            let space = change.space();
            state.untold.insert(space, change.lsn());
            let feed = state.feeds.get(&space).map(Weak::upgrade);
            match (feed, own) {
                (Some(Some(feed)), Some(own)) => feed.publish(FeedEvent::new(change.clone(), own)),
                (Some(None), _) => drop(state.feeds.remove(&space)),
                _ => {}
            }
        }
        drop(state);
        self.signal.written(changes.iter().map(Change::bytes).sum());
    }

    fn durable(&self, lsn: Lsn) {
        let mut state = lock(&self.state);
        let spaces: Vec<_> = state.untold.keys().copied().collect();
        state.untold.retain(|_, last| *last > lsn);
        let (network, surroundings) = (state.network.clone(), state.surroundings.clone());
        let Some(store) = state.store.upgrade() else { return };
        drop(state);
        if network.is_none() && surroundings.is_none() {
            return;
        }
        for space in spaces {
            // A store that is being closed has nothing to tell.
            if let (Ok(id), Ok(version)) = (store.space_id(space), store.durable_version(space)) {
                if let Some(network) = &network {
                    network.local_change(id, &version);
                }
                if let Some(surroundings) = &surroundings {
                    surroundings.durable(id, &version);
                }
            }
        }
    }
}

/// Locks what no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
