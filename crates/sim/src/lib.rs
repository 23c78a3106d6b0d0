//! A deterministic simulator for rejoin: many replicas in one world that cuts, delays, crashes and corrupts,
//! all from one seed.

pub mod app;
pub mod checkers;
pub mod cli;
pub mod crash;
pub mod disk;
pub mod history;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
mod node;
pub mod outcome;
pub mod plan;
pub mod random;
pub mod report;
pub mod runner;
mod side;
pub mod trace;
mod workload;
mod world;
