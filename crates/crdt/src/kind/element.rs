//! Set element: a member of the set whose path is its parent; adding wins over a concurrent removal.
//!
//! A set is not a row but a subtree, one row for each member, so that adding to a set of a million
//! members touches one row (the "bigset" of Riak; Brown et al. 2016). Adding supersedes the additions
//! it has seen and adds a dot; removing supersedes what it has seen. So an element is a member exactly
//! if some visible addition has been seen by no visible removal: the observed-remove set of Bieniusa
//! et al. 2012, without tombstones.
//!
//! Cost: one dot for each member, nothing for a removed one; a read is constant.

use crate::Row;

/// Whether the element is a member.
pub fn is_present(row: Option<&Row>) -> bool {
    row.is_some_and(|row| !row.is_empty())
}
