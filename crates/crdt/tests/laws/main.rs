//! The laws of the crate on random histories of every kind, against the oracle, and as stories.

mod histories;
mod l1;
mod l2;
mod oracle;
mod stories;
