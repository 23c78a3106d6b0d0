//! Bounds on handshakes in progress on the accepting side, where a stranger can make us work.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places for handshakes in progress. One network address may hold at most half of them, so that a stranger who
/// never finishes its handshakes does not lock the door for everybody else.
#[derive(Debug)]
pub(crate) struct Handshakes {
    places: usize,
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A place held by one handshake; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    /// At least two places, so that half of them is at least one.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(2), taken: Mutex::default() })
    }

    /// A place for a handshake with `address`, or `None` while all that it may hold are taken.
    pub(crate) fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let total: usize = taken.values().sum();
        let here = taken.get(&address).copied().unwrap_or(0);
        if total >= self.places || here >= self.places / 2 {
            return None;
        }
        taken.insert(address, here + 1);
        Some(Place { handshakes: Arc::clone(self), address })
    }

    /// Whether so many places are taken that addresses should be validated before they get one (RFC 9000 section
    /// 8.1.2): a forged address costs its sender nothing.
    pub(crate) fn is_crowded(&self) -> bool {
        self.in_progress() >= self.places.div_ceil(4)
    }

    /// The places that are taken.
    pub(crate) fn in_progress(&self) -> usize {
        self.taken().values().sum()
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        // The counts are whole after every step, so a panic elsewhere under the lock cannot have broken them.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.handshakes.taken();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const FRIEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));

    #[test]
    fn one_address_cannot_take_every_place() {
        let handshakes = Handshakes::new(8);
        let held: Vec<_> = std::iter::from_fn(|| handshakes.begin(STRANGER)).collect();
        assert_eq!(held.len(), 4);
        assert!(handshakes.is_crowded());
        assert!(handshakes.begin(FRIEND).is_some());
    }

    #[test]
    fn all_addresses_together_cannot_exceed_the_places() {
        let handshakes = Handshakes::new(4);
        let held: Vec<_> =
            [STRANGER, STRANGER, FRIEND, FRIEND].map(|a| handshakes.begin(a).unwrap()).into();
        assert!(handshakes.begin(OTHER).is_none());
        drop(held);
        assert!(handshakes.begin(OTHER).is_some());
    }

    #[test]
    fn a_place_comes_back_when_its_handshake_ends() {
        let handshakes = Handshakes::new(2);
        for _ in 0..10 {
            let place = handshakes.begin(STRANGER).unwrap();
            assert!(handshakes.begin(STRANGER).is_none());
            drop(place);
        }
        assert!(!handshakes.is_crowded());
        assert!(handshakes.taken().is_empty(), "nothing is remembered of addresses that left");
    }
}
