//! What of a world's story is drawn, and what is left out.

use std::collections::BTreeMap;

use super::glyphs::GLYPHS;
use super::layout::{Scale, text_width, thinned};
use crate::history::{NodeIndex, Violation};
use crate::report::links::{Outage, name, outages};
use crate::report::summary::{counted, grouped};
use crate::report::timeline::mark_name;
use crate::trace::{Mark, Trace, TraceEvent};

/// How many messages are drawn at most, how many of them lost ones, and how many just before a violation.
pub(super) const MESSAGES_MAX: usize = 1_200;
const LOST_MAX: usize = 400;
pub(super) const LAST_MAX: usize = 200;
/// How many things about the world as a whole are drawn at most.
const WORLD_MAX: usize = 30;

/// One message, as it is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) from: NodeIndex,
    pub(super) to: NodeIndex,
    pub(super) sent_ms: u64,
    pub(super) arrived_ms: Option<u64>,
    pub(super) text: &'a str,
}

/// Something at a replica, as it is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) ms: u64,
    pub(super) node: NodeIndex,
    pub(super) text: &'a str,
}

/// Whether a process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    Still,
    Gone,
}

impl Life {
    pub(super) fn class(self) -> &'static str {
        match self {
            Life::Alive => "alive",
            Life::Still => "still",
            Life::Gone => "gone",
        }
    }
}

