//! One short story for each thing that a checker must see.

use super::*;

const ELEMENT: RowKind = RowKind::Element;
const COUNTER: RowKind = RowKind::Counter;
const REGISTER: RowKind = RowKind::Register;
const FLAG: RowKind = RowKind::Flag;

fn holds(values: &[(u64, NodeIndex, i64)]) -> Seen {
    let value =
        |(ms, node, value): &(u64, NodeIndex, i64)| (*ms, writer(*node), Datum::Integer(*value));
    Seen::Register(values.iter().map(value).collect())
}

fn witnessed(node: NodeIndex, past: &[u64]) -> Transaction {
    let mut transaction = transaction(node, past, &[]);
    let DotName { writer, sequence } = transaction.dot;
    transaction.wishes = vec![
        insert(&format!("!a/{writer:032x}.{sequence}")),
        insert(&format!("~b/{writer:032x}.{sequence}")),
    ];
    transaction
}

// The dot ledger.

#[test]
fn a_dot_that_was_acknowledged_is_not_used_again() {
    let mut told = Told::new(1);
    told.write(0, &[0], &[insert("a")]).write(0, &[1], &[insert("b")]).good();
    told.write(0, &[1], &[insert("c")]).bad(Checker::DotLedger, "used again");
}

#[test]
fn a_dot_that_was_sent_is_not_used_again_after_a_crash() {
    let mut told = Told::new(2);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &unknown());
    told.send(0, dot(0, 1), &["a"]).damage(0, Damage::RolledBack).die(0, Death::PowerCut);
    told.open(0, &[0]).good();
    told.write(0, &[0], &[insert("b")])
        .bad(Checker::DotLedger, "went through the hands of replica 0");
}

#[test]
fn a_dot_that_another_replica_showed_is_not_used_again() {
    let mut told = Told::new(2);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &IN_MEMORY);
    told.reread(1, &[1]).die(0, Death::PowerCut).open(0, &[0]).good();
    told.write(0, &[0], &[insert("b")]).bad(Checker::DotLedger, "was visible at replica 1");
}

#[test]
fn a_dot_that_was_lost_before_anybody_saw_it_may_be_used_again() {
    let lost = transaction(0, &[0], &[insert("a")]);
    for outcome in [unknown(), IN_MEMORY] {
        let mut told = Told::new(2);
        told.checkers.eventual(0, true);
        told.write_as(0, &lost, &outcome).die(0, Death::PowerCut).open(0, &[0]);
        told.write(0, &[0], &[insert("b")]).read(0, &[1], &[("b", ELEMENT, Seen::Element)]).good();
        let now = told.checkers.transaction(0, dot(0, 1)).expect("it was written");
        assert_eq!(now.wishes, [insert("b")]);
    }
}

#[test]
fn what_only_its_writer_had_read_may_be_lost_with_all_that_was_known_of_it() {
    let mut told = Told::new(2);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &IN_MEMORY);
    told.read(0, &[1], &[("a", ELEMENT, Seen::Element)]).die(0, Death::PowerCut).open(0, &[0]);
    told.write(0, &[0], &[insert("b")]).read(0, &[1], &[("b", ELEMENT, Seen::Element)]).good();
    told.read(0, &[1], &[("a", ELEMENT, Seen::Element)]).bad(Checker::Oracle, "must not exist");
}

#[test]
fn an_attempt_that_is_there_after_the_crash_is_the_one_that_counts() {
    let mut told = Told::new(1);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &unknown());
    told.die(0, Death::Killed).open(0, &[1]).read(0, &[1], &[("a", ELEMENT, Seen::Element)]).good();
    told.write(0, &[0], &[insert("b")]).bad(Checker::DotLedger, "used again");
}

#[test]
fn no_sequence_number_is_left_out_and_no_name_is_shared() {
    let mut told = Told::new(2);
    told.write(0, &[1], &[insert("a")]).bad(Checker::DotLedger, "number 0");
    let mut told = Told::new(2);
    told.write_as(1, &transaction(0, &[0], &[insert("a")]), &ACKNOWLEDGED);
    told.bad(Checker::DotLedger, "not its own");
    let mut told = Told::new(2);
    told.tell(1, &Observation::Opened { writer: writer(0), versions: &[], fresh: true });
    told.bad(Checker::DotLedger, "name of replica 0");
}

