//! A folder of ordinary files.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Backend, BackendLock, StorageFile};

/// The file that carries the exclusive lock; it is never part of the store's content.
const LOCK_NAME: &str = "lock";

/// A store in a folder of the file system.
#[derive(Debug)]
pub struct FileBackend {
    folder: PathBuf,
}

impl FileBackend {
    /// Uses `folder`, creating it and its parents where they are missing.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn new(folder: impl AsRef<Path>) -> io::Result<Self> {
        let folder = folder.as_ref().to_owned();
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder)?;
            if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_folder(parent)?;
            }
        }
        Ok(Self { folder })
    }

    fn open_with(&self, name: &str, options: &OpenOptions) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(OpenFile(options.open(self.folder.join(name))?)))
    }
}

impl Backend for FileBackend {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.open_with(name, OpenOptions::new().read(true).write(true))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        // What is in a store, the device's key among it, is its owner's alone.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        self.open_with(name, &options)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            // A name that is not Unicode is none of the store's.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }

    fn lock(&self) -> io::Result<Box<dyn BackendLock>> {
        let path = self.folder.join(LOCK_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(HeldLock { _file: file })),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "the store is open elsewhere"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The operating system releases the lock with the file, also when the process dies.
#[derive(Debug)]
struct HeldLock {
    _file: File,
}

impl BackendLock for HeldLock {}

#[derive(Debug)]
struct OpenFile(File);

impl StorageFile for OpenFile {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.0, out, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    out = &mut out[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere than on Unix a folder cannot be synced; its entries are journalled by the file system.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let first = FileBackend::new(folder.path()).unwrap();
        let second = FileBackend::new(folder.path()).unwrap();
        let held = first.lock().unwrap();
        assert_eq!(second.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        second.lock().unwrap();
    }

    #[test]
    fn files_read_back_what_was_written_and_end_where_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(folder.path().join("a/b")).unwrap();
        assert_eq!(backend.open("x").unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = backend.create("x").unwrap();
        file.write_at(3, b"abc").unwrap();
        file.sync().unwrap();
        backend.sync_directory().unwrap();
        let mut out = [9; 6];
        backend.open("x").unwrap().read_at(0, &mut out).unwrap();
        assert_eq!(&out, b"\0\0\0abc");
        assert_eq!(file.read_at(1, &mut out).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.set_len(2).unwrap();
        assert_eq!(file.len().unwrap(), 2);
        assert_eq!(backend.list().unwrap(), ["x"]);
        backend.remove("x").unwrap();
        assert!(backend.list().unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        FileBackend::new(folder.path()).unwrap().create("x").unwrap();
        let mode = std::fs::metadata(folder.path().join("x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
