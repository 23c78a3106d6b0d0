//! Word from the local replica to the session of one connection: what is new on disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rejoin_crdt::{SpaceId, VersionVector};
use tokio::sync::Notify;

/// The latest durable version of each space that changed, until the session takes them.
///
/// Later versions of a space take the place of earlier ones: it never holds more than one entry per space, however far
/// behind the session is.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    news: Mutex<News>,
    arrived: Notify,
}

/// What a session is told of the local replica.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Spaces whose durable version has grown.
    pub(crate) versions: BTreeMap<SpaceId, Arc<VersionVector>>,
    /// Whether the list of spaces offered to peers may have changed.
    pub(crate) spaces_changed: bool,
}

impl Inbox {
    pub(crate) fn version_changed(&self, space: SpaceId, version: Arc<VersionVector>) {
        let mut news = self.news();
        // The versions of one replica are totally ordered, but two callers may come in the other order.
        if news.versions.get(&space).is_none_or(|known| version.includes(known)) {
            news.versions.insert(space, version);
        }
        drop(news);
        self.arrived.notify_one();
    }

    pub(crate) fn spaces_changed(&self) {
        self.news().spaces_changed = true;
        self.arrived.notify_one();
    }

    /// Completes when something arrived since the last call: for one waiter, the session's task.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut self.news())
    }

    fn news(&self) -> MutexGuard<'_, News> {
        // The map is whole after every step, so a panic elsewhere under the lock cannot have broken it.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rejoin_crdt::{CommitHash, Head, ReplicaId};

    use super::*;

    fn version(sequence: u64) -> Arc<VersionVector> {
        let head = Head { sequence, hash: CommitHash::ZERO };
        Arc::new([(ReplicaId::from_bytes([1; 16]), head)].into_iter().collect())
    }

    #[test]
    fn a_session_that_does_not_look_finds_one_version_per_space_and_the_newest() {
        let inbox = Inbox::default();
        let (one, two) = (SpaceId::from_bytes([1; 32]), SpaceId::from_bytes([2; 32]));
        for sequence in [1, 3, 2] {
            inbox.version_changed(one, version(sequence));
        }
        inbox.version_changed(two, version(7));
        let news = inbox.take();
        assert_eq!(news.versions, BTreeMap::from([(one, version(3)), (two, version(7))]));
        assert!(!news.spaces_changed);
        assert!(inbox.take().versions.is_empty());
    }
}