#[test]
fn a_writer_sends_the_same_bytes_for_a_dot_every_time() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")])
        .send(0, dot(0, 1), &["a"])
        .send(0, dot(0, 1), &["a"])
        .good();
    told.send(0, dot(0, 1), &["b"]).bad(Checker::DotLedger, "other bytes");
}

#[test]
fn nobody_holds_two_payloads_of_a_liar_though_two_may_hold_one_each() {
    let mut told = Told::new(2);
    told.checkers.liar(99);
    let lie = DotName { writer: 99, sequence: 1 };
    told.apply(0, lie, &["a"]).apply(1, lie, &["b"]).good();
    told.apply(0, lie, &["b"]).bad(Checker::DotLedger, "two payloads");
}

// Authenticity.

#[test]
fn what_nobody_wrote_is_not_visible() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]).good();
    told.reread(1, &[2]).bad(Checker::Authenticity, "only 1 commits");
    let mut told = Told::new(2);
    let stranger = Version([(99, 1)].into());
    told.tell(0, &Observation::Reread { space: 0, version: &stranger });
    told.bad(Checker::Authenticity, "no replica has that name");
}

#[test]
fn what_was_refused_is_not_visible() {
    let mut told = Told::new(1);
    let refused = WriteOutcome::Refused("no".to_owned());
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &refused).good();
    told.reread(0, &[1]).bad(Checker::Authenticity, "only 0 commits");
}

#[test]
fn a_commit_may_leave_while_its_call_is_under_way() {
    let mut told = Told::new(2);
    told.checkers.began_write(0, 0, 0);
    told.send(0, dot(0, 1), &["a"]);
    let (transaction, outcome) = (transaction(0, &[0], &[insert("a")]), ACKNOWLEDGED);
    told.tell(
        0,
        &Observation::Wrote { space: 0, transaction: &transaction, known: true, outcome: &outcome },
    );
    told.apply(1, dot(0, 1), &["a"]).read(1, &[1], &[("a", ELEMENT, Seen::Element)]).good();
}

#[test]
fn a_body_that_was_changed_on_its_way_is_not_applied() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")])
        .send(0, dot(0, 1), &["a"])
        .apply(1, dot(0, 1), &["a"])
        .good();
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).send(0, dot(0, 1), &["a"]);
    told.apply(1, dot(0, 1), &["b"]).bad(Checker::Authenticity, "its writer sent");
}

#[test]
fn versions_that_show_a_lie_are_not_compared() {
    let mut told = Told::new(2);
    told.checkers.liar(99);
    let version = Version([(99, 3)].into());
    for bytes in [[1; 32], [2; 32]] {
        let rows = rows(&[("x", ELEMENT, Seen::Element)]);
        told.tell(0, &Observation::Read { space: 0, version: &version, rows: &rows, bytes });
    }
    told.good();
}

// Durability.

#[test]
fn what_was_acknowledged_is_there_after_every_death() {
    for death in [Death::PowerCut, Death::Killed, Death::Closed] {
        let mut told = Told::new(1);
        told.write(0, &[0], &[insert("a")]).die(0, death).open(0, &[1]).good();
        told.die(0, death).open(0, &[0]).bad(Checker::Durability, "acknowledged as durable");
    }
}

#[test]
fn what_was_synced_is_there_and_what_was_not_may_be_gone() {
    let mut told = Told::new(1);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &IN_MEMORY)
        .tell(0, &Observation::Synced);
    told.write_as(0, &transaction(0, &[1], &[insert("b")]), &IN_MEMORY);
    told.die(0, Death::Killed).open(0, &[1]).good();
    told.die(0, Death::PowerCut).open(0, &[0]).bad(Checker::Durability, "synced");
}

#[test]
fn closing_in_good_order_loses_nothing() {
    let mut told = Told::new(1);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &IN_MEMORY).die(0, Death::Closed);
    told.open(0, &[0]).bad(Checker::Durability, "when the store was closed");
}

#[test]
fn what_was_sent_is_on_disk_before() {
    let mut told = Told::new(2);
    told.write_as(0, &transaction(0, &[0], &[insert("a")]), &IN_MEMORY).send(0, dot(0, 1), &["a"]);
    told.die(0, Death::PowerCut).open(0, &[0]).bad(Checker::Durability, "sent to a peer");
}

