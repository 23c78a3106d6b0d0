//! Bounds: what has a declared limit stays within it.

use super::{Verdict, object};
use crate::history::{Checker, Gauge};

/// A quantity was measured.
pub(super) fn measured(gauge: Gauge) -> Verdict {
    let Gauge { name, value, limit } = gauge;
    if value <= limit {
        return Ok(());
    }
    object(Checker::Bounds, || format!("{name}: {value}, at most {limit} are allowed"))
}
