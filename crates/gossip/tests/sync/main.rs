//! Sessions over a simulated network and hosts in memory: stories of two replicas and more, in
//! virtual time, from one seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod catch_up;
mod cuts;
mod host;
mod hostile;
mod mesh;
mod network;
mod trouble;
