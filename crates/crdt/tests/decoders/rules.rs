//! Rules of the encodings, each broken once in bytes made by hand. Most of these bytes would encode to
//! themselves again, so no comparison of encodings shows them.

use rejoin_crdt::*;

/// The author of the commits below; its number in a body is 0.
const AUTHOR: ReplicaId = ReplicaId::from_bytes([2; 16]);
const DOT: Dot = Dot { replica: AUTHOR, sequence: 9 };
/// The others, in order; where both are in the table their numbers are 1 and 2.
const ANN: [u8; 16] = [1; 16];
const CLEO: [u8; 16] = [3; 16];

/// The key of the element at `x` (0x20 'x' 0x00, then the kind), with its length before it.
const KEY: [u8; 5] = [4, 0x20, b'x', 0, 4];
const KEY_Y: [u8; 5] = [4, 0x20, b'y', 0, 4];
/// The path of the tree at `x`, with its length before it.
const TREE: [u8; 4] = [3, 0x20, b'x', 0];
const SET: u8 = 0;
const REMOVE: u8 = 1;
const REMOVE_TREE: u8 = 2;

fn decode(parts: &[&[u8]]) -> Result<CommitBody, codec::DecodeError> {
    CommitBody::from_bytes(DOT, &parts.concat())
}

/// A body with both others in the table, no dependencies, time zero and these operations.
fn operations(count: u8, parts: &[&[u8]]) -> Result<CommitBody, codec::DecodeError> {
    decode(&[&[2], &ANN, &CLEO, &[0, 0, count], &parts.concat()])
}

/// A body that only depends on others: `ids` is the table, `dots` the list of (number, sequence).
fn dependencies(ids: &[[u8; 16]], dots: &[[u8; 2]]) -> Result<CommitBody, codec::DecodeError> {
    decode(&[&[ids.len() as u8], &ids.concat(), &[dots.len() as u8], &dots.concat(), &[0, 0]])
}

#[test]
fn the_table_of_a_body_is_sorted_and_used_and_without_the_author() {
    assert!(dependencies(&[ANN, CLEO], &[[1, 5], [2, 5]]).is_ok());
    assert!(dependencies(&[CLEO, ANN], &[[1, 5], [2, 5]]).is_err(), "out of order");
    assert!(dependencies(&[ANN, ANN], &[[1, 5], [2, 5]]).is_err(), "twice");
    assert!(dependencies(&[ANN, CLEO], &[[1, 5]]).is_err(), "unused");
    assert!(dependencies(&[ANN, *AUTHOR.as_bytes()], &[[1, 5], [2, 5]]).is_err(), "the author");
    assert!(dependencies(&[ANN], &[[2, 5]]).is_err(), "past the table");
}

#[test]
fn the_dependencies_of_a_body_name_each_other_replica_once_and_never_the_author() {
    assert!(dependencies(&[ANN], &[[1, 5]]).is_ok());
    assert!(dependencies(&[ANN], &[[0, 5], [1, 5]]).is_err(), "the author");
    assert!(dependencies(&[ANN], &[[1, 5], [1, 6]]).is_err(), "a replica twice");
    assert!(dependencies(&[ANN, CLEO], &[[2, 5], [1, 5]]).is_err(), "out of order");
    assert!(dependencies(&[ANN], &[[1, 0]]).is_err(), "sequence zero");
}

#[test]
fn the_dots_of_an_operation_ascend_and_end_before_the_commit() {
    let observing = |dots: &[[u8; 2]]| {
        let count = [dots.len() as u8];
        // The past of a removed tree makes use of the whole table.
        let tree = [&[REMOVE_TREE], &TREE[..], &[2, 1, 1, 2, 1]].concat();
        operations(2, &[&tree, &[SET], &KEY, &count, &dots.concat()])
    };
    assert!(observing(&[]).is_ok());
    assert!(observing(&[[0, 8], [1, 1], [1, 2], [2, 100]]).is_ok());
    assert!(observing(&[[0, 9]]).is_err(), "the commit itself");
    assert!(observing(&[[0, 10]]).is_err(), "its own future");
    assert!(observing(&[[1, 2], [1, 1]]).is_err(), "sequences out of order");
    assert!(observing(&[[2, 1], [1, 1]]).is_err(), "replicas out of order");
    assert!(observing(&[[1, 1], [1, 1]]).is_err(), "twice");
    assert!(observing(&[[1, 0]]).is_err(), "sequence zero");
    assert!(observing(&[[3, 1]]).is_err(), "past the table");
}

