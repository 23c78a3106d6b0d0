//! What nodes learn from the network, and about what.

use bytes::Bytes;
use rejoin_gossip::wire::Lane;

use crate::history::NodeIndex;

/// A connection, by the order in which they were dialled. No number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(super) u32);

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Which connection.
    pub connection: ConnectionId,
    /// The node at this end.
    pub node: NodeIndex,
}

/// Something that a node learns from its transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A connection that this node dialled is open.
    Connected {
        /// The end of this node.
        end: End,
        /// Who is at the other.
        peer: NodeIndex,
    },
    /// A connection that somebody else dialled is open.
    Incoming {
        /// The end of this node.
        end: End,
        /// Who dialled it.
        peer: NodeIndex,
    },
    /// Bytes of a lane, in their order.
    Received {
        /// The end at which they came.
        end: End,
        /// Which lane.
        lane: Lane,
        /// What came: whatever one packet held of it.
        bytes: Bytes,
        /// When the first of them was given to the transport at the other end.
        sent_ms: u64,
    },
    /// The connection has ended, other than by a [`close`](super::Network::close) at this end, or never came to be.
    Closed {
        /// The end that learns of it. Nothing more comes from there.
        end: End,
        /// Who was at the other.
        peer: NodeIndex,
        /// Why.
        why: CloseCause,
    },
}

impl NetworkEvent {
    /// The end at which it happens.
    pub fn end(&self) -> End {
        match self {
            NetworkEvent::Connected { end, .. }
            | NetworkEvent::Incoming { end, .. }
            | NetworkEvent::Received { end, .. }
            | NetworkEvent::Closed { end, .. } => *end,
        }
    }
}

/// Why a connection ended, as one end learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer closed it.
    Peer {
        /// The code that it gave.
        code: u32,
        /// What it said, cut to 256 bytes.
        reason: String,
    },
    /// Nothing came for too long.
    IdleTimeout,
    /// Nobody answered.
    HandshakeTimeout,
    /// The peer knows nothing of the connection: it has restarted, or has given the connection up before.
    Reset,
}
