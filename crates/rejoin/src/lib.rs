//! rejoin: an embeddable, eventually consistent replication engine.
//!
//! Applications must keep working when the network does not. A *replica* is a folder on this device,
//! opened like an embedded database and read and written locally, online or not. Replicas of a *space*
//! find what they miss from each other over QUIC and end in the same state, byte for byte.
//!
//! # Two minutes
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! use rejoin::{Replica, path};
//!
//! let replica = Replica::open(folder.join("app.rejoin"))?;
//! let cart = replica.space("cart")?;
//!
//! // One atomic, durable, causal transaction: whole or not at all, here and on every replica.
//! let sku = "4006381333931";
//! cart.write(|tx| {
//!     tx.set("coupons").insert("AUTUMN")?;
//!     tx.counter(path!["items", sku, "quantity"]).add(2)?;
//!     tx.register(path!["items", sku, "title"]).put("Oat milk")
//! })?;
//!
//! // A consistent view, which no later write changes and which blocks no writer.
//! let snapshot = cart.read()?;
//! assert!(snapshot.contains("coupons", "AUTUMN")?);
//! for item in snapshot.tree("items")?.children() {
//!     let (sku, item) = item?;
//!     println!("{} of {sku}", item.counter("quantity")?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two devices that know each other's keys sync over QUIC; everything else goes on as before, and a
//! write never waits for the network:
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use std::time::Duration;
//! use rejoin::{Network, Replica, WatchEvent};
//!
//! let phone = Replica::open(folder.join("phone.rejoin"))?;
//! let laptop = Replica::open(folder.join("laptop.rejoin"))?;
//! let (here, there) = (phone.space("list")?, laptop.space("list")?);
//!
//! phone.online(Network::loopback()).await?;
//! laptop.online(Network::loopback()).await?;
//! let address = laptop.local_address().expect("the laptop is online");
//! phone.add_peer(laptop.device_id(), vec![address])?;
//! laptop.add_peer(phone.device_id(), vec![])?;
//!
//! let mut news = there.watch("todo")?;
//! here.write(|tx| tx.set("todo").insert("call home"))?;
//! let event = tokio::task::spawn_blocking(move || news.next_timeout(Duration::from_secs(10))).await??;
//! assert!(matches!(event, Some(WatchEvent::Commit { local: false, .. })));
//! assert!(there.read()?.contains("todo", "call home")?);
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! # }).map_err(|error| error.to_string())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The rooms
//!
//! - [`Replica`]: a folder, its identity, its peers. [`Space`]: a named replicated keyspace in it.
//! - [`Space::write`] gives a [`Transaction`]; [`Space::read`] gives a [`Snapshot`], read through
//!   [`Tree`]s; [`Space::watch`] gives a [`Watch`].
//! - Data types: registers (concurrent values are kept, see [`Tree::conflicts`]), counters, flags and
//!   sets; what each means under concurrency is in [`kind`].
//! - [`Durability`] says when a write is acknowledged. Nothing is sent to a peer before it is on disk.
//!
//! Local calls are synchronous and need no runtime. Only networking is async, on tokio.

mod background;
mod device_key;
pub mod driven;
mod error;
mod host;
mod hub;
mod network;
mod read;
mod replica;
mod snapshot;
mod space;
mod transaction;
mod watch;

pub use error::Error;
pub use network::Network;
pub use read::{Conflict, Entry, RowValue, Tree};
pub use replica::{Options, Replica};
pub use snapshot::Snapshot;
pub use space::Space;
pub use transaction::{CounterMut, FlagMut, RegisterMut, SetMut, Transaction};
pub use watch::{
    Change, ChangeSequence, RereadReason, WATCH_BACKLOG_BYTES_MAX, WATCH_BACKLOG_MAX, Watch,
    WatchEvent,
};

pub use rejoin_crdt::{
    CommitError, CommitHash, Dot, Head, IdError, IntoPath, Kind, Path, PathError, ReplicaId,
    Segment, SegmentRef, SpaceId, StateDigest, Value, ValueError, VersionVector, kind,
};
pub use rejoin_gossip::DeviceId;
pub use rejoin_quic::{
    BindError, DeviceKey, NetworkConfig, NetworkEvent, NetworkEvents, PeerCounters, PeerError,
    PeerStatus,
};
pub use rejoin_store::{Durability, OpenReport, SPACE_NAME_BYTES_MAX, StoreError, StoreOptions};

/// The path of these segments: strings, byte slices and integers, mixed as needed.
///
/// Gives a `Result<Path, PathError>`, which every method that takes a path accepts as it is.
///
/// ```
/// use rejoin::path;
///
/// let sku = String::from("4006381333931");
/// let path = path!["items", &sku, 7]?;
/// assert_eq!(path.to_string(), "items/4006381333931/7");
/// # Ok::<(), rejoin::PathError>(())
/// ```
#[macro_export]
macro_rules! path {
    ($($segment:expr),* $(,)?) => {
        ::core::result::Result::<$crate::Path, $crate::PathError>::Ok($crate::Path::root())
            $(.and_then(|path| path.child($segment)))*
    };
}
