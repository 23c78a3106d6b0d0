//! A world as a picture: time goes to the right, and each replica is a line. It is a file of its own, without
//! scripts, in light or dark as the viewer likes; what things are is said when the pointer rests on them.

mod glyphs;
mod layout;
mod story;

use std::fmt::{self, Write as _};

use self::glyphs::{GLYPHS, style_and_shapes};
use self::layout::{Lanes, Scale, escaped, shortened, text_width, wrapped};
use self::story::{Life, Story, cut_shares, is_cut, is_heal};
use super::links::Outage;
use super::summary::{counted, grouped};
use super::timeline::{mark_name, seconds};
use crate::history::{NodeIndex, Violation};
use crate::trace::{Mark, Trace};

/// How many rows of labels there are for them, and for links that are out of order.
const WORLD_LANES: usize = 6;
const LINK_LANES: usize = 14;
/// How many outages are looked at for those rows. The largest come first.
const OUTAGES_MAX: usize = 400;
/// How many letters of a label are shown, and of what is said when the pointer rests on something.
const LABEL_LETTERS: usize = 56;
const TITLE_LETTERS: usize = 200;
/// The height of a row of labels.
const LANE: f64 = 16.0;

/// Draws a story. `title` and `plan` go above it; `violation` is marked in it.
///
/// Of very many things of one sort some are left out, and the picture says how many.
pub fn draw(trace: &Trace, title: &str, plan: &str, violation: Option<&Violation>) -> String {
    let story = Story::new(trace, violation);
    let scale = story.scale();
    let mut picture = Picture { story: &story, scale, body: String::new(), y: 30.0 };
    picture.header(title, plan);
    picture.link_lanes();
    picture.rows();
    picture.legend();
    picture.finish(title)
}

/// A line through all rows for something that concerns the world as a whole.
struct Flag {
    ms: u64,
    /// `None` if there is no room for it.
    label: Option<String>,
    about: String,
    /// Of the line and of the label.
    classes: [&'static str; 2],
    /// Where the line begins.
    y: f64,
}

impl Flag {
    /// Whether its label is to the left of its line, for want of room on the right.
    fn leftwards(&self, scale: &Scale) -> bool {
        let width = self.label.as_deref().map_or(0.0, text_width) * 1.12;
        scale.x(self.ms) + width > scale.right() + 10.0
    }
}

/// The picture as it grows, from top to bottom.
struct Picture<'a> {
    story: &'a Story<'a>,
    scale: Scale,
    body: String,
    y: f64,
}

