//! What comes of worlds, for people and for programs: summaries, timelines and pictures.

mod links;
pub mod summary;
pub mod svg;
pub mod timeline;
