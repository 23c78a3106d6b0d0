//! A disk in memory, which can count, fail, record what it is asked, and crash.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, BackendLock, StorageFile};

/// What a power cut may tear a write into: parts of this many bytes survive or are lost as one.
const SECTOR_BYTES: usize = 512;

/// A store in memory. Clones share the content, so a test can close a store and open it again.
///
/// It counts syncs, can fail any one operation, and, made by [`MemoryBackend::recording`], keeps a
/// journal of changes from which [`crash_image`] builds what a power cut could have left.
#[derive(Debug, Clone, Default)]
pub struct MemoryBackend {
    disk: Arc<Mutex<Disk>>,
}

/// One change of the disk, as recorded by [`MemoryBackend::recording`].
#[derive(Debug, Clone)]
pub enum Operation {
    /// A file was created, empty.
    Create(String),
    /// A file was removed.
    Remove(String),
    /// Bytes were written at an offset.
    Write(String, u64, Vec<u8>),
    /// A file was cut off or grown.
    SetLen(String, u64),
    /// A file's content became durable.
    Sync(String),
    /// The set of files became durable.
    SyncDirectory,
}

/// What becomes of a change that no sync had made durable when the power was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It had reached the disk.
    Keep,
    /// It had not.
    Drop,
    /// Of a write, those sectors of 512 bytes had whose bit is set (the 65th shares the first's bit);
    /// a change that is no write is kept.
    Tear(u64),
}

/// What [`MemoryBackend`]s share: the content, and the apparatus of tests.
#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<String, Arc<Mutex<Vec<u8>>>>,
    locked: bool,
    journal: Option<Vec<Operation>>,
    operations: u64,
    syncs: u64,
    fail_at: Option<u64>,
}

impl MemoryBackend {
    /// An empty disk that records every change.
    pub fn recording() -> Self {
        let disk = Disk { journal: Some(Vec::new()), ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The changes recorded so far; empty unless made by [`MemoryBackend::recording`].
    pub fn journal(&self) -> Vec<Operation> {
        self.disk().journal.clone().unwrap_or_default()
    }

    /// How many changes are recorded so far.
    pub fn journal_len(&self) -> usize {
        self.disk().journal.as_ref().map_or(0, Vec::len)
    }

    /// How many operations of any sort, reads too, were asked for so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// How many times a file was synced so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Makes the operation that `operations` others precede from now on fail, and none other; `None` heals.
    pub fn fail_after(&self, operations: Option<u64>) {
        let mut disk = self.disk();
        disk.fail_at = operations.map(|count| disk.operations + count);
    }

    /// A disk of its own with the same content and no lock held: what a copy of the folder would be.
    pub fn copy(&self) -> Self {
        let files = self
            .disk()
            .files
            .iter()
            .map(|(name, file)| (name.clone(), hold(file).clone()))
            .collect();
        Self::from_files(files)
    }

    /// The content of one file, if it exists.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.disk().files.get(name).cloned()?;
        let content = hold(&file).clone();
        Some(content)
    }

    /// Replaces the content of one file, behind the back of any store.
    pub fn set_content(&self, name: &str, content: Vec<u8>) {
        self.disk().files.insert(name.to_owned(), Arc::new(Mutex::new(content)));
    }

    fn from_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        let files =
            files.into_iter().map(|(name, bytes)| (name, Arc::new(Mutex::new(bytes)))).collect();
        Self { disk: Arc::new(Mutex::new(Disk { files, ..Disk::default() })) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        hold(&self.disk)
    }

    fn file(&self, name: &str, content: Arc<Mutex<Vec<u8>>>) -> Arc<dyn StorageFile> {
        Arc::new(MemoryFile { name: name.to_owned(), content, disk: self.disk.clone() })
    }
}

/// What a power cut could leave of a disk that saw the changes in `journal` and no others.
///
/// Each change that no later sync covers suffers what `fate` says of it, in order.
pub fn crash_image(
    journal: &[Operation],
    mut fate: impl FnMut(&Operation) -> Fate,
) -> MemoryBackend {
    let last_sync = |name: &str| {
        journal
            .iter()
            .rposition(|operation| matches!(operation, Operation::Sync(synced) if synced == name))
    };
    let last_directory_sync =
        journal.iter().rposition(|operation| matches!(operation, Operation::SyncDirectory));
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    // Files whose creation was lost keep taking their changes, but are not there in the end.
    let mut lost: BTreeMap<String, bool> = BTreeMap::new();
    for (position, operation) in journal.iter().enumerate() {
        let durable_at = match operation {
            Operation::Create(_) | Operation::Remove(_) => last_directory_sync,
            Operation::Write(name, ..) | Operation::SetLen(name, _) => last_sync(name),
            Operation::Sync(_) | Operation::SyncDirectory => continue,
        };
        let fate = if durable_at > Some(position) { Fate::Keep } else { fate(operation) };
        match operation {
            Operation::Create(name) => {
                files.insert(name.clone(), Vec::new());
                lost.insert(name.clone(), fate == Fate::Drop);
            }
            Operation::Remove(name) if fate != Fate::Drop => {
                files.remove(name);
            }
            Operation::Write(name, offset, bytes) => {
                if let Some(content) = files.get_mut(name) {
                    write_torn(content, *offset, bytes, fate);
                }
            }
            Operation::SetLen(name, len) if fate != Fate::Drop => {
                if let Some(content) = files.get_mut(name) {
                    content.resize(to_index(*len), 0);
                }
            }
            _ => {}
        }
    }
    files.retain(|name, _| !lost.get(name).copied().unwrap_or(false));
    MemoryBackend::from_files(files)
}

/// Writes those sectors of `bytes` that survive.
fn write_torn(content: &mut Vec<u8>, offset: u64, bytes: &[u8], fate: Fate) {
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let survives = match fate {
            Fate::Keep => true,
            Fate::Drop => false,
            Fate::Tear(sectors) => sectors >> (index % 64) & 1 == 1,
        };
        if survives {
            write_bytes(content, to_index(offset) + index * SECTOR_BYTES, sector);
        }
    }
}

