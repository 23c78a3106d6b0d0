//! The kinds of rows, one file each: what a row of the kind means, as a function of its live dots.
//!
//! A kind decides what a dot carries, what a new operation supersedes (in
//! [`Transaction`](crate::Transaction)) and what a read returns. How dots survive or go is the same
//! for all of them and is decided in [`Row`](crate::Row) and [`join`](crate::join()).

pub mod counter;
pub mod element;
pub mod flag;
pub mod register;
