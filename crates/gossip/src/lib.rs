//! The sync protocol of rejoin as sans-IO state machines.
//!
//! A [`Session`] speaks for one replica to one peer: it finds out what either side lacks, space by
//! space, brings the missing commits over in causal order, pushes new ones as they are made, and
//! falls back to the whole state when the log no longer reaches back. It owns no socket, no clock,
//! no thread and no storage: time is passed in, frames and storage answers are handed in through
//! `handle_*` methods, and what is to be done comes out of `poll_*` methods. The same code
//! therefore runs over QUIC, over a pipe in tests, and in a simulator.
//!
//! - [`Session`] is the state machine, and its documentation is the driving contract.
//! - [`Host`] is what a session needs of storage; [`serve`] answers a session's [`HostRequest`]s
//!   from it.
//! - [`wire`] is the one home of message layouts and their limits; [`wire::FrameReader`] cuts a
//!   byte stream into frames.
//! - [`Redial`] decides when to dial a lost peer again.
//!
//! What a session persists: nothing. All sync state dies with its connection, and the next one
//! starts from what both sides have on disk, so no message can be lost or repeated across
//! connections.

mod device;
mod event;
mod host;
mod redial;
mod session;
mod space_sync;
pub mod wire;

pub use device::{DeviceId, DeviceIdError};
pub use event::{CloseReason, Event, PeerFacts, SpaceStatus, StopReason, StoppedBy};
pub use host::{
    ApplyError, CommitsAfter, Host, HostError, HostRequest, HostResponse, RequestId, Run, StateRow,
    StateSource, StateStage, serve,
};
pub use redial::{Redial, RedialConfig};
pub use session::{Config, LocalFacts, Output, Session};
