//! The store through its public face: what survives, what is visible when, and what is told to whom.

mod commits;
mod concurrency;
mod crash;
mod faults;
mod history;
mod model;
mod recovery;
mod states;
mod support;
