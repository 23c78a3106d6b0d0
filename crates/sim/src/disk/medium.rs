//! What is on the disk and in the cache before it, and what a power cut makes of the two.

use std::collections::{BTreeMap, VecDeque};

use super::content::{Content, Data, PAGE_BYTES};
use crate::random::Random;

/// The files. A clone shares their pages.
#[derive(Debug, Clone, Default)]
pub(super) struct Medium {
    /// What processes see.
    names: BTreeMap<String, FileId>,
    /// What a power cut leaves for certain.
    durable_names: BTreeMap<String, FileId>,
    /// Creations and removals that `sync_directory` has not made durable.
    unsynced: Vec<NameChange>,
    files: BTreeMap<FileId, File>,
    /// Counts files and changes, so that both are in order of time.
    next: u64,
    /// How many pages the files that have a name take.
    pages: u64,
}

pub(super) type FileId = u64;

#[derive(Debug, Clone, Default)]
struct File {
    /// What processes see.
    content: Content,
    /// What a power cut leaves for certain.
    durable: Content,
    /// What was changed since the last sync, in order.
    unsynced: Vec<Change>,
    /// Whether the cache shows what the disk will never have, since a sync failed.
    diverged: bool,
    /// How many handles are open. A file without a name lives as long as one is.
    handles: u32,
}

#[derive(Debug, Clone)]
struct Change {
    time: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Write(u64, Data),
    SetLen(u64),
}

#[derive(Debug, Clone)]
struct NameChange {
    time: u64,
    name: String,
    /// The file that got the name; `None` if the name was removed.
    file: Option<FileId>,
}

/// What becomes of a change that no sync had made durable.
enum Fate {
    Kept,
    Lost,
    Torn,
}

/// What becomes of all of them.
enum Style {
    AllLost,
    AllKept,
    Each,
    /// Those before a moment survive; the one at the moment is torn.
    Prefix(u64),
    /// Those behind a moment survive; the one at the moment is torn.
    Suffix(u64),
}

/// How many changes a power cut or a failed sync treated in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) lost: u64,
    pub(super) torn: u64,
    pub(super) names: u64,
}

impl Medium {
    /// The files of these names and contents, all durable.
    pub(super) fn of(files: &BTreeMap<String, Content>) -> Self {
        let mut medium = Self::default();
        for (name, content) in files {
            let id = medium.tick();
            let file =
                File { content: content.clone(), durable: content.clone(), ..File::default() };
            medium.files.insert(id, file);
            medium.names.insert(name.clone(), id);
        }
        medium.durable_names = medium.names.clone();
        medium.count_pages();
        medium
    }

    /// The files as processes see them.
    pub(super) fn contents(&self) -> BTreeMap<String, Content> {
        self.named().map(|(name, file)| (name.clone(), file.content.clone())).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn open(&mut self, name: &str) -> Option<FileId> {
        let id = *self.names.get(name)?;
        self.file(id).handles += 1;
        Some(id)
    }

    pub(super) fn create(&mut self, name: &str) -> FileId {
        self.remove(name);
        let (id, time) = (self.tick(), self.tick());
        self.files.insert(id, File { handles: 1, ..File::default() });
        self.names.insert(name.to_owned(), id);
        self.unsynced.push(NameChange { time, name: name.to_owned(), file: Some(id) });
        id
    }

    /// Removes a name; `false` if there is none such.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(id) = self.names.remove(name) else { return false };
        self.pages -= self.file(id).content.pages();
        let time = self.tick();
        self.unsynced.push(NameChange { time, name: name.to_owned(), file: None });
        true
    }

    pub(super) fn close(&mut self, id: FileId) {
        let file = self.file(id);
        file.handles -= 1;
        if file.handles == 0 {
            self.drop_if_forgotten(id);
        }
    }

    pub(super) fn sync_directory(&mut self) {
        let replaced: Vec<FileId> = self
            .unsynced
            .drain(..)
            .filter_map(|change| match change.file {
                Some(id) => self.durable_names.insert(change.name, id),
                None => self.durable_names.remove(&change.name),
            })
            .collect();
        replaced.into_iter().for_each(|id| self.drop_if_forgotten(id));
    }

    pub(super) fn content(&mut self, id: FileId) -> &Content {
        &self.file(id).content
    }

    pub(super) fn write(&mut self, id: FileId, offset: u64, data: Data) {
        self.change(id, What::Write(offset, data));
    }

    pub(super) fn set_len(&mut self, id: FileId, len: u64) {
        self.change(id, What::SetLen(len));
    }

    pub(super) fn sync(&mut self, id: FileId) {
        let file = self.file(id);
        let changes = std::mem::take(&mut file.unsynced);
        let pages_will_do =
            !file.diverged && changes.iter().all(|change| matches!(change.what, What::Write(..)));
        for change in changes {
            match change.what {
                What::Write(offset, data) if pages_will_do => {
                    file.durable.copy_pages(&file.content, offset, data.len());
                }
                what => apply(&mut file.durable, &what),
            }
        }
    }

