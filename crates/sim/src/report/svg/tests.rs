use super::story::{LAST_MAX, MESSAGES_MAX, lives};
use super::*;
use crate::history::Checker;
use crate::random::Random;
use crate::trace::TraceEvent;

/// A world with partitions, crashes, pauses and lost messages, of any size.
fn world(nodes: usize, messages: usize, end_ms: u64) -> Trace {
    let mut random = Random::labelled(5, "picture");
    let mut events = Vec::new();
    let mut at = |ms, node, mark, text: &str| {
        events.push(TraceEvent::At { ms, node, mark, text: text.to_owned() });
    };
    for node in 0..nodes {
        at(random.below(200), node, Mark::Up, "opens an empty store");
    }
    for _ in 0..messages / 4 {
        let (ms, node) = (random.within(200..=end_ms), random.index(nodes));
        let mark = *random
            .pick(&[
                Mark::Write,
                Mark::Write,
                Mark::Write,
                Mark::Applied,
                Mark::Applied,
                Mark::Applied,
                Mark::Applied,
                Mark::Read,
                Mark::Refused,
                Mark::Fault,
                Mark::Connected,
                Mark::Disconnected,
            ])
            .unwrap();
        at(ms, node, mark, "puts <a> & \"b\" into cart/3");
    }
    for node in (0..nodes).step_by(3) {
        let ms = random.within(end_ms / 4..=end_ms / 2);
        at(ms, node, Mark::Down, "power cut");
        at(ms + end_ms / 10, node, Mark::Up, "recovers 12 commits");
    }
    for node in (1..nodes).step_by(4) {
        let ms = random.within(end_ms / 5..=end_ms / 2);
        at(ms, node, Mark::Pause, "stands still");
        at(ms + end_ms / 15, node, Mark::Pause, "goes on");
    }
    for _ in 0..messages {
        let (from, sent_ms) = (random.index(nodes), random.within(200..=end_ms));
        let to = (from + 1 + random.index(nodes - 1)) % nodes;
        let delay_ms = random.wait_ms(60.0) + 20;
        let arrived_ms = (!random.chance(0.1)).then_some(sent_ms + delay_ms);
        events.push(TraceEvent::Message {
            from,
            to,
            sent_ms,
            arrived_ms,
            text: "commits".to_owned(),
        });
    }
    for _ in 0..4 {
        let from_ms = random.within(500..=end_ms / 2);
        let until_ms = Some(from_ms + random.within(500..=end_ms / 4));
        let side = random.within(1..=nodes as u64 / 2) as usize;
        for a in 0..side {
            for b in side..nodes {
                for (from, to) in [(a, b), (b, a)] {
                    let text = "cut".to_owned();
                    events.push(TraceEvent::Link { from, to, from_ms, until_ms, text });
                }
            }
        }
    }
    for _ in 0..nodes {
        let (from, from_ms) = (random.index(nodes), random.within(100..=end_ms / 2));
        let to = (from + 1) % nodes;
        let until_ms = Some(from_ms + 700);
        let text = "loss 20%, 80 ms".to_owned();
        events.push(TraceEvent::Link { from, to, from_ms, until_ms, text });
    }
    let heal_ms = end_ms * 7 / 10;
    events.push(TraceEvent::World { ms: heal_ms, text: "everything heals".to_owned() });
    events.push(TraceEvent::World { ms: heal_ms + 400, text: "the workload ends".to_owned() });
    Trace { nodes: (0..nodes).map(|node| format!("replica {node}")).collect(), events }
}

fn violation(node: usize, at_ms: u64) -> Violation {
    let what = "cart/3 reads <1> & not 2".to_owned();
    Violation { checker: Checker::Oracle, at_ms, node: Some(node), what }
}

/// Tags open and close in pairs, and nothing unescaped is between them.
fn assert_well_formed(picture: &str) {
    let mut open = Vec::new();
    let mut rest = picture;
    while let Some(begin) = rest.find('<') {
        let end = begin + rest[begin..].find('>').unwrap();
        let tag = &rest[begin + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.to_owned()));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap().to_owned());
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    for (place, _) in picture.match_indices('&') {
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"];
        assert!(entities.iter().any(|it| picture[place..].starts_with(it)));
    }
}

