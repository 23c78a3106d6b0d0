//! wip
mod backend;
mod entry;
mod error;
mod log;
mod packing;
pub use backend::*;
pub use entry::*;
pub use error::*;
pub use log::Lsn;
