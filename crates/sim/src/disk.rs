//! A disk that loses, tears, rots and fills up, behind the real store.
//!
//! Every byte that a store reads or writes goes through a [`SimDisk`], which keeps apart what processes see and
//! what would survive a power cut. It does what the contract of [`Backend`] lets a disk do, and worse if its
//! [`DiskFaults`] say so. Chance comes from the stream that it is given, and nothing depends on anything else.
//!
//! Not modelled is a disk that acknowledges a sync and forgets what it synced: no store survives that without
//! its peers. [`SimDisk::restore`] is the coarse form of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rejoin_store::Backend;

use crate::history::{Damage, Death};
use crate::random::Random;

mod content;
mod handles;
mod medium;
#[cfg(test)]
mod tests;

use content::{Content, Data, PAGE_BYTES};
use handles::BootedDisk;
use medium::{FileId, Losses, Medium};

/// How long a file can be, in bytes. Nothing but a damaged length asks for more.
const FILE_BYTES_MAX: u64 = 1 << 44;

/// What a disk does wrong. The default is nothing.
///
/// Rates are probabilities for each operation of the kind.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DiskFaults {
    /// Of a sync: it returns an error, and part of what it was to make durable never will be, even if a later
    /// sync succeeds. Processes see that part until the next boot.
    pub failed_sync: f64,
    /// Whether processes see the part that a failed sync lost until the power is cut, across boots: what ext4
    /// and XFS do as long as the cache holds it. A store that trusts what it reads at its start does not survive it.
    pub failed_sync_lingers: bool,
    /// Of a write, a change of length, a creation or a removal: it returns an error; of a write, any first part
    /// was made.
    pub failed_write: f64,
    /// Of a read: it returns an error. The next may succeed.
    pub failed_read: f64,
    /// Of any operation: at that moment a page of what is durable rots.
    pub bit_rot: f64,
    /// Of a write: it goes to another page of the same file.
    pub misdirected_write: f64,
    /// How much can be stored, in bytes, counted in pages of 4 KiB; `None` for no limit.
    pub capacity_bytes: Option<u64>,
    /// How long every operation takes, in virtual microseconds.
    pub operation_us: u64,
    /// Of any operation: the disk stalls.
    pub stall: f64,
    /// How long a stall takes on average, in virtual milliseconds.
    pub stall_ms: u64,
}

/// A simulated disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A copy of all files as they were at one moment. It shares its pages with the disk that it was made from.
#[derive(Debug, Clone, Default)]
pub struct DiskImage {
    files: BTreeMap<String, Content>,
}

/// A disk as it was right after an operation that changed it, from which many a crash can be tried.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// How many operations there had been.
    pub(crate) operations: u64,
    medium: Medium,
}

/// How many pages count as read last.
const READ_LAST_MAX: usize = 64;

#[derive(Debug)]
struct State {
    random: Random,
    faults: DiskFaults,
    medium: Medium,
    /// Counts deaths. A handle is dead unless it is of the present life.
    life: u64,
    down: bool,
    locked: bool,
    operations: u64,
    death: Option<(u64, Death)>,
    misdirect_next: bool,
    /// The pages that were read last.
    read_last: VecDeque<(FileId, u64)>,
    /// A hash of all that was asked.
    asked: blake3::Hasher,
    counts: BTreeMap<&'static str, u64>,
    damage: Vec<(Damage, String)>,
    busy_us: u64,
    record: Option<Vec<Moment>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(random: Random, faults: DiskFaults) -> Self {
        Self::with_medium(random, faults, Medium::default())
    }

    /// A disk of its own with the files of an image, all durable: a clone of another.
    pub fn from_image(random: Random, faults: DiskFaults, image: &DiskImage) -> Self {
        Self::with_medium(random, faults, Medium::of(&image.files))
    }

    /// A disk of its own as another was at a moment, with all that was not synced then.
    pub(crate) fn at(moment: &Moment, random: Random, faults: DiskFaults) -> Self {
        let mut medium = moment.medium.clone();
        medium.end_process();
        Self::with_medium(random, faults, medium)
    }