impl Picture<'_> {
    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing into a string does not fail.
        let _ = self.body.write_fmt(text);
        self.body.push('\n');
    }

    fn full_width(&self) -> f64 {
        self.scale.right() + 24.0
    }

    fn header(&mut self, title: &str, plan: &str) {
        let title = escaped(&shortened(title, 120));
        self.put(format_args!(r#"<text class="title" x="20" y="30">{title}</text>"#));
        let width = self.full_width().min(1_100.0) - 40.0;
        self.y += 4.0;
        for line in wrapped(plan, width, 14) {
            self.paragraph_line("soft", &line);
        }
        if let Some(violation) = self.story.violation {
            self.y += 4.0;
            for line in wrapped(&format!("Violation: {violation}"), width * 0.9, 4) {
                self.paragraph_line("bad", &line);
            }
        }
        if !self.story.left_out.is_empty() {
            self.y += 4.0;
            let out =
                format!("Left out to keep this readable: {}.", self.story.left_out.join(", "));
            for line in wrapped(&out, width, 4) {
                self.paragraph_line("soft", &line);
            }
        }
        self.y += 14.0;
    }

    fn paragraph_line(&mut self, class: &str, line: &str) {
        self.y += LANE;
        let (y, line) = (Px(self.y), escaped(line));
        self.put(format_args!(r#"<text class="{class}" x="20" y="{y}">{line}</text>"#));
    }

    /// A bar for each outage, the largest first as long as there is room.
    fn link_lanes(&mut self) {
        let story = self.story;
        let length =
            |it: &Outage| it.until_ms.unwrap_or(self.scale.end_ms).saturating_sub(it.from_ms);
        let mut largest: Vec<&Outage> = story.outages.iter().collect();
        largest
            .sort_by_key(|it| std::cmp::Reverse(length(it).saturating_mul(it.pairs.len() as u64)));
        largest.truncate(OUTAGES_MAX);
        let mut lanes = Lanes::new(LINK_LANES);
        let (top, mut drawn) = (self.y, 0);
        for outage in largest {
            let text = format!("{}: {}", outage.text, outage.label(&story.names));
            let short = shortened(&text, LABEL_LETTERS);
            let left = self.scale.x(outage.from_ms);
            let right = self.scale.x(outage.until_ms.unwrap_or(self.scale.end_ms)).max(left + 2.0);
            let leftwards = left + text_width(&short) > self.full_width();
            let begin = if leftwards { left.min(right - text_width(&short)) } else { left };
            let end = right.max(begin + text_width(&short));
            let Some(lane) = lanes.place(begin, end + 8.0) else { continue };
            drawn += 1;
            let y = top + LANE * lane as f64;
            let until = match outage.until_ms {
                Some(until_ms) => format!("until {}", seconds(until_ms)),
                None => "to the end".to_owned(),
            };
            let title = hint(&format!("{} {until}: {text}", seconds(outage.from_ms)));
            let class = if is_cut(outage) { "cut" } else { "slow" };
            let (x, width, bar) = (Px(left), Px(right - left), Px(y));
            self.put(format_args!(
                r#"<rect class="{class}" x="{x}" y="{bar}" width="{width}" height="14" rx="2">{title}</rect>"#
            ));
            let (x, anchor) = if leftwards { (right - 3.0, "end") } else { (left + 3.0, "start") };
            let (x, y, short) = (Px(x), Px(y + 11.0), escaped(&short));
            self.put(format_args!(
                r#"<text x="{x}" y="{y}" text-anchor="{anchor}" pointer-events="none">{short}</text>"#
            ));
        }
        if lanes.count() > 0 {
            let y = Px(top + 11.0);
            self.put(format_args!(r#"<text class="soft" x="20" y="{y}">links</text>"#));
        }
        self.y += LANE * lanes.count() as f64;
        if drawn < story.outages.len() {
            let out = grouped((story.outages.len() - drawn) as u64);
            let all = counted(story.outages.len() as u64, "link outage");
            self.y += LANE;
            let (x, y) = (Px(self.scale.left), Px(self.y - 4.0));
            self.put(format_args!(
                r#"<text class="soft" x="{x}" y="{y}">{out} of {all} have no bar here</text>"#
            ));
        }
        self.y += 6.0;
    }

    /// The replicas' lines with everything that happens between them, and the clock above and below.
    fn rows(&mut self) {
        let flags = self.place_flags();
        let (top, pitch) = (self.y, self.story.pitch());
        let bottom = top + pitch * self.story.names.len() as f64;
        self.shades(top, bottom);
        self.lines(top);
        self.messages(top);
        self.flag_lines(&flags, bottom);
        self.clock(top, bottom);
        self.flag_labels(&flags);
        self.spots(top);
        self.y = bottom + 26.0;
    }

    fn line_y(&self, top: f64, node: NodeIndex) -> f64 {
        top + self.story.pitch() * (node as f64 + 0.5)
    }

    /// The darker, the more of the links are cut.
    fn shades(&mut self, top: f64, bottom: f64) {
        let (y, height) = (Px(top), Px(bottom - top));
        for (left, right, share) in cut_shares(self.story, &self.scale) {
            let (x, width, opacity) = (Px(left), Px(right - left), 0.05 + share * 0.2);
            let percent = (share * 100.0).round();
            self.put(format_args!(
                r#"<rect class="shade" x="{x}" y="{y}" width="{width}" height="{height}" opacity="{opacity:.3}"><title>about {percent}% of the links are cut</title></rect>"#
            ));
        }
    }

    fn clock(&mut self, top: f64, bottom: f64) {
        for ms in self.scale.ticks() {
            let (x, time) = (Px(self.scale.x(ms)), tick(ms));
            let (above, below, y1, y2) = (Px(top - 5.0), Px(bottom + 14.0), Px(top), Px(bottom));
            self.put(format_args!(
                r#"<path class="grid" d="M{x} {y1}V{y2}"/><text class="soft halo" x="{x}" y="{above}" text-anchor="middle">{time}</text><text class="soft" x="{x}" y="{below}" text-anchor="middle">{time}</text>"#
            ));
        }
        let (left, right) = (Px(self.scale.left), Px(self.scale.right()));
        for y in [Px(top), Px(bottom)] {
            self.put(format_args!(r#"<path class="axis" d="M{left} {y}H{right}"/>"#));
        }
    }

    fn lines(&mut self, top: f64) {
        let story = self.story;
        let (pitch, right) = (story.pitch(), self.full_width());
        for (node, name) in story.names.iter().enumerate() {
            let y = self.line_y(top, node);
            let hurt = story.violation.is_some_and(|it| it.node == Some(node));
            if hurt || node % 2 == 1 {
                let class = if hurt { "hurt" } else { "stripe" };
                let (y, width) = (Px(y - pitch / 2.0), Px(right));
                self.put(format_args!(
                    r#"<rect class="{class}" x="0" y="{y}" width="{width}" height="{pitch}"/>"#
                ));
            }
            let (x, base) = (Px(self.scale.left - 10.0), Px(y + 4.0));
            let (short, title) = (escaped(&shortened(name, 24)), hint(name));
            self.put(format_args!(
                r#"<text class="name" x="{x}" y="{base}" text-anchor="end">{short}{title}</text>"#
            ));
            let lives = &story.lives[node];
            let ends = lives.iter().skip(1).map(|(ms, _)| *ms).chain([self.scale.end_ms]);
            for ((from_ms, life), until_ms) in lives.iter().zip(ends) {
                if *from_ms < until_ms {
                    let (x1, x2, y) =
                        (Px(self.scale.x(*from_ms)), Px(self.scale.x(until_ms)), Px(y));
                    let class = life.class();
                    self.put(format_args!(r#"<path class="{class}" d="M{x1} {y}H{x2}"/>"#));
                }
            }
        }
    }

    fn messages(&mut self, top: f64) {
        let story = self.story;
        // The more there are, the less each of them counts.
        let per_stretch = story.messages.len() as f64 / self.scale.width * 1_000.0;
        let opacity = (300.0 / per_stretch.max(1.0)).clamp(0.55, 1.0);
        self.put(format_args!(r#"<g opacity="{opacity:.2}">"#));
        for message in &story.messages {
            let (x1, y1) = (self.scale.x(message.sent_ms), self.line_y(top, message.from));
            let y2 = self.line_y(top, message.to);
            let (from, to) = (&story.names[message.from], &story.names[message.to]);
            let about = format!("{} {from} → {to}: {}", seconds(message.sent_ms), message.text);
            match message.arrived_ms {
                Some(ms) => {
                    let title = hint(&format!("{about}, arrives at {}", seconds(ms)));
                    let (x1, y1, x2, y2) = (Px(x1), Px(y1), Px(self.scale.x(ms)), Px(y2));
                    self.put(format_args!(
                        r#"<path class="m" d="M{x1} {y1}L{x2} {y2}">{title}</path>"#
                    ));
                }
                None => {
                    // It ends on its way, with a cross.
                    let title = hint(&format!("{about}, never read"));
                    let way = (y2 - y1).signum() * (y2 - y1).abs().mul_add(0.25, 8.0);
                    let (x2, y2) = (x1 + 10.0, y1 + way);
                    let (x1, y1, x, y) = (Px(x1), Px(y1), Px(x2 - 2.5), Px(y2 - 2.5));
                    let (x2, y2) = (Px(x2), Px(y2));
                    self.put(format_args!(
                        r#"<path class="l" d="M{x1} {y1}L{x2} {y2}M{x} {y}l5 5m0 -5l-5 5">{title}</path>"#
                    ));
                }
            }
        }
        self.put(format_args!("</g>"));
    }

    /// Finds room for what happens to the world as a whole, and for the violation: first for what matters most.
    fn place_flags(&mut self) -> Vec<Flag> {
        let story = self.story;
        let violation = story.violation.map(|it| Flag {
            ms: it.at_ms,
            label: Some(format!("violation: {}", it.checker.name())),
            about: it.to_string(),
            classes: ["fatal", "bad"],
            y: 0.0,
        });
        let world = story.world.iter().map(|(ms, text)| Flag {
            ms: *ms,
            label: Some(shortened(text, LABEL_LETTERS)),
            about: (*text).to_owned(),
            classes: if is_heal(text) { ["heal", "good"] } else { ["world", "soft"] },
            y: 0.0,
        });
        let mut flags: Vec<Flag> = violation.into_iter().chain(world).collect();
        flags.sort_by_key(|flag| {
            ["fatal", "heal", "world"].iter().position(|it| *it == flag.classes[0])
        });

        let mut lanes = Lanes::new(WORLD_LANES);
        for flag in &mut flags {
            let width = flag.label.as_deref().map_or(0.0, text_width) * 1.12 + 12.0;
            let x = self.scale.x(flag.ms);
            let left = if flag.leftwards(&self.scale) { x - width } else { x };
            match lanes.place(left, left + width) {
                Some(lane) => flag.y = LANE * lane as f64,
                None => flag.label = None,
            }
        }
        let height = LANE * lanes.count() as f64;
        for flag in &mut flags {
            // The first row is the lowest, and lines without a label begin below all of them.
            let above = if flag.label.is_some() { flag.y + LANE } else { 0.0 };
            flag.y = self.y + height - above;
        }
        self.y += height + 18.0;
        flags
    }

    fn flag_lines(&mut self, flags: &[Flag], bottom: f64) {
        for Flag { ms, about, classes: [class, _], y, .. } in flags {
            let (x, y1, y2) = (Px(self.scale.x(*ms)), Px(*y), Px(bottom));
            let title = hint(&format!("{} {about}", seconds(*ms)));
            self.put(format_args!(r#"<path class="{class}" d="M{x} {y1}V{y2}">{title}</path>"#));
        }
    }

    fn flag_labels(&mut self, flags: &[Flag]) {
        for flag in flags {
            let Some(label) = &flag.label else { continue };
            let leftwards = flag.leftwards(&self.scale);
            let (side, anchor) = if leftwards { (-5.0, "end") } else { (5.0, "start") };
            let (x, y) = (Px(self.scale.x(flag.ms) + side), Px(flag.y + 11.0));
            let (class, label) = (flag.classes[1], escaped(label));
            let title = hint(&format!("{} {}", seconds(flag.ms), flag.about));
            self.put(format_args!(
                r#"<text class="{class} halo" x="{x}" y="{y}" text-anchor="{anchor}">{label}{title}</text>"#
            ));
        }
    }

    fn spots(&mut self, top: f64) {
        let story = self.story;
        for glyph in &GLYPHS {
            let spots = story.spots.iter().filter(|(mark, _)| *mark == glyph.mark);
            for spot in spots.flat_map(|(_, spots)| spots) {
                let about = format!("{}: {}", mark_name(glyph.mark), spot.text);
                self.spot(top, glyph.id, spot.ms, spot.node, &about);
            }
        }
        if let Some((violation, node)) = story.violation.and_then(|it| Some((it, it.node?)))
            && node < story.names.len()
        {
            self.spot(top, "violation", violation.at_ms, node, &violation.to_string());
        }
    }

    fn spot(&mut self, top: f64, id: &str, ms: u64, node: NodeIndex, about: &str) {
        let (x, y) = (Px(self.scale.x(ms)), Px(self.line_y(top, node)));
        let title = hint(&format!("{} {} {about}", seconds(ms), self.story.names[node]));
        self.put(format_args!(r##"<use href="#{id}" x="{x}" y="{y}">{title}</use>"##));
    }

    /// What the signs mean: those that there are.
    fn legend(&mut self) {
        let story = self.story;
        let mut items: Vec<(String, &str)> = Vec::new();
        let lived = |life| story.lives.iter().flatten().any(|it| it.1 == life);
        let line = |class| format!(r#"<path class="{class}" d="M-10 0H10"/>"#);
        for (life, words) in
            [(Life::Alive, "running"), (Life::Still, "standing still"), (Life::Gone, "not running")]
        {
            if lived(life) {
                items.push((line(life.class()), words));
            }
        }
        if story.messages.iter().any(|it| it.arrived_ms.is_some()) {
            items.push((r#"<path class="m" d="M-10 -5L10 5"/>"#.to_owned(), "message"));
        }
        if story.messages.iter().any(|it| it.arrived_ms.is_none()) {
            let lost = r#"<path class="l" d="M-8 -5L6 4M3.5 1.5l5 5m0 -5l-5 5"/>"#;
            items.push((lost.to_owned(), "message never read"));
        }
        for glyph in &GLYPHS {
            let violated = glyph.mark == Mark::Violation && story.violation.is_some();
            if violated
                || story.spots.iter().any(|(mark, spots)| *mark == glyph.mark && !spots.is_empty())
            {
                let sign = format!(r##"<use href="#{}" y="{}"/>"##, glyph.id, -glyph.middle);
                items.push((sign, glyph.legend));
            }
        }
        let bar = |class| {
            format!(r#"<rect class="{class}" x="-10" y="-6" width="20" height="12" rx="2"/>"#)
        };
        if story.outages.iter().any(is_cut) {
            items.push((bar("cut"), "links cut; the darker the band, the more of them"));
        }
        if story.outages.iter().any(|it| !is_cut(it)) {
            items.push((bar("slow"), "links with faults"));
        }
        if story.world.iter().any(|it| is_heal(it.1)) {
            items.push((r#"<path class="heal" d="M0 -8V8"/>"#.to_owned(), "healing"));
        }
        let mut x = self.scale.left;
        self.y += 12.0;
        for (sign, words) in items {
            let width = 34.0 + text_width(words) * 1.05;
            if x + width > self.full_width().min(1_400.0) {
                (x, self.y) = (self.scale.left, self.y + 24.0);
            }
            let (at, y) = (Px(x + 10.0), Px(self.y));
            self.put(format_args!(
                r#"<g transform="translate({at} {y})">{sign}<text x="16" y="4">{words}</text></g>"#
            ));
            x += width + 14.0;
        }
        self.y += 24.0;
    }

    fn finish(self, title: &str) -> String {
        let (width, height) = (Px(self.full_width()), Px(self.y));
        let mut picture = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">"#
        );
        picture.push('\n');
        let _ = writeln!(picture, "<title>{}</title>", escaped(title));
        picture.push_str(&style_and_shapes());
        picture.push_str("<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n");
        picture.push_str(&self.body);
        picture.push_str("</svg>\n");
        picture
    }
}

/// What is said when the pointer rests on something.
fn hint(text: &str) -> String {
    format!("<title>{}</title>", escaped(&shortened(text, TITLE_LETTERS)))
}

fn tick(ms: u64) -> String {
    let text = seconds(ms);
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A number of pixels, without digits that nobody sees.
#[derive(Clone, Copy)]
struct Px(f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        write!(f, "{tenths}")
    }
}

#[cfg(test)]
mod tests;