/// What will be drawn, sorted by kind, and what is left out.
pub(super) struct Story<'a> {
    pub(super) names: Vec<String>,
    pub(super) messages: Vec<Message<'a>>,
    pub(super) spots: Vec<(Mark, Vec<Spot<'a>>)>,
    pub(super) lives: Vec<Vec<(u64, Life)>>,
    pub(super) world: Vec<(u64, &'a str)>,
    pub(super) outages: Vec<Outage>,
    pub(super) violation: Option<&'a Violation>,
    pub(super) end_ms: u64,
    pub(super) left_out: Vec<String>,
}

impl<'a> Story<'a> {
    pub(super) fn new(trace: &'a Trace, violation: Option<&'a Violation>) -> Self {
        let mut messages = Vec::new();
        let mut spots: BTreeMap<Mark, Vec<Spot<'a>>> = BTreeMap::new();
        let mut world = Vec::new();
        let mut end_ms = violation.map_or(0, |it| it.at_ms);
        let mut nodes = trace.nodes.len();
        for event in &trace.events {
            match event {
                TraceEvent::At { ms, node, mark, text } => {
                    spots.entry(*mark).or_default().push(Spot { ms: *ms, node: *node, text });
                    (end_ms, nodes) = (end_ms.max(*ms), nodes.max(node + 1));
                }
                TraceEvent::Message { from, to, sent_ms, arrived_ms, text } => {
                    let (from, to, sent_ms, arrived_ms) = (*from, *to, *sent_ms, *arrived_ms);
                    messages.push(Message { from, to, sent_ms, arrived_ms, text });
                    let last_ms = arrived_ms.unwrap_or(sent_ms).max(sent_ms);
                    (end_ms, nodes) = (end_ms.max(last_ms), nodes.max(from + 1).max(to + 1));
                }
                TraceEvent::Link { from, to, from_ms, until_ms, .. } => {
                    let last_ms = until_ms.unwrap_or(*from_ms);
                    (end_ms, nodes) = (end_ms.max(last_ms), nodes.max(from + 1).max(to + 1));
                }
                TraceEvent::World { ms, text } => {
                    world.push((*ms, text.as_str()));
                    end_ms = end_ms.max(*ms);
                }
            }
        }
        let mut story = Self {
            names: (0..nodes).map(|node| name(&trace.nodes, node)).collect(),
            messages,
            lives: lives(trace, nodes),
            spots: spots.into_iter().collect(),
            world,
            outages: outages(trace),
            violation,
            end_ms,
            left_out: Vec::new(),
        };
        story.thin();
        story
    }

    /// Leaves out what would make the picture a thicket.
    fn thin(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        let before = messages.len();
        self.messages = thinned_messages(messages, self.violation);
        self.leave_out(before, self.messages.len(), "message");
        if let (Some(out), Some(_)) = (self.left_out.last_mut(), self.violation) {
            out.push_str(&format!(" (none of the last {LAST_MAX} before the violation)"));
        }
        for place in 0..self.spots.len() {
            let (mark, all) = &mut self.spots[place];
            let glyph = GLYPHS.iter().find(|glyph| glyph.mark == *mark);
            let (mark, before) = (*mark, all.len());
            all.sort_by_key(|spot| spot.ms);
            *all = thinned(std::mem::take(all), glyph.map_or(0, |glyph| glyph.count_max));
            let after = all.len();
            self.leave_out(before, after, &format!("\"{}\" sign", mark_name(mark)));
        }
        self.world.sort_by_key(|(ms, _)| *ms);
        let (mut kept, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.world).into_iter().partition(|(_, text)| is_heal(text));
        let before = kept.len() + rest.len();
        kept.truncate(WORLD_MAX);
        let room = WORLD_MAX - kept.len();
        kept.extend(thinned(rest, room));
        kept.sort_by_key(|(ms, _)| *ms);
        self.leave_out(before, kept.len(), "world event");
        self.world = kept;
    }

    fn leave_out(&mut self, before: usize, after: usize, noun: &str) {
        if after < before {
            let out = grouped((before - after) as u64);
            self.left_out.push(format!("{out} of {}", counted(before as u64, noun)));
        }
    }

    pub(super) fn scale(&self) -> Scale {
        let longest = self.names.iter().map(|name| text_width(name)).fold(40.0, f64::max);
        let drawn = self.messages.len() + self.spots.iter().map(|it| it.1.len()).sum::<usize>();
        let rows = self.names.len().max(3) as f64;
        Scale {
            left: 24.0 + longest.min(150.0) * 1.1,
            width: (drawn as f64 * 22.0 / rows).clamp(1_000.0, 3_000.0).round(),
            // A little room after the last of it.
            end_ms: self.end_ms.saturating_add(self.shown_ms() / 60).max(1),
            leap: self.leap(),
        }
    }

    /// How much time there is beside the leap, in milliseconds.
    fn shown_ms(&self) -> u64 {
        self.end_ms - self.leap().map_or(0, |(from_ms, until_ms)| until_ms - from_ms)
    }

    /// The longest time in which nothing happens, if it is longer than all the rest.
    fn leap(&self) -> Option<(u64, u64)> {
        let spots = self.spots.iter().flat_map(|(_, spots)| spots.iter().map(|spot| spot.ms));
        let world = self.world.iter().map(|(ms, _)| *ms);
        let mut times: Vec<u64> = spots.chain(world).chain([0, self.end_ms]).collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| (pair[0], pair[1]));
        let longest = gaps.max_by_key(|(from_ms, until_ms)| until_ms - from_ms)?;
        (longest.1 - longest.0 > self.end_ms / 2).then_some(longest)
    }

    /// How far two replicas' lines are apart.
    pub(super) fn pitch(&self) -> f64 {
        match self.names.len() {
            0..=8 => 46.0,
            9..=24 => 36.0,
            25..=60 => 30.0,
            _ => 26.0,
        }
    }
}

/// For each replica, from when on its process was how.
pub(super) fn lives(trace: &Trace, nodes: usize) -> Vec<Vec<(u64, Life)>> {
    let mut changes: Vec<Vec<(u64, Mark)>> = vec![Vec::new(); nodes];
    for event in &trace.events {
        if let TraceEvent::At {
            ms, node, mark: mark @ (Mark::Up | Mark::Down | Mark::Pause), ..
        } = event
        {
            changes[*node].push((*ms, *mark));
        }
    }
    let live = |mut changes: Vec<(u64, Mark)>| {
        changes.sort_by_key(|(ms, _)| *ms);
        // Whoever first comes up was not there before.
        let comes = changes.first().is_some_and(|(_, mark)| *mark == Mark::Up);
        let mut lives = vec![(0, if comes { Life::Gone } else { Life::Alive })];
        for (ms, mark) in changes {
            let now = lives.last().map_or(Life::Alive, |(_, life)| *life);
            let next = match (mark, now) {
                (Mark::Up, _) | (Mark::Pause, Life::Still) => Life::Alive,
                (Mark::Pause, Life::Alive) => Life::Still,
                _ => Life::Gone,
            };
            lives.push((ms, next));
        }
        lives
    };
    changes.into_iter().map(live).collect()
}

