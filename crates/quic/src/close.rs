//! Why connections end: the codes on the wire and what each end makes of them.

use std::fmt;

use quinn::{ConnectionError, TransportErrorCode, VarInt};
use rejoin_gossip::CloseReason;
use rejoin_gossip::wire::{FrameError, Lane};
use thiserror::Error;

/// How many bytes of a peer's reason text are kept.
const REASON_BYTES_MAX: usize = 256;

/// A close by the driver, as opposed to one by the session: its code in the CONNECTION_CLOSE frame.
///
/// 0 is an orderly end. The session's own codes are below 0x100, see [`rejoin_gossip::CloseReason::code`]; the driver's
/// others follow from 0x101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkClose {
    /// The network was closed by its owner.
    Shutdown,
    /// The link to the peer was taken down by its owner, and stays down for now.
    LinkDown,
    /// The peer is not, or no longer, expected.
    NotExpected,
    /// Both ends dialled at once, and the other connection stays.
    Duplicate,
    /// A newer connection from the same end took this one's place.
    Replaced,
    /// There are as many connections as may be.
    TooManyConnections,
    /// The peer broke the rules of streams and frames.
    Framing,
    /// Something failed on the closing side that the peer has no part in.
    Failed,
    /// Sessions start over, because what they said hello with has changed.
    Reconnect,
}

impl NetworkClose {
    const ALL: [Self; 9] = [
        Self::Shutdown,
        Self::LinkDown,
        Self::NotExpected,
        Self::Duplicate,
        Self::Replaced,
        Self::TooManyConnections,
        Self::Framing,
        Self::Failed,
        Self::Reconnect,
    ];

    /// The code on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Self::Shutdown => 0,
            Self::LinkDown => 0x101,
            Self::NotExpected => 0x102,
            Self::Duplicate => 0x103,
            Self::Replaced => 0x104,
            Self::TooManyConnections => 0x105,
            Self::Framing => 0x106,
            Self::Failed => 0x107,
            Self::Reconnect => 0x108,
        }
    }

    /// What a code stands for, if it is a driver's.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|close| u64::from(close.code()) == code)
    }

    pub(crate) fn close(self, connection: &quinn::Connection) {
        connection.close(VarInt::from_u32(self.code()), self.to_string().as_bytes());
    }
}

impl fmt::Display for NetworkClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "the network was closed",
            Self::LinkDown => "the link is down",
            Self::NotExpected => "the device is not expected",
            Self::Duplicate => "there is another connection between the two devices",
            Self::Replaced => "a newer connection took its place",
            Self::TooManyConnections => "too many connections",
            Self::Framing => "streams or frames broke the rules",
            Self::Failed => "the other end failed",
            Self::Reconnect => "sessions start over",
        })
    }
}

/// Why a connection to a peer ended, or was not made. The data is not affected by any of them, and the network dials
/// again by itself; what else helps is said on each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nothing came from the peer for too long: during the handshake, or on a connection that was up.
    #[error("the peer does not answer")]
    TimedOut,
    /// A dial could not even start, or the local socket failed: the address is of a family that the socket cannot
    /// reach, or the port is 0. The configured address is at fault.
    #[error("the peer cannot be dialled: {0}")]
    NotDialled(String),
    /// Whoever answers at the address proved another key. The address is out of date, or somebody else's.
    #[error("another device answers at the peer's address")]
    OtherDevice,
    /// The peer does not expect this device's key. Its owner has to add it.
    #[error("the peer does not expect this device")]
    Unexpected,
    /// The two ends have no version of QUIC, TLS or this protocol in common. One has to be upgraded.
    #[error("no protocol in common with the peer")]
    Incompatible,
    /// The peer has all the handshakes or connections that it takes.
    #[error("the peer is busy")]
    Busy,
    /// The peer has forgotten the connection: it restarted.
    #[error("the peer restarted")]
    Restarted,
    /// The peer closed the connection, for the reason it gave (cut to 256 bytes).
    #[error("closed by the peer, code {code:#x}: {reason}")]
    ClosedByPeer {
        /// A [`NetworkClose`]'s or a session's; see [`NetworkClose::from_code`].
        code: u64,
        /// For people; the peer wrote it.
        reason: String,
    },
    /// This end's driver closed the connection.
    #[error("closed: {0}")]
    Closed(NetworkClose),
    /// This end's session closed the connection.
    #[error("closed by the session: {0}")]
    Session(CloseReason),
    /// The peer broke the rules of streams and frames, and this end closed the connection. The peer is at fault.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// This end failed in a way that it never should: a defect, and the log holds the panic. Nothing of the call that
    /// failed is known to have happened.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// QUIC found a fault in what the peer sent, or in itself.
    #[error("transport: {0}")]
    Transport(String),
}

