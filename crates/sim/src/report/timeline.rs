//! A world's story as lines of text, in the order of its clock.

use std::fmt::Write as _;

use serde::Serialize;

use super::links::{name, outages};
use crate::trace::{Mark, Trace, TraceEvent};

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When, in virtual milliseconds.
    pub ms: u64,
    /// Which replica, or `world`.
    pub replica: String,
    /// What sort of thing.
    pub mark: &'static str,
    /// In words.
    pub text: String,
}

/// The lines of a story, by time, and otherwise in the order in which they were noted. Links come first among
/// those of one time. Messages are left out unless asked for.
pub fn lines(trace: &Trace, with_messages: bool) -> Vec<Line> {
    let mut lines = links(trace);
    for event in &trace.events {
        lines.extend(line(event, &trace.nodes, with_messages));
    }
    lines.sort_by_key(|line| line.ms);
    lines
}

/// The lines as text, in columns: time, replica, mark, words.
pub fn text(lines: &[Line]) -> String {
    let times: Vec<String> = lines.iter().map(|line| seconds(line.ms)).collect();
    let time_width = times.iter().map(String::len).max().unwrap_or(0);
    let name_width = lines.iter().map(|line| line.replica.chars().count()).max().unwrap_or(0);
    let mark_width = lines.iter().map(|line| line.mark.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, time) in lines.iter().zip(times) {
        let (replica, mark) = (one_line(&line.replica), line.mark);
        let words = one_line(&line.text);
        let columns =
            format!("{time:>time_width$}  {replica:<name_width$}  {mark:<mark_width$}  {words}");
        // Writing into a string does not fail.
        let _ = writeln!(text, "{}", columns.trim_end());
    }
    text
}

/// A time as seconds with all its milliseconds.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// What a mark is called.
pub(super) fn mark_name(mark: Mark) -> &'static str {
    match mark {
        Mark::Up => "up",
        Mark::Down => "down",
        Mark::Pause => "pause",
        Mark::Write => "write",
        Mark::Refused => "refused",
        Mark::Applied => "applied",
        Mark::Read => "read",
        Mark::Fault => "fault",
        Mark::Connected => "connected",
        Mark::Disconnected => "disconnected",
        Mark::Violation => "VIOLATION",
    }
}

fn links(trace: &Trace) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |ms, text| {
        lines.push(Line { ms, replica: "world".to_owned(), mark: "link", text });
    };
    for outage in outages(trace) {
        let what = format!("{}: {}", outage.label(&trace.nodes), outage.text);
        match outage.until_ms {
            Some(until_ms) => {
                add(outage.from_ms, format!("{what}, until {}", seconds(until_ms)));
                add(until_ms, format!("{what}, over"));
            }
            None => add(outage.from_ms, format!("{what}, to the end")),
        }
    }
    lines
}

fn line(event: &TraceEvent, nodes: &[String], with_messages: bool) -> Option<Line> {
    match event {
        TraceEvent::At { ms, node, mark, text } => Some(Line {
            ms: *ms,
            replica: name(nodes, *node),
            mark: mark_name(*mark),
            text: text.clone(),
        }),
        TraceEvent::World { ms, text } => {
            Some(Line { ms: *ms, replica: "world".to_owned(), mark: "world", text: text.clone() })
        }
        TraceEvent::Message { from, to, sent_ms, arrived_ms, text } if with_messages => {
            let fate = match arrived_ms {
                Some(ms) => format!("arrives at {}", seconds(*ms)),
                None => "never read".to_owned(),
            };
            Some(Line {
                ms: *sent_ms,
                replica: name(nodes, *from),
                mark: "message",
                text: format!("to {}: {text}, {fate}", name(nodes, *to)),
            })
        }
        TraceEvent::Message { .. } | TraceEvent::Link { .. } => None,
    }
}

/// Texts may hold what others wrote: it must not break lines, or speak to the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let at =
            |ms, node, mark, text: &str| TraceEvent::At { ms, node, mark, text: text.to_owned() };
        let cut = |from, to| TraceEvent::Link {
            from,
            to,
            from_ms: 900,
            until_ms: Some(12_345),
            text: "cut".to_owned(),
        };
        Trace {
            nodes: vec!["phone".to_owned(), "pc".to_owned()],
            events: vec![
                at(1_000, 1, Mark::Write, "puts\na\u{1b}[31m"),
                cut(0, 1),
                cut(1, 0),
                at(0, 0, Mark::Up, "first"),
                at(0, 1, Mark::Up, "second"),
                TraceEvent::Message {
                    from: 1,
                    to: 0,
                    sent_ms: 1_001,
                    arrived_ms: None,
                    text: "commits".to_owned(),
                },
                TraceEvent::World { ms: 12_345, text: "heals".to_owned() },
            ],
        }
    }

    #[test]
    fn a_timeline_is_sorted_stable_and_aligned() {
        let text = text(&lines(&trace(), false));
        let expected = [
            " 0.000  phone  up     first",
            " 0.000  pc     up     second",
            " 0.900  world  link   phone | pc: cut, until 12.345",
            " 1.000  pc     write  puts a [31m",
            "12.345  world  link   phone | pc: cut, over",
            "12.345  world  world  heals",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn messages_come_if_asked_for() {
        let text = text(&lines(&trace(), true));
        assert!(text.contains(" 1.001  pc     message  to phone: commits, never read\n"), "{text}");
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn an_empty_story_has_no_lines() {
        assert_eq!(text(&lines(&Trace::default(), true)), "");
    }
}
