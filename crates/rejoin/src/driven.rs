//! The engine without its runtime: for a host that brings its own disk, clock, chance and network.
//!
//! An ordinary [`Replica`] has a thread for its background work, reads the system's clock, takes random bytes
//! from the system, and goes online with QUIC. One that is opened here has none of these: all that it does
//! happens within the calls that are made to it, on the caller's thread, and is a function of what it is
//! handed. The simulator (`crates/sim`) runs whole worlds of such replicas from one seed.
//!
//! Its owner
//! - calls [`DrivenReplica::work`] from time to time, as the background thread would;
//! - runs a [`Session`](rejoin_gossip::Session) for each peer over [`DrivenReplica::host`], and hands it what
//!   [`Surroundings`] are told.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rejoin_crdt::{SpaceId, VersionVector};
use rejoin_gossip::Host;
use rejoin_store::{Backend, Durability};

use crate::host::EngineHost;
use crate::{Error, Options, Replica};

/// What an engine asks of, and tells, the world around it. The methods may be called with locks of the engine
/// held: they must return at once, and not call the engine.
pub trait Surroundings: fmt::Debug + Send + Sync {
    /// This device's clock, in milliseconds since 1970. It may jump, stand still or go back.
    fn wall_time_ms(&self) -> u64;

    /// This version of a space is on disk: for [`Session::handle_local_change`](rejoin_gossip::Session).
    fn durable(&self, space: SpaceId, version: &Arc<VersionVector>);

    /// The replica has another space: for [`Session::handle_spaces_changed`](rejoin_gossip::Session).
    fn spaces_changed(&self);
}

/// An engine whose every step is taken by its owner.
#[derive(Debug, Clone)]
pub struct DrivenReplica {
    replica: Replica,
}

impl DrivenReplica {
    /// Opens the replica on `backend`, or creates it there. If it is created, `random` becomes its replica id
    /// and the salt of its log: it must never have been used before.
    ///
    /// # Errors
    /// As [`Replica::open`].
    pub fn open(
        backend: &Arc<dyn Backend>,
        options: Options,
        random: &[u8; 32],
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Self, Error> {
        let driver = Driver::Surroundings(surroundings);
        Ok(Self { replica: Replica::assemble(backend, options, random, driver)? })
    }

    /// The replica, for everything that an application does with it.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The store as sessions see it.
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(EngineHost::new(&self.replica.engine.store))
    }

    /// Does what is due of the background work: a checkpoint, and with [`Durability::Eventual`] a sync, which
    /// such an owner calls for at the interval that it states.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk fails.
    pub fn work(&self) -> Result<(), Error> {
        let store = &self.replica.engine.store;
        if store.options().durability != Durability::Immediate {
            store.sync()?;
        }
        if store.checkpoint_due() {
            store.checkpoint()?;
        }
        Ok(())
    }
}

/// Who drives an engine.
#[derive(Debug)]
pub(crate) enum Driver {
    /// Its own thread.
    Own,
    /// Its owner.
    Surroundings(Arc<dyn Surroundings>),
}

/// Where an engine reads the time.
#[derive(Debug)]
pub(crate) enum Clock {
    System,
    Surroundings(Arc<dyn Surroundings>),
}

impl Clock {
    pub(crate) fn wall_time_ms(&self) -> u64 {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Clock::Surroundings(surroundings) => surroundings.wall_time_ms(),
        }
    }
}
