//! The tree's file as redb sees it, which goes on where the disk stops.
//!
//! redb takes no call any more, not even a read, once its file has failed. But a disk that is full can still be
//! read, and so should what the last checkpoint left. So the first change that the disk refuses is the last one it
//! is asked for: that change and those behind it are kept in memory, and redb is told that all went well. Nobody
//! else is: whoever changes the tree calls [`check`](SurvivorFile::check) before it counts as changed. On disk it
//! is as if power had been cut at the first failure.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::backend::StorageFile;
use crate::error::StoreError;
use crate::sync::lock;

const PAGE_BYTES: usize = 4_096;

/// A file that can be read on after a change of it has failed.
#[derive(Debug)]
pub(super) struct SurvivorFile {
    file: Arc<dyn StorageFile>,
    /// The length when it was last asked for or changed. A disk that has failed may not even tell that, and redb
    /// panics on a length that is not what it has made it.
    len: AtomicU64,
    failed: OnceLock<Failed>,
}

#[derive(Debug)]
struct Failed {
    kind: io::ErrorKind,
    cause: String,
    kept: Mutex<Kept>,
}

/// What the file would be, where that differs from what it is.
#[derive(Debug)]
struct Kept {
    len: u64,
    /// By number. A transaction that finds the disk failed ends soon, so there are not many.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl SurvivorFile {
    pub(super) fn new(file: Arc<dyn StorageFile>) -> Self {
        Self { file, len: AtomicU64::new(0), failed: OnceLock::new() }
    }

    /// Whether every change so far has reached the file.
    ///
    /// # Errors
    /// Why the first one that did not has not. The tree must not be changed any more.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            None => Ok(()),
            Some(Failed { kind, cause, .. }) => {
                Err(StoreError::io("writing the tree")(io::Error::new(*kind, cause.clone())))
            }
        }
    }

    fn fail(&self, error: &io::Error) -> &Failed {
        self.failed.get_or_init(|| {
            let len = self.len.load(Ordering::Relaxed);
            let kept = Mutex::new(Kept { len, pages: BTreeMap::new() });
            Failed { kind: error.kind(), cause: error.to_string(), kept }
        })
    }

    /// The page as it would be, with zeros behind the end of the file.
    fn page(&self, kept: &Kept, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = kept.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE_BYTES];
        let start = number * PAGE_BYTES as u64;
        let there = self.file.len()?.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
        if there > 0 {
            self.file.read_at(start, &mut page[..there])?;
        }
        Ok(page)
    }

    fn read_kept(&self, kept: &Kept, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > kept.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, piece) in pages(offset, out.len()) {
            out[piece].copy_from_slice(&self.page(kept, number)?[within]);
        }
        Ok(())
    }

    fn keep(&self, kept: &mut Kept, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, within, piece) in pages(offset, bytes.len()) {
            let mut page = self.page(kept, number)?;
            page[within].copy_from_slice(&bytes[piece]);
            kept.pages.insert(number, page);
        }
        kept.len = kept.len.max(offset + bytes.len() as u64);
        Ok(())
    }
}

impl StorageFile for SurvivorFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.failed.get() {
            None => self.file.read_at(offset, out),
            Some(failed) => self.read_kept(&lock(&failed.kept), offset, out),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let failed = match self.failed.get() {
            Some(failed) => failed,
            None => match self.file.write_at(offset, bytes) {
                Ok(()) => {
                    self.len.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => self.fail(&error),
            },
        };
        self.keep(&mut lock(&failed.kept), offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        match self.failed.get() {
            None => {
                let len = self.file.len()?;
                self.len.store(len, Ordering::Relaxed);
                Ok(len)
            }
            Some(failed) => Ok(lock(&failed.kept).len),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let failed = match self.failed.get() {
            Some(failed) => failed,
            None => match self.file.set_len(len) {
                Ok(()) => {
                    self.len.store(len, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => self.fail(&error),
            },
        };
        lock(&failed.kept).len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.failed.get().is_none()
            && let Err(error) = self.file.sync()
        {
            self.fail(&error);
        }
        Ok(())
    }
}

/// What of each page the `length` bytes from `offset` on take, and what of them it has.
fn pages(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - within).min(length - done);
        let piece = done..done + count;
        done += count;
        (count > 0).then(|| (at / PAGE_BYTES as u64, within..within + count, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, MemoryBackend};

    #[test]
    fn what_the_disk_refused_reads_back_and_never_reaches_it() {
        let backend = MemoryBackend::default();
        let file = SurvivorFile::new(backend.create("tree").unwrap());
        file.write_at(0, &[1; 3 * PAGE_BYTES]).unwrap();
        file.sync().unwrap();
        file.check().unwrap();
        backend.fail_after(Some(0));
        file.write_at(100, &[2; PAGE_BYTES]).unwrap();
        assert!(matches!(file.check(), Err(StoreError::Io { .. })));
        backend.fail_after(None);

        file.write_at(3 * PAGE_BYTES as u64 + 5, &[3; 2]).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 3 * PAGE_BYTES as u64 + 7);
        let mut out = vec![9; 3 * PAGE_BYTES + 7];
        file.read_at(0, &mut out).unwrap();
        let mut expected = vec![1; 3 * PAGE_BYTES];
        expected[100..100 + PAGE_BYTES].fill(2);
        expected.extend([0, 0, 0, 0, 0, 3, 3]);
        assert_eq!(out, expected);
        assert_eq!(file.read_at(1, &mut out).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.set_len(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        assert!(file.check().is_err());
        assert_eq!(backend.content("tree").unwrap(), vec![1; 3 * PAGE_BYTES]);
    }
}