#[test]
fn the_operations_of_a_body_are_known_sorted_and_do_something() {
    let past = [2, 1, 1, 2, 1];
    let tree = [&[REMOVE_TREE], &TREE[..], &past].concat();
    let set = |key: [u8; 5]| [&[SET], &key[..], &[0]].concat();
    let remove = |dots: &[u8]| [&[REMOVE], &KEY[..], dots].concat();
    assert!(operations(3, &[&tree, &set(KEY), &set(KEY_Y)]).is_ok());
    assert!(operations(2, &[&tree, &remove(&[1, 1, 1])]).is_ok());
    assert!(operations(2, &[&tree, &remove(&[0])]).is_err(), "removes nothing");
    assert!(operations(3, &[&tree, &set(KEY_Y), &set(KEY)]).is_err(), "rows out of order");
    assert!(operations(3, &[&tree, &set(KEY), &remove(&[1, 1, 1])]).is_err(), "one row twice");
    assert!(operations(2, &[&tree, &tree]).is_err(), "one tree twice");
    assert!(operations(2, &[&set(KEY), &tree]).is_err(), "a tree after a row");
    assert!(operations(2, &[&tree, &[3], &KEY, &[0]]).is_err(), "no such operation");
    assert!(operations(1, &[&tree, &set(KEY)]).is_err(), "more than were announced");
    assert!(operations(3, &[&tree, &set(KEY)]).is_err(), "fewer than were announced");
    let twice = [&[REMOVE_TREE], &TREE[..], &[3, 1, 1, 1, 2, 2, 1]].concat();
    assert!(operations(1, &[&twice]).is_err(), "a past names a replica twice");
}

#[test]
fn the_dots_of_a_row_ascend_and_count_from_one() {
    let row = |dots: &[([u8; 16], u8)]| {
        let mut bytes = vec![dots.len() as u8];
        for (replica, sequence) in dots {
            bytes.extend_from_slice(replica);
            bytes.push(*sequence);
        }
        Row::from_bytes(Kind::Flag, &bytes)
    };
    assert!(row(&[(ANN, 1), (ANN, 2), (CLEO, 1)]).is_ok());
    assert!(row(&[(ANN, 2), (ANN, 1)]).is_err(), "sequences out of order");
    assert!(row(&[(CLEO, 1), (ANN, 1)]).is_err(), "replicas out of order");
    assert!(row(&[(ANN, 1), (ANN, 1)]).is_err(), "twice");
    assert!(row(&[(ANN, 0)]).is_err(), "sequence zero");
}

#[test]
fn the_segments_of_a_path_are_in_their_one_form() {
    assert!(Path::from_bytes(&[0x11, 1, 0x20, b'x', 1, 1, 1, 2, 0, 0x30, 0xff, 0]).is_ok());
    assert!(Path::from_bytes(&[0x11, 0]).is_err(), "a leading zero");
    assert!(Path::from_bytes(&[0x12, 0, 1]).is_err(), "a leading zero");
    assert!(Path::from_bytes(&[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1]).is_err(), "nine bytes");
    assert!(Path::from_bytes(&[0x20, 1, 3, 0]).is_err(), "no such escape");
    assert!(Path::from_bytes(&[0x20, 1, 0]).is_err(), "half an escape");
    assert!(Path::from_bytes(&[0x20, b'x']).is_err(), "no end");
    assert!(Path::from_bytes(&[0x20, 0xff, 0]).is_err(), "not UTF-8");
    assert!(Path::from_bytes(&[0x0f]).is_err(), "no such tag");
}