/// The messages just before a violation, some of the lost ones, and of the others as many as there is room for.
fn thinned_messages<'a>(
    mut messages: Vec<Message<'a>>,
    violation: Option<&Violation>,
) -> Vec<Message<'a>> {
    messages.sort_by_key(|message| message.sent_ms);
    if messages.len() <= MESSAGES_MAX {
        return messages;
    }
    let last = violation.map_or(0, |violation| {
        let before = messages.partition_point(|message| message.sent_ms <= violation.at_ms);
        messages[..before].rotate_right(before.min(LAST_MAX));
        before.min(LAST_MAX)
    });
    let rest = messages.split_off(last);
    let (arrived, lost): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|message| message.arrived_ms.is_some());
    messages.extend(thinned(lost, LOST_MAX));
    let room = MESSAGES_MAX - messages.len();
    messages.extend(thinned(arrived, room));
    messages.sort_by_key(|message| message.sent_ms);
    messages
}

/// Whether a note about the world tells that everything heals.
pub(super) fn is_heal(text: &str) -> bool {
    text.to_lowercase().contains("heal")
}

/// Stretches of the picture, and which share of all links is cut in each.
pub(super) fn cut_shares(story: &Story<'_>, scale: &Scale) -> Vec<(f64, f64, f64)> {
    const STEP: f64 = 2.0;
    let mut changes: Vec<(u64, bool, (NodeIndex, NodeIndex))> = Vec::new();
    for outage in story.outages.iter().filter(|it| is_cut(it)) {
        let until_ms = outage.until_ms.unwrap_or(scale.end_ms).max(outage.from_ms);
        for pair in &outage.pairs {
            changes.push((outage.from_ms, true, *pair));
            changes.push((until_ms, false, *pair));
        }
    }
    changes.sort_unstable();
    let count = story.names.len();
    let links = count.saturating_mul(count.saturating_sub(1)).max(1) as f64;
    // The picture in columns of a few pixels: in each the largest share that it sees.
    let mut columns = vec![0.0_f64; (scale.width / STEP) as usize + 1];
    let column = |ms: u64| ((scale.x(ms) - scale.left) / STEP) as usize;
    let mut cut: BTreeMap<(NodeIndex, NodeIndex), usize> = BTreeMap::new();
    let mut since_ms = 0;
    for (ms, begins, pair) in changes {
        if ms > since_ms {
            let share = cut.len() as f64 / links;
            let (first, last) = (column(since_ms), column(ms));
            columns[first..=last].iter_mut().for_each(|it| *it = it.max(share));
            since_ms = ms;
        }
        let times = cut.entry(pair).or_default();
        *times = if begins { *times + 1 } else { times.saturating_sub(1) };
        if *times == 0 {
            cut.remove(&pair);
        }
    }
    let mut stretches: Vec<(f64, f64, f64)> = Vec::new();
    for (place, share) in columns.into_iter().enumerate() {
        let share = (share.min(1.0) * 20.0).ceil() / 20.0;
        let (left, right) =
            (scale.left + place as f64 * STEP, scale.left + (place + 1) as f64 * STEP);
        match stretches.last_mut() {
            Some(last) if last.2 == share => last.1 = right,
            _ => stretches.push((left, right, share)),
        }
    }
    stretches.retain(|it| it.2 > 0.0);
    stretches
}

/// Whether the links carry nothing at all; else they have faults.
pub(super) fn is_cut(outage: &Outage) -> bool {
    outage.text.to_lowercase().contains("cut")
}
