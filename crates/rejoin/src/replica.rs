//! A replica: one folder on this device, with its identity, its spaces and its background work.

use std::cell::RefCell;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use rejoin_crdt::{ReplicaId, SpaceId};
use rejoin_gossip::DeviceId;
use rejoin_quic::DeviceKey;
use rejoin_store::{
    Backend, FileBackend, FreshIds, LogPage, Lsn, MemoryBackend, OpenReport, SPACE_NAME_BYTES_MAX,
    SpaceIndex, Store, StoreOptions,
};

use crate::background::Background;
use crate::driven::{Clock, Driver};
use crate::hub::{Hub, News, lock};
use crate::watch::{FeedEvent, LogEvents};
use crate::{Error, Space, device_key};

/// How a replica is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// When a write is acknowledged, and how much memory and disk the store takes.
    pub store: StoreOptions,
    /// The key that proves this device to peers. By default the replica makes one when it is created and
    /// keeps it in its folder; one that is given here is not kept.
    pub device_key: Option<DeviceKey>,
}

/// A store of replicated spaces on this device. Cheap to clone; all clones are the same replica.
///
/// Only one process can have a folder open. It is free again once the replica, its clones, its [`Space`]s
/// and their [`Watch`](crate::Watch)es are dropped.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// use rejoin::Replica;
///
/// let replica = Replica::open(folder.join("app.rejoin"))?;
/// replica.space("notes")?.write(|tx| tx.register("title").put("Things to do"))?;
/// replica.close()?;
///
/// let replica = Replica::open(folder.join("app.rejoin"))?;
/// let title = replica.space("notes")?.read()?.register("title")?;
/// assert_eq!(title, Some("Things to do".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Replica {
    pub(crate) engine: Arc<Engine>,
}

/// What the handles of one replica share.
#[derive(Debug)]
pub(crate) struct Engine {
    // Dropped first: the background thread ends before the store does.
    // `None` if somebody else does its work.
    background: Option<Background>,
    clock: Clock,
    pub(crate) store: Arc<Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) key: DeviceKey,
    report: OpenReport,
    /// Held while a space is looked up or made, so that none is made twice.
    opening: Mutex<()>,
}

impl Replica {
    /// Opens the replica in `folder`, or creates it there.
    ///
    /// # Errors
    /// [`Error::Store`]: [`Locked`](crate::StoreError::Locked) if it is open already, here or in another
    /// process, and [`Damaged`](crate::StoreError::Damaged) if the disk holds what was not written.
    /// [`Error::Folder`] or [`Error::DeviceKey`] if the folder or the key cannot be had.
    pub fn open(folder: impl AsRef<FilePath>) -> Result<Self, Error> {
        Self::open_with(folder, Options::default())
    }