#[test]
fn a_picture_shows_what_happened() {
    let trace = world(5, 60, 8_000);
    let violation = violation(2, 7_000);
    let picture = draw(&trace, "World <17>", "5 replicas & some faults", Some(&violation));
    assert_well_formed(&picture);
    assert_eq!(
        picture.matches("class=\"m\"").count() + picture.matches("class=\"l\"").count(),
        60 + 2
    );
    for part in [
        "World &lt;17&gt;",
        "5 replicas &amp; some faults",
        "replica 4",
        "class=\"heal\"",
        "class=\"fatal\"",
        "class=\"shade\"",
        "class=\"still\"",
        "class=\"gone\"",
        "cut: replica 0",
        "cart/3 reads &lt;1&gt; &amp; not 2",
        "violation: oracle",
        "#violation",
        "loss 20%, 80 ms",
    ] {
        assert!(picture.contains(part), "{part}");
    }
    assert!(!picture.contains("Left out"), "nothing is left out of a small world");
    assert!(!picture.contains("<script"));
}

#[test]
fn a_large_world_stays_a_small_file_and_says_what_is_left_out() {
    let trace = world(20, 5_000, 60_000);
    let picture = draw(&trace, "World 1", "20 replicas", Some(&violation(3, 50_000)));
    assert_well_formed(&picture);
    assert!(picture.len() < 1_500_000, "{}", picture.len());
    assert!(picture.contains("Left out to keep this readable: 3,800 of 5,000 messages (none of"));
    let drawn = picture.matches("class=\"m\"").count() + picture.matches("class=\"l\"").count();
    assert_eq!(drawn, MESSAGES_MAX + 2, "and two in the legend");
}

#[test]
fn what_came_just_before_a_violation_is_never_left_out() {
    let trace = world(20, 5_000, 60_000);
    let violation = violation(3, 30_000);
    let story = Story::new(&trace, Some(&violation));
    let mut all: Vec<u64> = Vec::new();
    for event in &trace.events {
        if let TraceEvent::Message { sent_ms, .. } = event {
            all.extend((*sent_ms <= 30_000).then_some(*sent_ms));
        }
    }
    all.sort_unstable();
    let kept: Vec<u64> =
        story.messages.iter().map(|it| it.sent_ms).filter(|it| *it <= 30_000).collect();
    assert_eq!(all[all.len() - LAST_MAX..], kept[kept.len() - LAST_MAX..]);
}

#[test]
fn worlds_without_anything_can_be_drawn() {
    assert_well_formed(&draw(&Trace::default(), "", "", None));
    let strange = Trace {
        nodes: Vec::new(),
        events: vec![
            TraceEvent::At { ms: 0, node: 3, mark: Mark::Down, text: String::new() },
            TraceEvent::Link {
                from: 0,
                to: 9,
                from_ms: 7,
                until_ms: Some(3),
                text: "cut".to_owned(),
            },
            TraceEvent::Link {
                from: 0,
                to: 1,
                from_ms: u64::MAX,
                until_ms: None,
                text: "cut".to_owned(),
            },
        ],
    };
    assert_well_formed(&draw(&strange, "strange", "", Some(&violation(70, u64::MAX))));
}

#[test]
fn a_process_is_there_between_its_marks() {
    let at = |ms, mark| TraceEvent::At { ms, node: 0, mark, text: String::new() };
    let events = vec![
        at(90, Mark::Up),
        at(10, Mark::Up),
        at(50, Mark::Pause),
        at(30, Mark::Pause),
        at(60, Mark::Down),
        at(70, Mark::Pause),
    ];
    let lives = lives(&Trace { nodes: Vec::new(), events }, 2);
    let expected = [
        (0, Life::Gone),
        (10, Life::Alive),
        (30, Life::Still),
        (50, Life::Alive),
        (60, Life::Gone),
        (70, Life::Gone),
        (90, Life::Alive),
    ];
    assert_eq!(lives[0], expected);
    assert_eq!(lives[1], [(0, Life::Alive)]);
}

#[test]
fn shades_tell_how_much_is_cut() {
    let link = |from, to, from_ms| TraceEvent::Link {
        from,
        to,
        from_ms,
        until_ms: Some(600),
        text: "cut".to_owned(),
    };
    let nodes = vec!["a".to_owned(), "b".to_owned()];
    let events = vec![link(0, 1, 200), link(1, 0, 400), link(1, 0, 400)];
    let trace = Trace { nodes, events };
    let story = Story::new(&trace, None);
    let scale = Scale { left: 0.0, width: 1_000.0, end_ms: 1_000, leap: None };
    assert_eq!(cut_shares(&story, &scale), [(200.0, 400.0, 0.5), (400.0, 602.0, 1.0)]);
}
