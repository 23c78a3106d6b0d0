//! A deterministic simulator for rejoin: many replicas in one world that cuts, delays, crashes and corrupts,
//! all from one seed.

pub mod checkers;
pub mod crash;
pub mod disk;
pub mod history;
pub mod network;
pub mod outcome;
pub mod random;
pub mod report;
pub mod trace;
