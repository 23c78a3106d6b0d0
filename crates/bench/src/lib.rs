//! Measurements of rejoin, side by side with what a user would pick instead.
//!
//! `cargo bench -p rejoin-bench` prints them. They are no tests: machines are noisy, so each table compares
//! its systems in turn in one run, and only ratios within a table mean something.