#[test]
fn what_was_taken_from_a_peer_or_shown_to_a_reader_stays() {
    let mut told = Told::new(2);
    told.checkers.eventual(1, true);
    told.write(0, &[0], &[insert("a")]).apply(1, dot(0, 1), &["a"]);
    told.die(1, Death::PowerCut).open(1, &[0]).bad(Checker::Durability, "taken from a peer");
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]);
    told.die(1, Death::PowerCut).open(1, &[0]).bad(Checker::Durability, "shown to a reader");
    let mut told = Told::new(2);
    told.checkers.eventual(1, true);
    told.write(0, &[0], &[insert("a")])
        .reread(1, &[1])
        .die(1, Death::PowerCut)
        .open(1, &[0])
        .good();
}

#[test]
fn a_folder_that_was_rolled_back_may_lack_what_it_had_and_nothing_that_comes_after() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).write(0, &[1], &[insert("b")]);
    told.damage(0, Damage::RolledBack).die(0, Death::PowerCut).open(0, &[1]).good();
    told.die(0, Death::PowerCut).open(0, &[0]).bad(Checker::Durability, "shown to a reader");
}

#[test]
fn a_write_of_unknown_end_may_be_there_or_not() {
    for count in [0, 1] {
        let mut told = Told::new(1);
        told.write_as(0, &transaction(0, &[0], &[insert("a")]), &unknown());
        told.die(0, Death::PowerCut).open(0, &[count]);
        let there = [("a", ELEMENT, Seen::Element)];
        told.read(0, &[count], if count == 1 { &there } else { &[] }).good();
    }
}

// Causality.

#[test]
fn a_view_is_closed_under_causality() {
    let mut told = Told::new(3);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]).write(1, &[1], &[insert("b")]);
    told.reread(2, &[1, 1]).good();
    let mut told = Told::new(3);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]).write(1, &[1], &[insert("b")]);
    told.reread(2, &[0, 1]).bad(Checker::Causality, "but not 01000000:1");
}

#[test]
fn reads_never_go_back_in_one_life() {
    let mut told = Told::new(2);
    told.checkers.eventual(1, true);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]).die(1, Death::Killed).open(1, &[0]).good();
    told.reread(1, &[1]).reread(1, &[0]).bad(Checker::Causality, "not any more");
}

#[test]
fn own_writes_and_what_was_applied_are_seen_at_once() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).reread(0, &[0]).bad(Checker::Causality, "not any more");
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).apply(1, dot(0, 1), &["a"]);
    told.reread(1, &[0]).bad(Checker::Causality, "not any more");
}

#[test]
fn a_write_sees_what_its_process_has_read_and_written() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]).reread(1, &[1]);
    told.write(1, &[0], &[insert("b")]).bad(Checker::Causality, "its process had seen");
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]);
    let mut second = transaction(0, &[0], &[insert("b")]);
    second.dot.sequence = 2;
    told.write_as(0, &second, &ACKNOWLEDGED).bad(Checker::Causality, "0 commits of its own writer");
}

#[test]
fn a_write_need_not_see_what_came_after_it_began() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]);
    told.checkers.began_write(0, 1, 0);
    told.reread(1, &[1]);
    let (transaction, outcome) = (transaction(1, &[0], &[insert("b")]), ACKNOWLEDGED);
    told.tell(
        1,
        &Observation::Wrote { space: 0, transaction: &transaction, known: true, outcome: &outcome },
    );
    told.good();
}

#[test]
fn a_watch_tells_each_commit_once_after_its_past_and_passes_none_over() {
    let told = || {
        let mut told = Told::new(3);
        told.write(0, &[0], &[insert("a")]).write(0, &[1], &[insert("b")]).reread(1, &[2]);
        told.write(1, &[2], &[insert("c")]).write(0, &[2], &[insert("d")]);
        told
    };
    let mut good = told();
    good.deliver(2, dot(0, 1))
        .deliver(2, dot(0, 2))
        .deliver(2, dot(1, 1))
        .deliver(2, dot(0, 3))
        .good();
    good.checkers.watch_told(0, 2, 0, &version(&[3, 1])).expect("all was told");
    told().deliver(2, dot(0, 2)).bad(Checker::Causality, "passed over number 1");
    told().deliver(2, dot(0, 1)).deliver(2, dot(0, 1)).bad(Checker::Causality, "after 1 commits");
    told().deliver(2, dot(1, 1)).bad(Checker::Causality, "before 01000000:2");
    told().reread(2, &[2]).deliver(2, dot(1, 1)).deliver(2, dot(0, 3)).good();
    told().reread(2, &[2]).deliver(2, dot(0, 2)).deliver(2, dot(0, 3)).good();
    told().reread(2, &[1]).deliver(2, dot(0, 3)).bad(Checker::Causality, "passed over number 2");
    let mut stuck = told();
    let behind = stuck.checkers.watch_told(0, 2, 0, &version(&[1])).expect_err("nothing was told");
    assert_eq!(behind.checker, Checker::Liveness);
}

