//! Golden bytes, round trips, and refusals.

use proptest::prelude::*;
use rejoin_crdt::{CommitHash, Head};

use super::*;

fn replica(byte: u8) -> ReplicaId {
    ReplicaId::from_bytes([byte; 16])
}

fn version(entries: &[(u8, u64)]) -> VersionVector {
    let head = |sequence| Head { sequence, hash: CommitHash::from_bytes([sequence as u8; 32]) };
    entries.iter().map(|(byte, sequence)| (replica(*byte), head(*sequence))).collect()
}

fn run(byte: u8, first_sequence: u64, bodies: &[&[u8]]) -> Run {
    let previous =
        if first_sequence == 1 { CommitHash::ZERO } else { CommitHash::from_bytes([0xee; 32]) };
    let bodies = bodies.iter().map(|body| Bytes::copy_from_slice(body)).collect();
    Run { replica: replica(byte), first_sequence, previous, bodies }
}

fn row(key: &[u8], row: &[u8]) -> StateRow {
    StateRow { key: Bytes::copy_from_slice(key), row: Bytes::copy_from_slice(row) }
}

/// One of each message on a space lane.
fn space_messages() -> Vec<SpaceMessage> {
    vec![
        SpaceMessage::Versions { version: version(&[(1, 7), (2, 300)]), taken: 5 },
        SpaceMessage::Commits(vec![run(1, 1, &[b"ab", b"c"]), run(2, 9, &[b""])]),
        SpaceMessage::StateBegin(version(&[(3, 1)])),
        SpaceMessage::StateRows(vec![row(b"k", b"row"), row(b"kk", b"")]),
        SpaceMessage::StateEnd { complete: true },
        SpaceMessage::StateWorking,
        SpaceMessage::Stop(Stop::Fork { replica: replica(4), sequence: 6 }),
        SpaceMessage::Stop(Stop::OwnReplicaAhead { theirs: 9, ours: 8 }),
        SpaceMessage::Stop(Stop::Malformed("why".to_owned())),
        SpaceMessage::Stop(Stop::Storage),
        SpaceMessage::Stop(Stop::TooLarge("what".to_owned())),
    ]
}

fn control_messages() -> Vec<ControlMessage> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 258,
        replica: replica(7),
        wall_time_ms: 1_700_000_000_000,
    };
    let spaces = [1, 2].map(|byte| SpaceId::from_bytes([byte; 32])).to_vec();
    vec![ControlMessage::Hello(hello), ControlMessage::Spaces(spaces)]
}

/// Writes runs of a byte short: `07*16`.
fn shown(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    for group in bytes.chunk_by(|a, b| a == b) {
        match group.len() {
            count @ 8.. => out.push(format!("{:02x}*{count}", group[0])),
            _ => out.extend(group.iter().map(|byte| format!("{byte:02x}"))),
        }
    }
    out.join(" ")
}

#[test]
fn the_layout_of_every_message_is_what_earlier_builds_wrote() {
    let control: Vec<_> =
        control_messages().iter().map(|message| shown(&message.to_frame().unwrap())).collect();
    assert_eq!(control, GOLDEN_CONTROL);
    let space: Vec<_> =
        space_messages().iter().map(|message| shown(&message.to_frame().unwrap())).collect();
    assert_eq!(space, GOLDEN_SPACE);
    let preambles = [Lane::Control, Lane::Space(SpaceId::from_bytes([9; 32]))]
        .map(|lane| shown(&Preamble { lane, protocol: 258 }.to_bytes()));
    assert_eq!(preambles, GOLDEN_PREAMBLES);
}