    /// A sync that fails: some of what it was to bring to the disk is there, and the rest will never be.
    pub(super) fn fail_sync(&mut self, id: FileId, random: &mut Random) -> Losses {
        let file = self.file(id);
        let mut losses = Losses::default();
        for change in std::mem::take(&mut file.unsynced) {
            let kept = random.chance(0.5);
            if kept {
                apply(&mut file.durable, &change.what);
            } else {
                file.diverged = true;
                losses.lost += 1;
            }
        }
        losses
    }

    /// Lets processes see again what is on the disk where a failed sync had left something else in the cache.
    pub(super) fn drop_stale_cache(&mut self) {
        for file in self.files.values_mut().filter(|file| file.diverged) {
            file.content = file.durable.clone();
            for change in &file.unsynced {
                apply(&mut file.content, &change.what);
            }
            file.diverged = false;
        }
        self.count_pages();
    }

    /// Ends all handles; what they wrote stays in the cache.
    pub(super) fn end_process(&mut self) {
        self.files.values_mut().for_each(|file| file.handles = 0);
        let ids: Vec<FileId> = self.files.keys().copied().collect();
        ids.into_iter().for_each(|id| self.drop_if_forgotten(id));
    }

    /// Makes everything durable that was not synced, or takes it back.
    pub(super) fn settle(&mut self, kept: bool) -> Losses {
        let mut losses = Losses::default();
        if kept {
            self.sync_directory();
            let ids: Vec<FileId> = self.files.keys().copied().collect();
            ids.into_iter().for_each(|id| self.sync(id));
        } else {
            losses.names = self.unsynced.drain(..).count() as u64;
            for file in self.files.values_mut() {
                losses.lost += file.unsynced.drain(..).count() as u64;
            }
        }
        losses
    }

    /// Cuts the power: what was not synced is kept, lost or torn, and the cache is gone.
    ///
    /// The change that was just made by an operation `in_progress` may be torn whatever becomes of the others.
    pub(super) fn cut(&mut self, random: &mut Random, in_progress: bool) -> Losses {
        let first = self.times().min().unwrap_or(self.next);
        let style = Style::draw(random, first, self.next);
        let last = if in_progress { self.times().max() } else { None };
        let mut losses = Losses::default();
        let fate = |time: u64, random: &mut Random| {
            if last == Some(time) {
                Style::Each.fate(time, random)
            } else {
                style.fate(time, random)
            }
        };
        for change in std::mem::take(&mut self.unsynced) {
            if matches!(fate(change.time, random), Fate::Lost) {
                losses.names += 1;
                continue;
            }
            match change.file {
                Some(id) => self.durable_names.insert(change.name, id),
                None => self.durable_names.remove(&change.name),
            };
        }
        self.names = self.durable_names.clone();
        let mut files = std::mem::take(&mut self.files);
        for id in self.names.values() {
            let Some(mut file) = files.remove(id) else { continue };
            for change in std::mem::take(&mut file.unsynced) {
                match (fate(change.time, random), &change.what) {
                    (Fate::Lost, _) => losses.lost += 1,
                    (Fate::Torn, What::Write(offset, data)) => {
                        losses.torn += 1;
                        write_torn(&mut file.durable, *offset, data, random);
                    }
                    (_, what) => apply(&mut file.durable, what),
                }
            }
            self.files.insert(*id, File::durable(file.durable));
        }
        self.count_pages();
        losses
    }

    /// Whether there is anything that a power cut could take away.
    pub(super) fn is_unsynced(&self) -> bool {
        self.times().next().is_some()
    }