// Atomicity.

#[test]
fn both_witnesses_are_there_exactly_if_their_transaction_is() {
    let first = format!("!a/{:032x}.1", writer(0));
    let second = format!("~b/{:032x}.1", writer(0));
    let (first, second) = (first.as_str(), second.as_str());
    let read = |count, keys: &[&str]| {
        let mut told = Told::new(2);
        told.write_as(0, &witnessed(0, &[0]), &ACKNOWLEDGED);
        let seen: Vec<_> = keys.iter().map(|key| (*key, ELEMENT, Seen::Element)).collect();
        told.read(1, &[count], &seen);
        told
    };
    read(1, &[first, second]).good();
    read(0, &[]).good();
    read(1, &[first]).bad(Checker::Atomicity, "only its witness under !a is there");
    read(1, &[second]).bad(Checker::Atomicity, "only its witness under ~b is there");
    read(1, &[]).bad(Checker::Atomicity, "neither");
    read(0, &[first, second]).bad(Checker::Atomicity, "is not visible, and both");
}

// Resurrection.

#[test]
fn what_a_removal_has_seen_does_not_come_back() {
    for (kind, seen, wish) in [
        (ELEMENT, Seen::Element, insert("a")),
        (FLAG, Seen::Flag, Wish::Enable("a".to_owned())),
        (REGISTER, holds(&[(5, 0, 7)]), put("a", 7)),
    ] {
        for removal in [
            Wish::RemoveRow("a".to_owned(), kind),
            Wish::Remove("a".to_owned()),
            Wish::RemoveTree(String::new()),
        ] {
            let told = || {
                let mut told = Told::new(2);
                told.write(0, &[0], std::slice::from_ref(&wish)).reread(1, &[1]);
                told.write(1, &[1], std::slice::from_ref(&removal));
                told
            };
            told().read(0, &[1], &[("a", kind, seen.clone())]).read(0, &[1, 1], &[]).good();
            let mut bad = told();
            bad.read(0, &[1, 1], &[("a", kind, seen.clone())]);
            bad.bad(Checker::Resurrection, "02000000:1 removed and had seen");
        }
    }
}

#[test]
fn what_a_removal_has_not_seen_stays() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("s/a")]).write(1, &[0], &[Wish::RemoveTree("s".to_owned())]);
    told.read(0, &[1, 1], &[("s/a", ELEMENT, Seen::Element)]).good();
    told.write(0, &[1, 1], &[Wish::RemoveTree("s".to_owned()), insert("s/a"), insert("sa")]);
    told.read(0, &[2, 1], &[("s/a", ELEMENT, Seen::Element), ("sa", ELEMENT, Seen::Element)])
        .good();
}

#[test]
fn one_value_of_several_that_was_removed_is_missed_by_no_one() {
    let told = || {
        let mut told = Told::new(2);
        told.write(0, &[0], &[put("r", 1)]).reread(1, &[1]);
        told.write(1, &[1], &[Wish::Remove("r".to_owned())]).write(1, &[1, 1], &[put("r", 2)]);
        told
    };
    told().read(0, &[1, 2], &[("r", REGISTER, holds(&[(5, 1, 2)]))]).good();
    let mut bad = told();
    bad.read(0, &[1, 2], &[("r", REGISTER, holds(&[(5, 1, 2), (5, 0, 1)]))]);
    bad.bad(Checker::Resurrection, "Integer(1)");
}

// Agreement.

