//! Rows on disk: as their canonical encoding, but with replicas by number.
//!
//! A row is the number of its dots, then for each dot, in the order of dots: replica, sequence, and the
//! payload with its length before it; the last payload is what is left. Integers are varints. A row of one
//! dot so takes 4 or 5 bytes beside its payload, and the path and the checksum of the table beside that.

use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{Dot, Kind, Payload, Row};

use crate::packing::{Unpacker, put_varint};
use crate::replicas::Replicas;

pub(crate) fn encode_row(row: &Row, replicas: &Replicas) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 16 * row.len());
    put_varint(&mut out, row.len() as u64);
    let mut payload_bytes = Vec::new();
    for (position, (dot, payload)) in row.iter().enumerate() {
        let replica = replicas.index(dot.replica);
        let replica = replica.expect("a replica is numbered before any of its dots is stored");
        put_varint(&mut out, replica.0.into());
        let narrow = planted::is(Bug::SequenceNarrowed);
        put_varint(&mut out, if narrow { dot.sequence % 64 } else { dot.sequence });
        payload_bytes.clear();
        payload.encode_into(&mut payload_bytes);
        if position + 1 < row.len() {
            put_varint(&mut out, payload_bytes.len() as u64);
        }
        out.extend_from_slice(&payload_bytes);
    }
    out
}

/// `None` if the bytes are not a row of this kind.
pub(crate) fn decode_row(kind: Kind, bytes: &[u8], replicas: &Replicas) -> Option<Row> {
    let mut unpacker = Unpacker::new(bytes);
    let count = unpacker.varint()?;
    let mut row = Row::default();
    for position in 1..=count {
        let replica = replicas.id(crate::entry::ReplicaIndex(unpacker.varint_u32()?))?;
        let dot = Dot { replica, sequence: unpacker.varint()? };
        let payload = if position < count { unpacker.sized()? } else { unpacker.take_rest() };
        row.insert(dot, Payload::decode(kind, payload).ok()?);
    }
    (unpacker.is_empty() && row.len() as u64 == count).then_some(row)
}

#[cfg(test)]
mod tests {
    use rejoin_crdt::{ReplicaId, Value};

    use super::*;

    fn dot(replica: u8, sequence: u64) -> Dot {
        Dot { replica: ReplicaId::from_bytes([replica; 16]), sequence }
    }

    #[test]
    fn rows_of_every_kind_read_back_and_have_these_bytes() {
        let mut replicas = Replicas::default();
        // Numbers need not be in the order of ids.
        for id in [9, 1] {
            replicas.push(ReplicaId::from_bytes([id; 16]));
        }
        let counter: Row = [(dot(1, 300), Payload::Counter(-1)), (dot(9, 2), Payload::Counter(64))]
            .into_iter()
            .collect();
        let bytes = encode_row(&counter, &replicas);
        assert_eq!(bytes, [2, 1, 0xac, 2, 1, 1, 0, 2, 0x80, 1]);
        assert_eq!(decode_row(Kind::Counter, &bytes, &replicas), Some(counter));

        let value = Value::String("milk".into());
        let register: Row =
            [(dot(9, 1), Payload::Register { value, wall_time_ms: 7 })].into_iter().collect();
        let flag: Row =
            [(dot(9, 1), Payload::Flag), (dot(1, 1), Payload::Flag)].into_iter().collect();
        for (kind, row) in
            [(Kind::Register, register), (Kind::Flag, flag), (Kind::Element, Row::default())]
        {
            assert_eq!(decode_row(kind, &encode_row(&row, &replicas), &replicas), Some(row));
        }
    }

    #[test]
    fn cut_off_rows_and_unknown_replicas_are_none() {
        let mut replicas = Replicas::default();
        replicas.push(ReplicaId::from_bytes([9; 16]));
        let row: Row = [(dot(9, 1), Payload::Counter(5)), (dot(9, 2), Payload::Counter(6))]
            .into_iter()
            .collect();
        let bytes = encode_row(&row, &replicas);
        for cut in 0..bytes.len() {
            assert_eq!(decode_row(Kind::Counter, &bytes[..cut], &replicas), None, "cut at {cut}");
        }
        assert_eq!(decode_row(Kind::Counter, &bytes, &Replicas::default()), None);
    }
}