    /// Flips some bits of one page of durable content, and says where. Often it is one of those that were
    /// read last: most pages of a tree are free, and nobody ever sees them again.
    pub(super) fn rot(
        &mut self,
        random: &mut Random,
        read_last: &VecDeque<(FileId, u64)>,
    ) -> Option<String> {
        let mut pages: Vec<(String, FileId, u64)> = Vec::new();
        for (name, file) in self.named() {
            let id = self.names[name];
            let is_unsynced = |page: u64| {
                file.unsynced.iter().any(|change| match &change.what {
                    What::Write(offset, data) => {
                        *offset < (page + 1) * PAGE_BYTES && offset + data.len() > page * PAGE_BYTES
                    }
                    What::SetLen(_) => true,
                })
            };
            let numbers = file.durable.page_numbers().filter(|page| !is_unsynced(*page));
            pages.extend(numbers.map(|page| (name.clone(), id, page)));
        }
        // There is little log and much tree: both are to rot.
        let (log, used) = (random.chance(0.4), random.chance(0.7));
        let is_used = |id: FileId, page: u64| !used || read_last.contains(&(id, page));
        let mut some = pages.clone();
        some.retain(|(name, id, page)| {
            name.ends_with(".log") == log && (log || is_used(*id, *page))
        });
        let pages = if some.is_empty() { pages } else { some };
        let (name, id, page) = random.pick(&pages)?;
        let file = self.files.get_mut(id)?;
        let count = random.within(1..=8) << random.below(5);
        let bytes = PAGE_BYTES.min(file.durable.len().saturating_sub(page * PAGE_BYTES));
        if bytes == 0 {
            return None;
        }
        let mut bits: Vec<u64> =
            (0..count).map(|_| page * PAGE_BYTES * 8 + random.below(bytes * 8)).collect();
        bits.sort_unstable();
        bits.dedup();
        for bit in &bits {
            file.durable.flip(*bit);
            file.content.flip(*bit);
        }
        let at: Vec<String> = bits.iter().map(|bit| format!("{}.{}", bit / 8, bit % 8)).collect();
        Some(format!("{name}: flipped bits (byte.bit) {}", at.join(" ")))
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The file of an open handle.
    fn file(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("a file lives as long as a name or a handle of it")
    }

    fn named(&self) -> impl Iterator<Item = (&String, &File)> {
        self.names.iter().filter_map(|(name, id)| Some((name, self.files.get(id)?)))
    }

    fn change(&mut self, id: FileId, what: What) {
        let time = self.tick();
        let is_named = self.names.values().any(|named| *named == id);
        let file = self.file(id);
        let before = file.content.pages();
        apply(&mut file.content, &what);
        let after = file.content.pages();
        file.unsynced.push(Change { time, what });
        if is_named {
            self.pages = self.pages + after - before;
        }
    }

    fn count_pages(&mut self) {
        self.pages = self.named().map(|(_, file)| file.content.pages()).sum();
    }

    /// When each unsynced change was made.
    fn times(&self) -> impl Iterator<Item = u64> + '_ {
        let of_files = self.files.values().flat_map(|file| &file.unsynced);
        of_files.map(|change| change.time).chain(self.unsynced.iter().map(|change| change.time))
    }

    fn drop_if_forgotten(&mut self, id: FileId) {
        let is_open = self.files.get(&id).is_some_and(|file| file.handles > 0);
        let is_named = |names: &BTreeMap<String, FileId>| names.values().any(|named| *named == id);
        let is_wanted = self.unsynced.iter().any(|change| change.file == Some(id));
        if !is_open && !is_wanted && !is_named(&self.names) && !is_named(&self.durable_names) {
            self.files.remove(&id);
        }
    }
}

impl File {
    fn durable(content: Content) -> Self {
        Self { content: content.clone(), durable: content, ..Self::default() }
    }
}

impl Style {
    /// One of the styles, for changes that were made from `first` to `last`.
    fn draw(random: &mut Random, first: u64, last: u64) -> Self {
        match random.below(5) {
            0 => Style::AllLost,
            1 => Style::AllKept,
            2 => Style::Prefix(random.within(first..=last)),
            3 => Style::Suffix(random.within(first..=last)),
            _ => Style::Each,
        }
    }

    fn fate(&self, time: u64, random: &mut Random) -> Fate {
        match self {
            Style::AllLost => Fate::Lost,
            Style::AllKept => Fate::Kept,
            Style::Each => match random.below(3) {
                0 => Fate::Kept,
                1 => Fate::Lost,
                _ => Fate::Torn,
            },
            Style::Prefix(moment) | Style::Suffix(moment) if time == *moment => Fate::Torn,
            Style::Prefix(moment) if time < *moment => Fate::Kept,
            Style::Suffix(moment) if time > *moment => Fate::Kept,
            Style::Prefix(_) | Style::Suffix(_) => Fate::Lost,
        }
    }
}

fn apply(content: &mut Content, what: &What) {
    match what {
        What::Write(offset, data) => content.write(*offset, data),
        What::SetLen(len) => content.set_len(*len),
    }
}

/// What a power cut may tear a write into, beside at any byte: parts that survive or are lost as one.
const SECTOR_BYTES: u64 = 512;

/// Writes what survives: all before a byte, all behind one, or any of the sectors.
fn write_torn(content: &mut Content, offset: u64, data: &Data, random: &mut Random) {
    let cut = random.below(data.len() + 1);
    match random.below(3) {
        0 if cut > 0 => content.write(offset, &data.part(0, cut)),
        1 if cut < data.len() => content.write(offset + cut, &data.part(cut, data.len())),
        2 => {
            let end = offset + data.len();
            let mut start = offset;
            while start < end {
                let next = end.min((start / SECTOR_BYTES + 1) * SECTOR_BYTES);
                if random.chance(0.5) {
                    content.write(start, &data.part(start - offset, next - offset));
                }
                start = next;
            }
        }
        _ => {}
    }
}