    fn with_medium(random: Random, faults: DiskFaults, medium: Medium) -> Self {
        let state = State {
            random,
            faults,
            medium,
            life: 0,
            down: false,
            locked: false,
            operations: 0,
            death: None,
            misdirect_next: false,
            read_last: VecDeque::new(),
            asked: blake3::Hasher::new(),
            counts: BTreeMap::new(),
            damage: Vec::new(),
            busy_us: 0,
            record: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Starts the machine if it is down, and gives a process access to the disk until the next death.
    pub fn boot(&self) -> Arc<dyn Backend> {
        let mut state = self.state();
        state.down = false;
        if !state.locked && !state.faults.failed_sync_lingers {
            state.medium.drop_stale_cache();
        }
        Arc::new(BootedDisk::new(self.state.clone(), state.life))
    }

    /// Cuts the power during the operation that `operations` others precede from now on; `None` calls it off.
    ///
    /// A write during which it happens may be torn at any byte. Replaces what was arranged before.
    pub fn crash_after(&self, operations: Option<u64>) {
        self.state().arrange(operations, Death::PowerCut);
    }

    /// Kills the process during the operation that `operations` others precede from now on; `None` calls it off.
    ///
    /// Of a write during which it happens, any first part is made. Replaces what was arranged before.
    pub fn crash_after_kill(&self, operations: Option<u64>) {
        self.state().arrange(operations, Death::Killed);
    }

    /// Cuts the power now: each change that was not synced is kept, lost or torn.
    ///
    /// Changes fare alike, or each for itself, or those before or behind some moment survive. Without effect on
    /// a machine that is down.
    pub fn power_cut(&self) {
        self.state().die(Death::PowerCut, false);
    }

    /// As [`power_cut`](Self::power_cut), but everything that was not synced is `kept`, or else all of it lost.
    pub fn power_cut_all(&self, kept: bool) {
        let mut state = self.state();
        if state.down {
            return;
        }
        let losses = state.medium.settle(kept);
        state.count_losses(losses);
        state.die(Death::PowerCut, false);
    }

    /// Kills the process now. What it wrote is in the system's cache: it survives, and is still not synced.
    ///
    /// Without effect on a machine that is down.
    pub fn kill(&self) {
        self.state().die(Death::Killed, false);
    }

    /// Whether there was a death and no [`boot`](Self::boot) since.
    pub fn is_dead(&self) -> bool {
        self.state().down
    }

    /// Changes what the disk does wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    /// What the disk does wrong.
    pub fn faults(&self) -> DiskFaults {
        self.state().faults.clone()
    }

    /// Flips 1 to 8 bits in one page of what is durable, and says where; `None` if nothing is.
    pub fn rot(&self) -> Option<String> {
        self.state().rot()
    }

    /// Lets the next write that finds one go to another page of its file.
    pub fn misdirect_next_write(&self) {
        self.state().misdirect_next = true;
    }

    /// All files as processes see them now.
    pub fn image(&self) -> DiskImage {
        DiskImage { files: self.state().medium.contents() }
    }

    /// Replaces all files by those of an image, durably: somebody puts a backup back. The process, if there is
    /// one, is dead after that, and the machine down.
    pub fn restore(&self, image: &DiskImage) {
        let mut state = self.state();
        state.end_life();
        state.medium = Medium::of(&image.files);
    }

    /// How many faults of each class took effect, from the first on.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    /// What rotted and what was misdirected since this was last asked, and where.
    pub fn take_damage(&self) -> Vec<(Damage, String)> {
        std::mem::take(&mut self.state().damage)
    }

    /// How many operations of any sort, reads too, were asked for in all lives.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How long the disk was busy since this was last asked, in whole virtual milliseconds.
    pub fn take_busy_ms(&self) -> u64 {
        let mut state = self.state();
        let ms = state.busy_us / 1_000;
        state.busy_us %= 1_000;
        ms
    }

    /// How many bytes are allocated, in pages of 4 KiB.
    pub fn used_bytes(&self) -> u64 {
        self.state().medium.pages() * PAGE_BYTES
    }

    /// Whether there is anything that a power cut could take away.
    pub fn is_unsynced(&self) -> bool {
        self.state().medium.is_unsynced()
    }

    /// Adds a hash of all that the disk was asked so far, in order, with the bytes that were written.
    pub fn digest_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(self.state().asked.finalize().as_bytes());
    }

    /// Begins to keep a [`Moment`] of every operation that changes anything.
    pub(crate) fn record(&self) {
        self.state().record = Some(Vec::new());
    }

    /// Ends the recording.
    pub(crate) fn take_record(&self) -> Vec<Moment> {
        self.state().record.take().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        hold(&self.state)
    }
}

impl DiskImage {
    /// The names of the files and their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(name, content)| (name.as_str(), content.len()))
    }

