//! Every decoder of the crate: hostile input, and bytes that must never change.

mod golden;
mod hostile;
mod rules;