#[test]
fn equal_versions_have_equal_bytes() {
    let mut told = Told::new(2);
    told.write(0, &[0], &[insert("a")]);
    let rows = rows(&[("a", ELEMENT, Seen::Element)]);
    told.read_bytes(0, &[1], &rows, [1; 32]).read_bytes(1, &[0], &ReadRows::new(), [2; 32]);
    told.read_bytes(1, &[1], &rows, [1; 32]).good();
    told.read_bytes(1, &[1], &rows, [2; 32]).bad(Checker::Agreement, "replica 0");
}

#[test]
fn agreement_does_not_need_to_know_what_was_wanted() {
    let told = || {
        let mut told = Told::new(2);
        let (transaction, outcome) = (transaction(0, &[0], &[]), ACKNOWLEDGED);
        let (known, transaction, outcome) = (false, &transaction, &outcome);
        told.tell(0, &Observation::Wrote { space: 0, transaction, known, outcome });
        let rows = rows(&[("a", ELEMENT, Seen::Element)]);
        told.read_bytes(0, &[1], &rows, [1; 32]);
        told
    };
    told().good();
    told().read_bytes(1, &[1], &ReadRows::new(), [2; 32]).bad(Checker::Agreement, "hash");
}

// The oracle.

#[test]
fn concurrent_puts_stand_side_by_side_and_later_ones_replace_them() {
    let told = || {
        let mut told = Told::new(3);
        told.write(0, &[0], &[put("r", 1)]).write(1, &[0], &[put("r", 2)]);
        told
    };
    let both = ("r", REGISTER, holds(&[(5, 1, 2), (5, 0, 1)]));
    told().read(2, &[1, 1], std::slice::from_ref(&both)).good();
    let wrong_order = ("r", REGISTER, holds(&[(5, 0, 1), (5, 1, 2)]));
    told().read(2, &[1, 1], &[wrong_order]).bad(Checker::Oracle, "must hold");
    let mut later = told();
    later.reread(2, &[1, 1]).write(2, &[1, 1], &[put("r", 3)]);
    later.read(2, &[1, 1, 1], &[("r", REGISTER, holds(&[(5, 2, 3)]))]).good();
    later.read(0, &[1, 0], &[both]).bad(Checker::Oracle, "must hold");
}

#[test]
fn within_a_transaction_later_wishes_see_earlier_ones() {
    let remove = |key: &str| Wish::Remove(key.to_owned());
    let mut told = Told::new(1);
    let wishes = [put("a", 1), remove("a"), add("n", 2), add("n", 3), remove("b"), insert("b")];
    told.write(0, &[0], &wishes);
    told.read(0, &[1], &[("b", ELEMENT, Seen::Element), ("n", COUNTER, Seen::Counter(5))]).good();
}

#[test]
fn a_row_that_must_not_exist_is_absent_and_one_that_must_is_there() {
    let mut told = Told::new(1);
    told.write(0, &[0], &[add("n", 0)]).read(0, &[1], &[("n", COUNTER, Seen::Counter(0))]).good();
    told.read(0, &[1], &[]).bad(Checker::Oracle, "is not there");
    let mut told = Told::new(1);
    told.write(0, &[0], &[add("n", 0)]).read(0, &[1], &[]).bad(Checker::Oracle, "is not there");
    let mut told = Told::new(1);
    told.read(0, &[0], &[("n", COUNTER, Seen::Counter(0))]).bad(Checker::Oracle, "must not exist");
    let mut told = Told::new(1);
    told.write(0, &[0], &[put("n", 1)]);
    told.read(0, &[1], &[("n", REGISTER, holds(&[(6, 0, 1)]))]).bad(Checker::Oracle, "must hold");
}

/// Replica 0 adds 1 and then 2; replica 1 resets the counter when it has the first of them.
fn reset_between(shared: bool) -> Told {
    let mut told = Told::new(2);
    told.write(0, &[0], &[add("n", 1)]);
    if shared {
        told.send(0, dot(0, 1), &["1"]);
    }
    told.write(0, &[1], &[add("n", 2)]).reread(1, &[1]);
    told.write(1, &[1], &[Wish::RemoveRow("n".to_owned(), COUNTER)]);
    told
}