    /// The content of one file, if it exists.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let content = self.files.get(name)?;
        let mut bytes = vec![0; usize::try_from(content.len()).ok()?];
        content.read(0, &mut bytes).then_some(bytes)
    }

    /// A hash of all names and contents.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (name, content) in &self.files {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            content.hash_into(&mut hasher);
        }
        hasher.finalize().into()
    }
}

/// Locks, also after a panic elsewhere: the panic is reported, and the disk of no use after it.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation, as far as it goes into the hash of what was asked.
struct Asked<'a> {
    code: u8,
    name: &'a str,
    offset: u64,
    len: u64,
    bytes: &'a [u8],
}

impl<'a> Asked<'a> {
    fn new(code: u8, name: &'a str) -> Self {
        Self { code, name, offset: 0, len: 0, bytes: &[] }
    }

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&[self.code]);
        hasher.update(&(self.name.len() as u64).to_le_bytes());
        hasher.update(self.name.as_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher.update(&self.len.to_le_bytes());
        hasher.update(self.bytes);
    }
}

/// Whether the machine dies in the operation that was just begun.
type Due = Option<Death>;

impl State {
    /// What every operation begins with. An error if the handle is dead.
    fn begin(&mut self, life: u64, asked: &Asked<'_>) -> io::Result<Due> {
        if life != self.life || self.down {
            return Err(machine_down());
        }
        asked.hash_into(&mut self.asked);
        let number = self.operations;
        self.operations += 1;
        self.pass_time();
        if self.happens(self.faults.bit_rot) {
            self.rot();
        }
        Ok(match self.death {
            Some((at, death)) if at <= number => Some(death),
            _ => None,
        })
    }

    fn pass_time(&mut self) {
        self.busy_us += self.faults.operation_us;
        if self.faults.operation_us > 0 {
            self.count("disk: slow");
        }
        if self.happens(self.faults.stall) {
            let mean_ms = self.faults.stall_ms as f64;
            self.busy_us += self.random.wait_ms(mean_ms) * 1_000;
            self.count("disk: stall");
        }
    }

    /// Draws only if there is something to draw.
    fn happens(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.random.chance(rate)
    }

    fn count(&mut self, class: &'static str) {
        self.count_many(class, 1);
    }

    fn count_many(&mut self, class: &'static str, number: u64) {
        if number > 0 {
            *self.counts.entry(class).or_default() += number;
        }
    }

    fn count_losses(&mut self, losses: Losses) {
        self.count_many("disk: lost write", losses.lost);
        self.count_many("disk: torn write", losses.torn);
        self.count_many("disk: lost file change", losses.names);
    }

    fn arrange(&mut self, operations: Option<u64>, death: Death) {
        self.death = operations.map(|count| (self.operations + count, death));
    }

    /// Ends the present life. `in_progress` says that the change made last was under way.
    fn die(&mut self, death: Death, in_progress: bool) {
        if self.down {
            return;
        }
        if death == Death::PowerCut {
            let losses = self.medium.cut(&mut self.random, in_progress);
            self.count("disk: power cut");
            self.count_losses(losses);
        } else {
            self.count("disk: process killed");
        }
        self.end_life();
    }

