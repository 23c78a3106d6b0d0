//! A deterministic simulator for rejoin: many replicas in one world that cuts, delays, crashes and corrupts,
//! all from one seed.

pub mod checkers;
pub mod cli;
pub mod disk;
pub mod history;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
pub mod outcome;
pub mod random;
pub mod report;
pub mod runner;
pub mod trace;
