//! (being written)
use crate::history::Violation;
use crate::trace::Trace;

pub fn draw(_trace: &Trace, _title: &str, _plan: &str, _violation: Option<&Violation>) -> String {
    "<svg ".to_owned()
}