const GOLDEN_CONTROL: &[&str] = &[
    "1e 00 00 00 00 01 fb 02 01 07*16 fd 00 68 e5 cf 8b 01 00 00",
    "42 00 00 00 01 02 01*32 02*32",
];
const GOLDEN_SPACE: &[&str] = &[
    "67 00 00 00 00 02 01*16 07*33 02*16 fb 2c 01 2c*32 05",
    "6d 00 00 00 01 02 01*17 00*32 02 02 01 02*16 09 ee*32 01 00 03 61 62 63",
    "33 00 00 00 02 01 03*16 01*33",
    "0e 00 00 00 03 02 01 02 02 03 00 06 6b 72 6f 77 6b 6b",
    "02 00 00 00 04 01",
    "01 00 00 00 05",
    "13 00 00 00 06 00 04*16 06",
    "04 00 00 00 06 01 09 08",
    "06 00 00 00 06 02 03 77 68 79",
    "02 00 00 00 06 03",
    "07 00 00 00 06 04 04 77 68 61 74",
];
const GOLDEN_PREAMBLES: [&str; 2] = ["72 6a 6e 00 00 02 01", "72 6a 6e 00 01 02 01 09*32"];

#[test]
fn every_message_comes_back_as_it_was() {
    for message in control_messages() {
        let frame = message.to_frame().unwrap();
        assert_eq!(ControlMessage::from_payload(&frame[4..]), Ok(message));
    }
    for message in space_messages() {
        let frame = message.to_frame().unwrap();
        assert_eq!(SpaceMessage::from_payload(&frame[4..]), Ok(message));
    }
}

#[test]
fn a_message_cut_anywhere_or_followed_by_anything_is_refused() {
    for message in space_messages() {
        let frame = message.to_frame().unwrap();
        let payload = &frame[4..];
        for length in 0..payload.len() {
            assert!(SpaceMessage::from_payload(&payload[..length]).is_err(), "{message:?}");
        }
        let longer = [payload, &[0]].concat();
        assert!(SpaceMessage::from_payload(&longer).is_err(), "{message:?}");
    }
}

#[test]
fn what_no_honest_sender_says_is_refused() {
    let refused = [
        SpaceMessage::Commits(vec![]),
        SpaceMessage::Commits(vec![run(1, 1, &[])]),
        SpaceMessage::Commits(vec![run(1, 0, &[b"x"])]),
        SpaceMessage::Commits(vec![run(1, u64::MAX, &[b"x"])]),
        SpaceMessage::Commits(vec![Run { previous: CommitHash::ZERO, ..run(1, 2, &[b"x"]) }]),
        SpaceMessage::Commits(vec![Run {
            previous: CommitHash::from_bytes([1; 32]),
            ..run(1, 1, &[b"x"])
        }]),
        SpaceMessage::StateRows(vec![]),
        SpaceMessage::Versions { version: version(&[(1, 0)]), taken: 0 },
        SpaceMessage::Stop(Stop::Malformed("x".repeat(STOP_TEXT_BYTES_MAX + 1))),
    ];
    for message in refused {
        let frame = message.to_frame().unwrap();
        assert!(SpaceMessage::from_payload(&frame[4..]).is_err(), "{message:?}");
    }
}

#[test]
fn lists_stop_at_their_limits() {
    let fits = vec![run(1, 1, &vec![&b"x"[..]; COMMITS_MAX])];
    let over = vec![run(1, 1, &vec![&b"x"[..]; COMMITS_MAX]), run(2, 1, &[b"x"])];
    for (runs, taken) in [(fits, true), (over, false)] {
        let frame = SpaceMessage::Commits(runs).to_frame().unwrap();
        assert_eq!(SpaceMessage::from_payload(&frame[4..]).is_ok(), taken);
    }
    for (count, taken) in [(ROWS_MAX, true), (ROWS_MAX + 1, false)] {
        let frame = SpaceMessage::StateRows(vec![row(b"k", b"r"); count]).to_frame().unwrap();
        assert_eq!(SpaceMessage::from_payload(&frame[4..]).is_ok(), taken);
    }
    for (count, taken) in [(SPACES_MAX, true), (SPACES_MAX + 1, false)] {
        let spaces = vec![SpaceId::from_bytes([1; 32]); count];
        let frame = ControlMessage::Spaces(spaces).to_frame().unwrap();
        assert_eq!(ControlMessage::from_payload(&frame[4..]).is_ok(), taken);
    }
    for (count, taken) in [(REPLICAS_MAX, true), (REPLICAS_MAX + 1, false)] {
        let heads = (0..count as u128).map(|number| {
            let head = Head { sequence: 1, hash: CommitHash::ZERO };
            (ReplicaId::from_bytes(number.to_be_bytes()), head)
        });
        let frame = SpaceMessage::StateBegin(heads.collect()).to_frame().unwrap();
        assert_eq!(SpaceMessage::from_payload(&frame[4..]).is_ok(), taken);
    }
    let spaces = vec![SpaceId::from_bytes([1; 32]); 4 * SPACES_MAX];
    assert!(ControlMessage::Spaces(spaces).to_frame().is_err(), "longer than a control frame");
}

