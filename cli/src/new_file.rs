//! [`NewFile`]: a file that appears under its name when it is complete.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use keystead::Error;
use keystead::cli_support::{TemporaryFile, folder_of};

use crate::failure::Failure;

/// A file that is being written beside its place, for its owner only: it has all names.
pub(crate) struct NewFile {
    file: TemporaryFile,
    path: PathBuf,
}

impl NewFile {
    /// # Errors
    ///
    /// `FileExists` if there is a file already: nothing is overwritten.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        must_be_new(path)?;
        Self::beside(path)
    }

    /// One that may take the place of a file.
    pub(crate) fn beside(path: &Path) -> Result<Self, Failure> {
        let file = TemporaryFile::beside(path).map_err(|error| failed(path, error))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    pub(crate) fn writer(&self) -> impl io::Write {
        Named { file: self.file.file(), path: &self.path }
    }

    /// Puts it in its place, if nothing is there.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Self { file, path } = self;
        file.file().sync_all().map_err(|error| failed(&path, error))?;
        match file.name(&path) {
            Ok(()) => sync_folder_of(&path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::FileExists(path.display().to_string().into()).into())
            }
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Puts it in its place, and what was there is gone.
    pub(crate) fn replace(self) -> Result<(), Failure> {
        let Self { file, path } = self;
        file.file().sync_all().map_err(|error| failed(&path, error))?;
        file.replace(&path).map_err(|error| failed(&path, error))?;
        sync_folder_of(&path)
    }
}

/// A file whose errors name it, by the name that it will have.
struct Named<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Named<'_> {
    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

impl io::Write for Named<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.named(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.named(&error))
    }
}

/// Nothing is overwritten. Asked before anything is confirmed; the library asks again.
pub(crate) fn must_be_new(path: &Path) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::of_file(path)(error.into())),
        Ok(_) => Err(Error::FileExists(path.display().to_string().into()).into()),
    }
}

/// So that the name outlives a crash too.
pub(crate) fn sync_folder_of(path: &Path) -> Result<(), Failure> {
    if cfg!(unix) {
        let synced = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(path, error))?;
    }
    Ok(())
}

fn failed(path: &Path, error: io::Error) -> Failure {
    Failure::of_file(path)(error.into())
}
