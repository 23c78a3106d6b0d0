//! What the opener of a store decides.

use rejoin_crdt::ReplicaId;

/// When a local write returns. Peers are only ever told what is on disk, in either mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once it is on disk: what was acknowledged survives a crash.
    #[default]
    Immediate,
    /// Once it is in memory, and visible to local readers: a crash may lose the writes of the last
    /// interval, never one without those after it. The store knows no time: its owner calls
    /// [`Store::sync`](crate::Store::sync) as often as stated here.
    Eventual {
        /// The time between two syncs, in milliseconds.
        interval_ms: u64,
    },
}

/// How a store behaves; the defaults suit a phone as well as a laptop.
///
/// Memory is about `2 * buffer_bytes_max + tree_cache_bytes + 2 * pending_bytes_max` at the worst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// When a local write returns.
    pub durability: Durability,
    /// The size at which a segment of the log is sealed and a new one begun, in bytes. A segment is
    /// longer by at most one batch. 16 MiB.
    pub segment_bytes: u64,
    /// How far the log's file is filled with zeros ahead of what is written, in bytes. A commit that falls within
    /// changes neither the length of the file nor where its blocks are, and so syncs without writing metadata.
    /// 128 KiB, a guess: one commit in several hundred pays for the filling.
    pub reserve_bytes: usize,
    /// How much may wait for the disk before writers wait too, in bytes. One commit may exceed it. 4 MiB.
    pub pending_bytes_max: usize,
    /// The size of the buffer of rows at which a checkpoint is [due](crate::Store::checkpoint_due), in
    /// bytes of memory, estimated. It also bounds the log that an opening has to replay. 8 MiB.
    pub buffer_bytes: usize,
    /// The size of that buffer at which a writer makes the checkpoint itself, or waits for the one under
    /// way; above `buffer_bytes`. 32 MiB.
    pub buffer_bytes_max: usize,
    /// The size of the B-tree's cache, in bytes. 32 MiB.
    pub tree_cache_bytes: usize,
    /// How many checkpoints a snapshot outlives before it expires; a held snapshot keeps the pages that
    /// they replace. 16, a guess.
    pub snapshot_checkpoints_max: usize,
    /// How much a peer may have staged for one state join, in bytes of disk. 16 GiB.
    pub stage_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Immediate,
            segment_bytes: 16 << 20,
            reserve_bytes: 128 << 10,
            pending_bytes_max: 4 << 20,
            buffer_bytes: 8 << 20,
            buffer_bytes_max: 32 << 20,
            tree_cache_bytes: 32 << 20,
            snapshot_checkpoints_max: 16,
            stage_bytes_max: 16 << 30,
        }
    }
}

/// Random bytes for a store that does not exist yet; one that exists keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshIds {
    /// The replica id of the store: it must never have been used before.
    pub replica: ReplicaId,
    /// Goes into every checksum of the log, so that no record of another store verifies in this one.
    pub salt: [u8; 16],
}
