//! Where things go: time to pixels, ticks, lanes of labels, and what has to be left out.

/// Pixels that a letter of a label takes, at most times.
const LETTER: f64 = 6.1;

/// Virtual time along the picture's width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Where time 0 is.
    pub(super) left: f64,
    /// How many pixels all of the time takes.
    pub(super) width: f64,
    /// When the picture ends.
    pub(super) end_ms: u64,
    /// A long time in which nothing happens, from when and until when, that is drawn as if it were short.
    pub(super) leap: Option<(u64, u64)>,
}

/// What part of the picture a leap takes.
const LEAP_SHARE: f64 = 0.04;

impl Scale {
    /// Where a time is. Times after the end are at the end.
    pub(super) fn x(&self, ms: u64) -> f64 {
        let end = self.end_ms.max(1);
        let ms = ms.min(end);
        let share = match self.leap {
            None => ms as f64 / end as f64,
            Some((from_ms, until_ms)) => {
                let drawn_ms = (end - (until_ms - from_ms)).max(1) as f64;
                let leapt = match ms {
                    _ if ms <= from_ms => 0.0,
                    _ if ms < until_ms => (ms - from_ms) as f64 / (until_ms - from_ms) as f64,
                    _ => 1.0,
                };
                let passed_ms = ms.min(from_ms) + ms.saturating_sub(until_ms);
                (1.0 - LEAP_SHARE) * passed_ms as f64 / drawn_ms + LEAP_SHARE * leapt
            }
        };
        self.left + self.width * share
    }

    /// How much of the time is drawn at its length, in milliseconds.
    fn drawn_ms(&self) -> u64 {
        self.end_ms - self.leap.map_or(0, |(from_ms, until_ms)| until_ms - from_ms)
    }

    /// Where the picture ends.
    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    /// Times to be named below the picture: round ones, and at least 90 pixels apart.
    pub(super) fn ticks(&self) -> Vec<u64> {
        let apart = 90.0 / self.width * self.drawn_ms() as f64;
        let mut step: u64 = 1;
        let mut factors = [2, 5, 10].iter().cycle();
        let mut unit: u64 = 1;
        while (step as f64) < apart {
            let factor = *factors.next().unwrap_or(&10);
            step = unit.saturating_mul(factor);
            if factor == 10 {
                unit = step;
            }
        }
        let Some((from_ms, until_ms)) = self.leap else {
            return (0..=self.end_ms / step).map(|count| count * step).collect();
        };
        let before = (0..=from_ms / step).map(|count| count * step);
        let behind = (until_ms.div_ceil(step)..=self.end_ms / step).map(|count| count * step);
        before.chain(behind).collect()
    }
}

/// Rows of things that must not overlap.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    taken: Vec<Vec<(f64, f64)>>,
    count_max: usize,
}

impl Lanes {
    /// At most so many rows.
    pub(super) fn new(count_max: usize) -> Self {
        Self { taken: Vec::new(), count_max }
    }

    /// The first row with room from `left` to `right`, which is taken now.
    pub(super) fn place(&mut self, left: f64, right: f64) -> Option<usize> {
        let free = |lane: &[(f64, f64)]| lane.iter().all(|it| right <= it.0 || it.1 <= left);
        let lane = match self.taken.iter().position(|lane| free(lane)) {
            Some(lane) => lane,
            None if self.taken.len() < self.count_max => {
                self.taken.push(Vec::new());
                self.taken.len() - 1
            }
            None => return None,
        };
        self.taken[lane].push((left, right));
        Some(lane)
    }

    /// How many rows are in use.
    pub(super) fn count(&self) -> usize {
        self.taken.len()
    }
}

/// `count_max` of the items, evenly over their order.
pub(super) fn thinned<T>(items: Vec<T>, count_max: usize) -> Vec<T> {
    let count = items.len();
    if count <= count_max {
        return items;
    }
    let kept = |place: usize| place * count_max / count != (place + 1) * count_max / count;
    items.into_iter().enumerate().filter(|(place, _)| kept(*place)).map(|(_, item)| item).collect()
}

/// How wide a label is, roughly.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// The text, or its beginning if it is longer than this many letters.
pub(super) fn shortened(text: &str, letters_max: usize) -> String {
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters_max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The text in lines that fit the width, the last of them shortened if there are too many.
pub(super) fn wrapped(text: &str, width: f64, lines_max: usize) -> Vec<String> {
    let letters_max = (width / LETTER).max(20.0) as usize;
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let together = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && together > letters_max {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&shortened(word, letters_max));
        }
        lines.push(line);
    }
    if lines.len() > lines_max {
        lines.truncate(lines_max);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    lines
}

/// Text as it may stand in the picture, between tags and in attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(' '),
            // XML has no way to write these.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escaped("a<b & \"c\" 'd'>"), "a&lt;b &amp; &quot;c&quot; &apos;d&apos;&gt;");
        assert_eq!(escaped("a\nb\u{1b}[0m\u{0}\u{ffff}é"), "a b\u{fffd}[0m\u{fffd}\u{fffd}é");
    }

    #[test]
    fn ticks_are_round_and_apart() {
        let ticks = |end_ms, width| Scale { left: 100.0, width, end_ms, leap: None }.ticks();
        assert_eq!(ticks(10_000, 1_000.0), (0..=10).map(|it| it * 1_000).collect::<Vec<_>>());
        assert_eq!(ticks(10_000, 600.0), [0, 2_000, 4_000, 6_000, 8_000, 10_000]);
        assert_eq!(ticks(1, 1_000.0), [0, 1]);
        assert_eq!(ticks(0, 1_000.0), [0]);
        assert!(ticks(u64::MAX, 1_000.0).len() <= 12);
    }

    #[test]
    fn lanes_do_not_overlap() {
        let mut lanes = Lanes::new(2);
        assert_eq!(lanes.place(0.0, 10.0), Some(0));
        assert_eq!(lanes.place(5.0, 15.0), Some(1));
        assert_eq!(lanes.place(10.0, 12.0), Some(0));
        assert_eq!(lanes.place(6.0, 7.0), None);
        assert_eq!(lanes.count(), 2);
    }

    #[test]
    fn thinning_is_even() {
        let all: Vec<u32> = (0..1_000).collect();
        let some = thinned(all.clone(), 100);
        assert_eq!(some.len(), 100);
        assert!(some.windows(2).all(|it| it[1] - it[0] == 10), "{some:?}");
        assert_eq!(thinned(all.clone(), 1_000), all);
        assert_eq!(thinned(all, 333).len(), 333);
        assert!(thinned(vec![1], 0).is_empty());
    }

    #[test]
    fn lines_are_wrapped_at_words() {
        let text = "one two three four five six seven\n\neight";
        assert_eq!(wrapped(text, 0.0, 9), ["one two three four", "five six seven", "eight"]);
        assert_eq!(wrapped(text, 0.0, 2), ["one two three four", "five six seven …"]);
        assert_eq!(shortened("12345", 4), "123…");
    }
}