fn write_bytes(content: &mut Vec<u8>, start: usize, bytes: &[u8]) {
    if content.len() < start + bytes.len() {
        content.resize(start + bytes.len(), 0);
    }
    content[start..start + bytes.len()].copy_from_slice(bytes);
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a disk in memory is smaller than memory")
}

/// Locks, also after a panic elsewhere: every change of what is locked here is a single step.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Counts an operation, and fails it if it is the one to fail.
    fn begin(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        if self.fail_at == Some(number) {
            return Err(io::Error::other("injected fault"));
        }
        Ok(())
    }

    fn record(&mut self, operation: impl FnOnce() -> Operation) {
        if let Some(journal) = &mut self.journal {
            journal.push(operation());
        }
    }
}

impl Backend for MemoryBackend {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        disk.begin()?;
        let content = disk.files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(name, content))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        disk.begin()?;
        let content = Arc::new(Mutex::new(Vec::new()));
        disk.files.insert(name.to_owned(), content.clone());
        disk.record(|| Operation::Create(name.to_owned()));
        Ok(self.file(name, content))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.begin()?;
        Ok(disk.files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.begin()?;
        disk.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        disk.record(|| Operation::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.begin()?;
        disk.record(|| Operation::SyncDirectory);
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn BackendLock>> {
        let mut disk = self.disk();
        disk.begin()?;
        if disk.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the store is open elsewhere"));
        }
        disk.locked = true;
        Ok(Box::new(HeldLock { disk: self.disk.clone() }))
    }
}

#[derive(Debug)]
struct HeldLock {
    disk: Arc<Mutex<Disk>>,
}

impl BackendLock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        hold(&self.disk).locked = false;
    }
}

#[derive(Debug)]
struct MemoryFile {
    name: String,
    content: Arc<Mutex<Vec<u8>>>,
    disk: Arc<Mutex<Disk>>,
}

impl StorageFile for MemoryFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        hold(&self.disk).begin()?;
        let content = hold(&self.content);
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = hold(&self.disk);
        disk.begin()?;
        write_bytes(&mut hold(&self.content), to_index(offset), bytes);
        disk.record(|| Operation::Write(self.name.clone(), offset, bytes.to_vec()));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        hold(&self.disk).begin()?;
        Ok(hold(&self.content).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = hold(&self.disk);
        disk.begin()?;
        hold(&self.content).resize(to_index(len), 0);
        disk.record(|| Operation::SetLen(self.name.clone(), len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = hold(&self.disk);
        disk.begin()?;
        disk.syncs += 1;
        disk.record(|| Operation::Sync(self.name.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_only_what_fate_keeps_of_the_rest() {
        let backend = MemoryBackend::recording();
        let file = backend.create("a").unwrap();
        file.write_at(0, &[1; 600]).unwrap();
        file.sync().unwrap();
        backend.sync_directory().unwrap();
        file.write_at(0, &[2; 600]).unwrap();
        backend.create("b").unwrap();
        let journal = backend.journal();

        let dropped = crash_image(&journal, |_| Fate::Drop);
        assert_eq!(dropped.content("a"), Some(vec![1; 600]));
        assert_eq!(dropped.content("b"), None);
        let kept = crash_image(&journal, |_| Fate::Keep);
        assert_eq!(kept.content("a"), Some(vec![2; 600]));
        assert_eq!(kept.content("b"), Some(Vec::new()));
        let torn = crash_image(&journal, |_| Fate::Tear(0b10)).content("a").unwrap();
        assert_eq!((torn[511], torn[512]), (1, 2));
    }

    #[test]
    fn exactly_the_chosen_operation_fails() {
        let backend = MemoryBackend::default();
        let file = backend.create("a").unwrap();
        backend.fail_after(Some(1));
        file.write_at(0, b"x").unwrap();
        file.write_at(1, b"y").unwrap_err();
        file.write_at(1, b"z").unwrap();
        assert_eq!(backend.content("a").unwrap(), b"xz");
    }
}