#[test]
fn a_frame_of_absurd_length_is_refused_before_it_comes() {
    for (lane, limit) in [
        (Lane::Control, FRAME_CONTROL_BYTES_MAX),
        (Lane::Space(SpaceId::from_bytes([1; 32])), FRAME_SPACE_BYTES_MAX),
    ] {
        for (length, error) in [
            (0, Some(FrameError::Empty)),
            (limit, None),
            (limit + 1, Some(FrameError::TooLong { length: limit + 1, limit })),
            (u32::MAX as usize, Some(FrameError::TooLong { length: u32::MAX as usize, limit })),
        ] {
            let mut reader = FrameReader::default();
            reader.push(&Preamble { lane, protocol: 0 }.to_bytes());
            assert!(matches!(reader.next(), Ok(Some(Incoming::Preamble(_)))));
            reader.push(&(length as u32).to_le_bytes());
            assert_eq!(reader.next().err(), error);
            assert_eq!(reader.finish(), Err(FrameError::Truncated));
        }
    }
}

#[test]
fn a_stream_that_is_not_ours_is_refused_at_its_first_wrong_byte() {
    let mut reader = FrameReader::default();
    reader.push(b"rj");
    assert_eq!(reader.next(), Ok(None));
    reader.push(b"x");
    assert_eq!(reader.next(), Err(FrameError::NotOurs));

    let mut reader = FrameReader::default();
    reader.push(b"rjn\0\x02");
    assert_eq!(reader.next(), Err(FrameError::UnknownLane(2)));
}

proptest! {
    #[test]
    fn a_stream_reads_the_same_however_it_is_cut(
        cuts in proptest::collection::vec(1usize..40, 1..200),
    ) {
        let lane = Lane::Space(SpaceId::from_bytes([5; 32]));
        let mut stream = Preamble { lane, protocol: 1 }.to_bytes().to_vec();
        for message in space_messages() {
            stream.extend_from_slice(&message.to_frame().unwrap());
        }
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            rest = after;
            reader.push(piece);
            while let Some(incoming) = reader.next().unwrap() {
                read.push(incoming);
            }
        }
        prop_assert_eq!(reader.finish(), Ok(()));
        prop_assert_eq!(read.remove(0), Incoming::Preamble(Preamble { lane, protocol: 1 }));
        let read: Vec<_> = read
            .into_iter()
            .map(|incoming| match incoming {
                Incoming::Frame(payload) => SpaceMessage::from_payload(&payload).unwrap(),
                Incoming::Preamble(_) => unreachable!("there is one preamble"),
            })
            .collect();
        prop_assert_eq!(read, space_messages());
    }

    #[test]
    fn what_decodes_is_the_one_encoding_of_what_it_means(bytes: Vec<u8>) {
        if let Ok(message) = SpaceMessage::from_payload(&bytes) {
            prop_assert_eq!(&message.to_frame().unwrap()[4..], &bytes[..]);
        }
        if let Ok(message) = ControlMessage::from_payload(&bytes) {
            prop_assert_eq!(&message.to_frame().unwrap()[4..], &bytes[..]);
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_still_canonical(
        index in 0usize..11, at: prop::sample::Index, byte: u8,
    ) {
        let mut payload = space_messages()[index].to_frame().unwrap()[4..].to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Ok(message) = SpaceMessage::from_payload(&payload) {
            prop_assert_eq!(&message.to_frame().unwrap()[4..], &payload[..]);
        }
    }
}
