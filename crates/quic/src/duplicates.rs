//! Which of two connections between the same pair of devices stays.
//!
//! Both ends may dial at once. Each end decides alone, and both must keep the same connection, or they would close
//! each other's for ever: so the rule rests on what both know, the two device ids and who dialled.

use std::time::Duration;

use rejoin_gossip::DeviceId;

/// Which end of a connection dialled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialledBy {
    Us,
    Peer,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The new connection stays, and the existing one, if any, closes.
    Keep,
    /// The existing connection stays, and the new one closes.
    Refuse,
}

/// Decides between the `existing` connection to `peer`, with its age, and a `new` one.
///
/// - In the same direction the newer stays: its dialler dials only after losing the older.
/// - In opposite directions the one dialled by the smaller device id stays, if they crossed.
/// - They cannot have crossed when the existing one is older than `dial_timeout`, the longest that a dial takes: then
///   the peer dialled because it has lost the existing one (it restarted, say), and the newer stays.
pub(crate) fn resolve(
    us: DeviceId,
    peer: DeviceId,
    existing: Option<(DialledBy, Duration)>,
    new: DialledBy,
    dial_timeout: Duration,
) -> Verdict {
    let Some((direction, age)) = existing else { return Verdict::Keep };
    let preferred = if us < peer { DialledBy::Us } else { DialledBy::Peer };
    if direction == new || new == preferred || age > dial_timeout {
        Verdict::Keep
    } else {
        Verdict::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: DeviceId = DeviceId::from_bytes([1; 32]);
    const LARGE: DeviceId = DeviceId::from_bytes([2; 32]);
    const TIMEOUT: Duration = Duration::from_secs(5);
    const CROSSED: Duration = Duration::from_millis(3);

    fn other(direction: DialledBy) -> DialledBy {
        match direction {
            DialledBy::Us => DialledBy::Peer,
            DialledBy::Peer => DialledBy::Us,
        }
    }

    #[test]
    fn both_ends_keep_the_same_of_two_crossing_dials_in_any_order() {
        for (us, peer) in [(SMALL, LARGE), (LARGE, SMALL)] {
            for first in [DialledBy::Us, DialledBy::Peer] {
                let kept = match resolve(us, peer, Some((first, CROSSED)), other(first), TIMEOUT) {
                    Verdict::Keep => other(first),
                    Verdict::Refuse => first,
                };
                let dialler = if kept == DialledBy::Us { us } else { peer };
                assert_eq!(dialler, SMALL, "{first:?} came first");
            }
        }
    }

    #[test]
    fn a_newer_connection_replaces_an_older_one_of_the_same_direction() {
        for direction in [DialledBy::Us, DialledBy::Peer] {
            assert_eq!(
                resolve(SMALL, LARGE, Some((direction, CROSSED)), direction, TIMEOUT),
                Verdict::Keep
            );
            assert_eq!(
                resolve(LARGE, SMALL, Some((direction, CROSSED)), direction, TIMEOUT),
                Verdict::Keep
            );
        }
    }

    #[test]
    fn a_peer_that_restarted_is_let_in_though_its_old_connection_lingers() {
        let lingering = Some((DialledBy::Us, TIMEOUT + CROSSED));
        assert_eq!(resolve(SMALL, LARGE, lingering, DialledBy::Peer, TIMEOUT), Verdict::Keep);
    }

    #[test]
    fn the_first_connection_is_kept() {
        assert_eq!(resolve(SMALL, LARGE, None, DialledBy::Peer, TIMEOUT), Verdict::Keep);
        assert_eq!(resolve(LARGE, SMALL, None, DialledBy::Us, TIMEOUT), Verdict::Keep);
    }
}
