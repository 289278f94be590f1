//! [`NewFile`]: a file that appears under its name when it is complete.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use keystead::Error;
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::location::must_be_new;

/// A file that is being written beside its place, for its owner only: it has all names.
pub(crate) struct NewFile {
    file: NamedTempFile,
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
        let file = NamedTempFile::with_prefix_in(".keystead-", folder_of(path));
        let file = file.map_err(|error| failed(path, &error))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    pub(crate) fn writer(&mut self) -> &mut impl io::Write {
        self.file.as_file_mut()
    }

    /// Puts it in its place, if nothing is there.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.file.as_file().sync_all()?;
        match self.file.persist_noclobber(&self.path) {
            Ok(_) => sync_folder_of(&self.path),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::FileExists(self.path.display().to_string().into()).into())
            }
            Err(error) => Err(failed(&self.path, &error.error)),
        }
    }

    /// Puts it in its place, and what was there is gone.
    pub(crate) fn replace(self) -> Result<(), Failure> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path).map_err(|error| failed(&self.path, &error.error))?;
        sync_folder_of(&self.path)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// So that the name outlives a crash too.
fn sync_folder_of(path: &Path) -> Result<(), Failure> {
    if cfg!(unix) {
        let synced = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(path, &error))?;
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