    fn end_life(&mut self) {
        self.medium.end_process();
        self.life += 1;
        self.down = true;
        self.locked = false;
        self.death = None;
    }

    /// Dies in an operation, which made a change if `in_progress` says so.
    fn die_in<T>(&mut self, death: Death, in_progress: bool) -> io::Result<T> {
        self.die(death, in_progress);
        Err(machine_down())
    }

    fn rot(&mut self) -> Option<String> {
        let place = self.medium.rot(&mut self.random, &self.read_last)?;
        self.count("disk: bit rot");
        self.damage.push((Damage::BitRot, place.clone()));
        Some(place)
    }

    /// Keeps what the disk is like now, if that is wanted.
    fn note(&mut self) {
        if let Some(record) = &mut self.record {
            record.push(Moment { operations: self.operations, medium: self.medium.clone() });
        }
    }

    fn open(&mut self, life: u64, name: &str) -> io::Result<FileId> {
        if let Some(death) = self.begin(life, &Asked::new(0, name))? {
            return self.die_in(death, false);
        }
        self.medium.open(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, life: u64, name: &str) -> io::Result<FileId> {
        let due = self.begin(life, &Asked::new(1, name))?;
        if let Some(death) = due {
            // A process that is killed in the call may or may not have come that far.
            let made = death == Death::PowerCut || self.random.chance(0.5);
            if made {
                self.medium.create(name);
            }
            return self.die_in(death, made);
        }
        self.fail_write()?;
        let id = self.medium.create(name);
        self.note();
        Ok(id)
    }

    fn remove(&mut self, life: u64, name: &str) -> io::Result<()> {
        let due = self.begin(life, &Asked::new(2, name))?;
        if let Some(death) = due {
            let made =
                (death == Death::PowerCut || self.random.chance(0.5)) && self.medium.remove(name);
            return self.die_in(death, made);
        }
        self.fail_write()?;
        if !self.medium.remove(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.note();
        Ok(())
    }

    fn list(&mut self, life: u64) -> io::Result<Vec<String>> {
        if let Some(death) = self.begin(life, &Asked::new(3, ""))? {
            return self.die_in(death, false);
        }
        Ok(self.medium.names().cloned().collect())
    }

    fn sync_directory(&mut self, life: u64) -> io::Result<()> {
        if let Some(death) = self.begin(life, &Asked::new(4, ""))? {
            return self.die_in(death, false);
        }
        if self.happens(self.faults.failed_sync) {
            self.count("disk: failed sync");
            return Err(io::Error::other("the disk failed to sync the folder"));
        }
        self.medium.sync_directory();
        self.note();
        Ok(())
    }

    fn lock(&mut self, life: u64) -> io::Result<()> {
        if let Some(death) = self.begin(life, &Asked::new(5, ""))? {
            return self.die_in(death, false);
        }
        if self.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the store is open elsewhere"));
        }
        self.locked = true;
        Ok(())
    }

    fn read(&mut self, at: FilePlace<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let asked = Asked { offset, len: out.len() as u64, ..Asked::new(6, at.name) };
        if let Some(death) = self.begin(at.life, &asked)? {
            return self.die_in(death, false);
        }
        if self.happens(self.faults.failed_read) {
            self.count("disk: failed read");
            return Err(io::Error::other("the disk failed to read"));
        }
        if self.read_last.len() == READ_LAST_MAX {
            self.read_last.pop_front();
        }
        self.read_last.push_back((at.id, offset / PAGE_BYTES));
        if self.medium.content(at.id).read(offset, out) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn len(&mut self, at: FilePlace<'_>) -> io::Result<u64> {
        if let Some(death) = self.begin(at.life, &Asked::new(7, at.name))? {
            return self.die_in(death, false);
        }
        Ok(self.medium.content(at.id).len())
    }

    fn write(&mut self, at: FilePlace<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let data = Data::of(bytes);
        let hashed = if matches!(data, Data::Zeros(_)) { &[][..] } else { bytes };
        let asked = Asked { offset, len, bytes: hashed, ..Asked::new(8, at.name) };
        match self.begin(at.life, &asked)? {
            Some(Death::PowerCut) => {
                self.medium.write(at.id, offset, data);
                return self.die_in(Death::PowerCut, true);
            }
            Some(death) => {
                let made = self.random.below(len + 1);
                self.write_part(at.id, offset, &data, made);
                return self.die_in(death, true);
            }
            None => {}
        }
        let fitting = self.fitting(at.id, offset, len);
        if fitting < len {
            self.write_part(at.id, offset, &data, fitting);
            self.count("disk: full");
            self.note();
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"));
        }
        if self.happens(self.faults.failed_write) {
            let made = self.random.below(len + 1);
            self.write_part(at.id, offset, &data, made);
            self.count("disk: failed write");
            self.note();
            return Err(io::Error::other("the disk failed to write"));
        }
        let offset = self.misdirect(&at, offset);
        self.medium.write(at.id, offset, data);
        self.note();
        Ok(())
    }

    fn write_part(&mut self, id: FileId, offset: u64, data: &Data, len: u64) {
        if len > 0 {
            self.medium.write(id, offset, data.part(0, len));
        }
    }

    /// How much of a write the disk has room for.
    fn fitting(&mut self, id: FileId, offset: u64, len: u64) -> u64 {
        match self.faults.capacity_bytes {
            Some(capacity) => {
                let room = (capacity / PAGE_BYTES).saturating_sub(self.medium.pages());
                self.medium.content(id).fitting(offset, len, room)
            }
            None => len,
        }
    }

    /// Where a write goes that is meant for `offset`.
    fn misdirect(&mut self, at: &FilePlace<'_>, offset: u64) -> u64 {
        if !self.misdirect_next && !self.happens(self.faults.misdirected_write) {
            return offset;
        }
        let (meant, within) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
        let pages = self.medium.content(at.id).len().div_ceil(PAGE_BYTES);
        let others = if meant < pages { pages - 1 } else { pages };
        if others == 0 {
            return offset;
        }
        self.misdirect_next = false;
        let drawn = self.random.below(others);
        let page = if drawn >= meant { drawn + 1 } else { drawn };
        let place = page * PAGE_BYTES + within;
        self.count("disk: misdirected write");
        let text = format!("{}: a write for byte {offset} went to byte {place}", at.name);
        self.damage.push((Damage::Misdirected, text));
        place
    }

    fn set_len(&mut self, at: FilePlace<'_>, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let due = self.begin(at.life, &Asked { len, ..Asked::new(9, at.name) })?;
        if let Some(death) = due {
            let made = death == Death::PowerCut || self.random.chance(0.5);
            if made {
                self.medium.set_len(at.id, len);
            }
            return self.die_in(death, made);
        }
        self.fail_write()?;
        self.medium.set_len(at.id, len);
        self.note();
        Ok(())
    }

    fn sync(&mut self, at: FilePlace<'_>) -> io::Result<()> {
        if let Some(death) = self.begin(at.life, &Asked::new(10, at.name))? {
            return self.die_in(death, false);
        }
        if self.happens(self.faults.failed_sync) {
            let losses = self.medium.fail_sync(at.id, &mut self.random);
            self.count("disk: failed sync");
            self.count_losses(losses);
            self.note();
            return Err(io::Error::other("the disk failed to sync"));
        }
        self.medium.sync(at.id);
        self.note();
        Ok(())
    }

    fn fail_write(&mut self) -> io::Result<()> {
        if self.happens(self.faults.failed_write) {
            self.count("disk: failed write");
            return Err(io::Error::other("the disk failed to write"));
        }
        Ok(())
    }
}

/// An open file, as an operation names it.
#[derive(Clone, Copy)]
struct FilePlace<'a> {
    life: u64,
    id: FileId,
    name: &'a str,
}

fn machine_down() -> io::Error {
    io::Error::other("the machine is down")
}
