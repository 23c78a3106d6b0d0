//! What a process holds of the disk: it is of no use any more once the process is dead.

use std::io;
use std::sync::{Arc, Mutex};

use rejoin_store::{Backend, BackendLock, StorageFile};

use super::medium::FileId;
use super::{FilePlace, State, hold};

/// The disk in one life of a process.
#[derive(Debug)]
pub(super) struct BootedDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl BootedDisk {
    pub(super) fn new(state: Arc<Mutex<State>>, life: u64) -> Self {
        Self { state, life }
    }

    fn file(&self, name: &str, id: FileId) -> Arc<dyn StorageFile> {
        Arc::new(OpenFile { state: self.state.clone(), life: self.life, id, name: name.to_owned() })
    }
}

impl Backend for BootedDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let id = hold(&self.state).open(self.life, name)?;
        Ok(self.file(name, id))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let id = hold(&self.state).create(self.life, name)?;
        Ok(self.file(name, id))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        hold(&self.state).list(self.life)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        hold(&self.state).remove(self.life, name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        hold(&self.state).sync_directory(self.life)
    }

    fn lock(&self) -> io::Result<Box<dyn BackendLock>> {
        hold(&self.state).lock(self.life)?;
        Ok(Box::new(HeldLock { state: self.state.clone(), life: self.life }))
    }
}

#[derive(Debug)]
struct HeldLock {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl BackendLock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut state = hold(&self.state);
        if state.life == self.life {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct OpenFile {
    state: Arc<Mutex<State>>,
    life: u64,
    id: FileId,
    name: String,
}

impl OpenFile {
    fn place(&self) -> FilePlace<'_> {
        FilePlace { life: self.life, id: self.id, name: &self.name }
    }
}

impl StorageFile for OpenFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        hold(&self.state).read(self.place(), offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        hold(&self.state).write(self.place(), offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        hold(&self.state).len(self.place())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        hold(&self.state).set_len(self.place(), len)
    }

    fn sync(&self) -> io::Result<()> {
        hold(&self.state).sync(self.place())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut state = hold(&self.state);
        if state.life == self.life {
            state.medium.close(self.id);
        }
    }
}