#[test]
fn a_counter_may_be_off_by_what_a_fold_can_have_brought_back_and_by_no_more() {
    let reads = |told: &mut Told, sum| {
        told.read(1, &[2, 1], &[("n", COUNTER, Seen::Counter(sum))]);
        std::mem::replace(&mut told.verdict, Ok(()))
    };
    for (sum, fits) in [(1, false), (2, true), (3, true), (4, false)] {
        let verdict = reads(&mut reset_between(false), sum);
        assert_eq!(verdict.is_ok(), fits, "{sum}: {verdict:?}");
    }
    for (sum, fits) in [(2, true), (3, false)] {
        let verdict = reads(&mut reset_between(true), sum);
        assert_eq!(verdict.is_ok(), fits, "{sum}, shared: {verdict:?}");
    }
}

#[test]
fn only_more_than_sixteen_increments_that_peers_know_are_folded() {
    for (count, folded) in [(16, false), (17, true)] {
        let mut told = Told::new(2);
        for before in 0..count {
            told.write(0, &[before], &[add("n", 1)]);
        }
        told.reread(1, &[count]).write(1, &[count], &[Wish::Remove("n".to_owned())]);
        told.write(0, &[count], &[add("n", 1)]);
        let all = i64::try_from(count + 1).expect("it is small");
        told.read(0, &[count + 1, 1], &[("n", COUNTER, Seen::Counter(all))]);
        assert_eq!(told.verdict.is_ok(), folded, "{:?}", told.verdict);
    }
}

#[test]
fn a_fold_does_not_bring_back_what_its_own_writer_had_seen_removed() {
    let mut told = Told::new(1);
    told.write(0, &[0], &[add("n", 1)]).write(0, &[1], &[Wish::Remove("n".to_owned())]);
    told.write(0, &[2], &[add("n", 2)]);
    told.read(0, &[3], &[("n", COUNTER, Seen::Counter(3))]).bad(Checker::Oracle, "must be 2");
}

// Bounds, corruption, liveness.

#[test]
fn a_gauge_stays_within_its_limit() {
    let measured = |value| {
        let mut told = Told::new(1);
        told.tell(0, &Observation::Measured(Gauge { name: "queue", value, limit: 8 }));
        told
    };
    measured(8).good();
    measured(9).bad(Checker::Bounds, "queue: 9");
}

#[test]
fn damage_may_be_reported_only_where_it_was_done_and_is_never_served() {
    let failed = Observation::OpenFailed { error: "checksum", damaged: true };
    let unread = Observation::ReadFailed { space: 0, error: "checksum", disk: true };
    for observation in [&failed, &unread] {
        let mut told = Told::new(1);
        told.tell(0, observation).bad(Checker::Corruption, "checksum");
        let mut told = Told::new(1);
        told.damage(0, Damage::BitRot).tell(0, observation).good();
    }
    let mut told = Told::new(1);
    told.checkers.disk_faults(0, true);
    told.checkers.disk_faults(0, false);
    told.tell(0, &unread).good();
    for damage in [Damage::BitRot, Damage::Misdirected] {
        let mut told = Told::new(1);
        told.write(0, &[0], &[insert("a")]).damage(0, damage).good();
        told.read(0, &[1], &[("b", ELEMENT, Seen::Element)]).bad(Checker::Corruption, "oracle");
    }
}

#[test]
fn every_write_is_answered() {
    let mut told = Told::new(1);
    told.write(0, &[0], &[insert("a")]).good();
    told.checkers.all_answered(9).expect("all were");
    told.checkers.began_write(9, 0, 0);
    let missing = told.checkers.all_answered(10).expect_err("one was not");
    assert_eq!(missing.checker, Checker::Liveness);
}

#[test]
fn in_the_end_all_members_have_all_that_any_of_them_promised() {
    let mut told = Told::new(3);
    told.write(0, &[0], &[insert("a")]).write(1, &[0], &[insert("b")]).good();
    let all = |counts: &[&[u64]]| {
        counts
            .iter()
            .enumerate()
            .map(|(node, counts)| (node, vec![(0, version(counts))]))
            .collect::<Vec<_>>()
    };
    told.checkers.converged(9, &all(&[&[1, 1], &[1, 1], &[1, 1]])).expect("they have");
    for counts in [[&[1, 1][..], &[1, 1], &[1, 0]], [&[1, 0], &[1, 0], &[1, 0]]] {
        let behind = told.checkers.converged(9, &all(&counts)).expect_err("one commit is missing");
        assert_eq!((behind.checker, behind.what.contains("02000000:1")), (Checker::Liveness, true));
    }
}