/// How a peer broke the rules of streams and frames. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A stream is not one of ours, a frame breaks its limit, or a stream ended inside one.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The lane does not belong on that kind of stream.
    #[error("{0} on the wrong kind of stream")]
    MisplacedLane(Lane),
    /// A stream was reset.
    #[error("a stream was reset")]
    Reset,
    /// The peer refuses to read a lane.
    #[error("a stream was refused")]
    Stopped,
    /// The control lane ended, and the connection did not.
    #[error("the control lane ended")]
    ControlEnded,
    /// More is under way in unfinished frames than a sender that keeps to the windows can have.
    #[error("too much in unfinished frames")]
    TooMuchUnfinished,
    /// The peer keeps its connection alive, and has read nothing for a minute.
    #[error("the peer reads nothing")]
    Stalled,
    /// The peer reads so slowly that too much waits for it.
    #[error("too much waits for the peer to read")]
    TooMuchUnread,
}

impl LinkError {
    pub(crate) const HOST_PANICKED: Self = Self::Internal("a call to the host panicked");
    pub(crate) const STREAM_PANICKED: Self = Self::Internal("a task on a stream panicked");

    /// What ended an established connection, or a handshake.
    pub(crate) fn of_connection(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::VersionMismatch => Self::Incompatible,
            ConnectionError::LocallyClosed => Self::Closed(NetworkClose::Shutdown),
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: close.error_code.into_inner(),
                reason: reason_text(&close.reason),
            },
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
                _ if close.error_code == TransportErrorCode::CONNECTION_REFUSED => Self::Busy,
                Some(ALERT_NO_APPLICATION_PROTOCOL | ALERT_PROTOCOL_VERSION) => Self::Incompatible,
                Some(_) => Self::Unexpected,
                None => Self::Transport(reason_text(close.to_string().as_bytes())),
            },
            ConnectionError::TransportError(error) => match alert(error.code) {
                Some(ALERT_NO_APPLICATION_PROTOCOL | ALERT_PROTOCOL_VERSION) => Self::Incompatible,
                Some(_) => Self::OtherDevice,
                None => Self::Transport(reason_text(error.to_string().as_bytes())),
            },
            other => Self::Transport(other.to_string()),
        }
    }
}

/// RFC 8446 section 6.
const ALERT_PROTOCOL_VERSION: u8 = 70;
/// RFC 7301 section 3.2.
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// The TLS alert that a transport error code stands for (RFC 9001 section 4.8).
fn alert(code: TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    if (0x100..0x200).contains(&code) { u8::try_from(code & 0xff).ok() } else { None }
}

/// A peer's reason, fit to be shown: bounded, and without control characters that could steer a terminal.
fn reason_text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(REASON_BYTES_MAX)];
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_known_to_both_ends() {
        for close in NetworkClose::ALL {
            assert_eq!(NetworkClose::from_code(u64::from(close.code())), Some(close));
            assert!(close.code() == 0 || close.code() > 0x100, "the others are the session's");
        }
        assert_eq!(NetworkClose::from_code(1), None);
    }

    #[test]
    fn a_hostile_reason_is_cut_and_cleaned() {
        let shown = reason_text(&[b"\x1b[2J\xff".as_slice(), &[b'x'; 10_000]].concat());
        assert!(shown.len() <= REASON_BYTES_MAX + 2);
        assert!(!shown.chars().any(char::is_control));
    }
}