    /// Opens the replica in `folder` with options, or creates it there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(folder: impl AsRef<FilePath>, options: Options) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let backend = FileBackend::new(folder).map_err(Error::folder("opening the folder"))?;
        Self::over(&(Arc::new(backend) as Arc<dyn Backend>), options)
    }

    /// A new replica in memory, which is gone when it is closed: for tests of applications.
    ///
    /// # Errors
    /// [`Error::Random`] if the system gives no random bytes.
    pub fn in_memory(options: Options) -> Result<Self, Error> {
        Self::over(&(Arc::new(MemoryBackend::default()) as Arc<dyn Backend>), options)
    }

    fn over(backend: &Arc<dyn Backend>, options: Options) -> Result<Self, Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(Error::Random)?;
        Self::assemble(backend, options, &random, Driver::Own)
    }

    /// Opens the store and puts the engine together over it. `random` is for a store that does not exist yet.
    pub(crate) fn assemble(
        backend: &Arc<dyn Backend>,
        options: Options,
        random: &[u8; 32],
        driver: Driver,
    ) -> Result<Self, Error> {
        let (replica, salt) = random.split_at(16);
        let fresh = FreshIds {
            replica: ReplicaId::from_bytes(replica.try_into().expect("half of 32 bytes")),
            salt: salt.try_into().expect("half of 32 bytes"),
        };
        let hub = Arc::new(Hub::default());
        let observer = Box::new(News(Arc::clone(&hub)));
        let durability = options.store.durability;
        let (store, report) = Store::open(Arc::clone(backend), options.store, fresh, observer)?;
        let store = Arc::new(store);
        // Under the store's lock, so that no other process makes one too.
        let key = match options.device_key {
            Some(key) => key,
            None => device_key::load_or_create(&**backend, store.spaces().is_empty())?,
        };
        hub.begin(&store);
        let (background, clock) = match driver {
            Driver::Own => {
                (Some(Background::start(&store, &hub.signal, durability)?), Clock::System)
            }
            Driver::Surroundings(surroundings) => {
                hub.surround(Arc::clone(&surroundings));
                (None, Clock::Surroundings(surroundings))
            }
        };
        let opening = Mutex::new(());
        let engine = Engine { background, clock, store, hub, key, report, opening };
        Ok(Self { engine: Arc::new(engine) })
    }

    /// Opens the space with this name, or creates it. Replicas that open a space of the same name, and
    /// know each other, keep it in sync.
    ///
    /// # Errors
    /// [`Error::SpaceName`], or [`Error::Store`].
    pub fn space(&self, name: &str) -> Result<Space, Error> {
        let length = name.len();
        if length == 0 || length > SPACE_NAME_BYTES_MAX {
            return Err(Error::SpaceName { length });
        }
        self.engine.outside_transaction()?;
        let id = space_id(name);
        let _opening = lock(&self.engine.opening);
        let index = match self.engine.store.find_space(id) {
            Some(index) => index,
            None => {
                let index = self.engine.store.create_space(id, name)?;
                self.engine.hub.spaces_changed();
                index
            }
        };
        Ok(Space { engine: Arc::clone(&self.engine), index, id, name: name.into() })
    }

    /// The names of the spaces that are here.
    pub fn spaces(&self) -> Vec<String> {
        self.engine.store.spaces().into_iter().map(|(_, space)| space.name).collect()
    }

    /// What names this replica as a writer. It belongs to the store, not to the device.
    pub fn replica_id(&self) -> ReplicaId {
        self.engine.store.replica_id()
    }

    /// What names this device to peers: the public half of its key.
    pub fn device_id(&self) -> DeviceId {
        self.engine.key.id()
    }

    /// What opening the store found: whether a torn write was cut off, and how much of the log was applied again.
    pub fn open_report(&self) -> &OpenReport {
        &self.engine.report
    }

    /// Waits until everything acknowledged is on disk: of use with [`Durability::Eventual`](crate::Durability).
    ///
    /// # Errors
    /// [`Error::Store`] if the disk fails.
    pub fn sync(&self) -> Result<(), Error> {
        self.engine.outside_transaction()?;
        Ok(self.engine.store.sync()?)
    }

    /// Drops what can be dropped of the commit log, and returns the bytes that were freed. The log is a
    /// cache: a peer that would have needed what is gone gets the state instead. This replica's own commits
    /// that no peer has confirmed stay.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk fails.
    pub fn drop_log(&self) -> Result<u64, Error> {
        self.engine.outside_transaction()?;
        self.engine.store.checkpoint()?;
        Ok(self.engine.store.truncate_log(Lsn::MAX)?.bytes)
    }

    /// Ends the background work and all watches, goes offline, and folds the log into the rows, so that the
    /// next opening is quick. Writes through other handles fail from now on; such handles keep the folder
    /// from being opened again until they are dropped.
    ///
    /// Dropping the last handle does the same, but cannot report an error.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk fails: what was acknowledged is in the log nevertheless.
    pub fn close(self) -> Result<(), Error> {
        self.engine.outside_transaction()?;
        self.engine.shut_down()
    }
}

thread_local! {
    /// The engines in whose transactions this thread is, outermost first.
    static INSIDE: RefCell<Vec<*const Engine>> = const { RefCell::new(Vec::new()) };
}

/// This thread is in a transaction until this is dropped.
pub(crate) struct InsideTransaction;

impl Drop for InsideTransaction {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(|inside| inside.pop());
    }
}

impl Engine {
    /// Notes that this thread begins a transaction, which holds the lock of this replica's writers.
    pub(crate) fn enter_transaction(&self) -> Result<InsideTransaction, Error> {
        self.outside_transaction()?;
        INSIDE.with_borrow_mut(|inside| inside.push(std::ptr::from_ref(self)));
        Ok(InsideTransaction)
    }

    /// Refuses what would wait for ever for the transaction that this thread is in.
    pub(crate) fn outside_transaction(&self) -> Result<(), Error> {
        let own = std::ptr::from_ref(self);
        match INSIDE.with_borrow(|inside| inside.contains(&own)) {
            true => Err(Error::InsideTransaction),
            false => Ok(()),
        }
    }

    /// This device's clock, in milliseconds since the Unix epoch; 0 if it stands before that.
    pub(crate) fn wall_time_ms(&self) -> u64 {
        self.clock.wall_time_ms()
    }

    /// The changes of a space in the log from a position on; `None` if it does not reach back.
    pub(crate) fn read_log(
        &self,
        space: SpaceIndex,
        position: u64,
        limit: usize,
    ) -> Result<Option<LogEvents>, Error> {
        self.outside_transaction()?;
        // What the ring no longer holds was published, and with eventual durability may not be on disk.
        self.store.sync()?;
        let own = self.store.replica_id();
        Ok(match self.store.log_from(space, Lsn::new(position), limit)? {
            LogPage::Changes { changes, next, more } => Some(LogEvents {
                events: changes.into_iter().map(|change| FeedEvent::new(change, own)).collect(),
                next: more.then_some(next.get()),
            }),
            LogPage::Gone => None,
        })
    }

    fn shut_down(&self) -> Result<(), Error> {
        if self.hub.close() {
            if let Some(background) = &self.background {
                background.stop();
            }
            self.store.checkpoint()?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "closing the replica");
        }
    }
}

/// The id of the space with this name.
fn space_id(name: &str) -> SpaceId {
    SpaceId::from_bytes(blake3::derive_key("rejoin space name v1", name.as_bytes()))
}
