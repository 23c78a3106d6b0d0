//! The store through its public face: what survives, what is visible when, and what is told to whom.

// Helpers, too, fail by panicking; and tests bring the threads that the store has none of.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod commits;
mod concurrency;
mod crash;
mod faults;
mod full;
mod history;
mod interleaved;
mod model;
mod recovery;
mod states;
mod support;
