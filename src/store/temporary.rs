//! [`Temporary`]: a folder for files that are not complete yet, which goes when its process does; and if that was
//! killed, when the next one comes. The operator's tool has this file as a module of its own too.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What the names of such folders begin with, and end with.
const PREFIX: &str = ".keystead-";
const SUFFIX: &str = ".tmp";
/// How many random characters stand between.
const RANDOM: usize = 16;
/// The file in it that is locked for as long as somebody uses the folder.
const LOCK: &str = "lock";
/// How often another name is tried, if somebody removes the folder before it is locked.
const ATTEMPTS: usize = 16;

/// A folder, for its owner only, that is removed with all that is in it when this is dropped.
///
/// A process that is killed leaves it, but not its lock. So whoever gets the lock knows that nobody uses the folder,
/// and removes it: see [`remove_unused`].
pub(crate) struct Temporary {
    folder: PathBuf,
    /// Held until the folder is gone.
    _lock: File,
}

impl Temporary {
    /// In this folder, from which those that nobody uses any more are removed first.
    ///
    /// # Errors
    ///
    /// They name the folder in which it was to be made.
    pub(crate) fn create_in(folder: &Path) -> io::Result<Self> {
        remove_unused(folder);
        for _ in 0..ATTEMPTS {
            if let Some(made) = Self::attempt(folder).map_err(|error| in_folder(folder, &error))? {
                return Ok(made);
            }
        }
        Err(in_folder(folder, &io::ErrorKind::ResourceBusy.into()))
    }

    /// In the folder in which a file is, or will be.
    pub(crate) fn beside(path: &Path) -> io::Result<Self> {
        Self::create_in(folder_of(path))
    }

    /// `None` if somebody else found it before it was locked, and has removed it.
    fn attempt(folder: &Path) -> io::Result<Option<Self>> {
        let mut named = tempfile::Builder::new();
        named.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        named.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = named.tempdir_in(folder)?.keep();
        let lock = match OpenOptions::new().write(true).create_new(true).open(folder.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Where files can't be locked nobody else gets the lock either, so nobody removes the folder.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        // Who had the lock before removes the folder before the lock goes.
        let is_there = folder.join(LOCK).try_exists()?;
        Ok(is_there.then_some(Self { folder, _lock: lock }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next one who comes.
        let _ = remove(&self.folder);
    }
}

/// A file, for its owner only, that is written in such a folder until it gets its name.
pub(crate) struct TemporaryFile {
    // The order in which they are dropped.
    file: NamedTempFile,
    _folder: Temporary,
}

impl TemporaryFile {
    /// An empty one, in the folder in which it will be.
    pub(crate) fn beside(path: &Path) -> io::Result<Self> {
        let folder = Temporary::beside(path)?;
        let file =
            NamedTempFile::new_in(folder.path()).map_err(|error| in_folder(folder_of(path), &error))?;
        Ok(Self { file, _folder: folder })
    }

    /// Where it is until it gets its name.
    #[allow(dead_code, reason = "the tool does without")]
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, as it was opened when it was made.
    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The file, opened once more.
    #[allow(dead_code, reason = "the tool does without")]
    pub(crate) fn reopen(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// Gives it its name, in the place of a file that is there.
    pub(crate) fn replace(self, path: &Path) -> io::Result<()> {
        self.file.persist(path).map(drop).map_err(|refused| refused.error)
    }

    /// Gives it its name if there is no file of that name; otherwise `AlreadyExists`.
    pub(crate) fn name(self, path: &Path) -> io::Result<()> {
        self.file.persist_noclobber(path).map(drop).map_err(|refused| refused.error)
    }
}

/// Removes what killed processes left in a folder. What is not named as ours, is not made as ours, or is in use
/// stays. So does what can't be removed: nobody needs it, and that is no reason to fail.
pub(crate) fn remove_unused(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_name)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours {
            let _ = remove_if_unused(&entry.path());
        }
    }
}

fn is_name(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

fn remove_if_unused(folder: &Path) -> io::Result<()> {
    let lock = match File::open(folder.join(LOCK)) {
        // Its process ended before there was a lock, or has not come so far; then it takes another name. A folder
        // that holds anything is not removed by this.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::remove_dir(folder),
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => remove(folder),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes a folder, and the file by which it is known that nobody uses it after all else: this may be killed too.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != LOCK {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(LOCK))?;
    fs::remove_dir(folder)
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Names the folder that was meant, and not what was to be made in it.
fn in_folder(folder: &Path, error: &io::Error) -> io::Error {
    let folder = folder.display();
    let kind = error.kind();
    io::Error::new(
        kind,
        match kind {
            io::ErrorKind::NotFound => format!("there is no folder {folder}"),
            io::ErrorKind::NotADirectory => format!("{folder} is no folder"),
            kind => format!("nothing can be made in the folder {folder}: {kind}"),
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As a process leaves it that is killed: with its files, and without its lock.
    fn left_behind(folder: &Path) -> PathBuf {
        let Temporary { folder: path, _lock } =
            &*std::mem::ManuallyDrop::new(Temporary::create_in(folder).unwrap());
        fs::write(path.join("copy"), "half of it").unwrap();
        fs::create_dir(path.join("inner")).unwrap();
        _lock.unlock().unwrap();
        path.clone()
    }

    #[test]
    fn what_nobody_uses_is_removed_and_what_is_used_stays() {
        let folder = tempfile::tempdir().unwrap();
        let used = TemporaryFile::beside(&folder.path().join("store")).unwrap();
        let left = left_behind(folder.path());
        assert!(left.join("copy").exists());
        let without_lock = folder.path().join(".keystead-0123456789abcdef.tmp");
        fs::create_dir(&without_lock).unwrap();
        remove_unused(folder.path());
        assert!(!left.exists() && !without_lock.exists());
        assert!(used.path().exists());
        let left = left_behind(folder.path());
        let other = Temporary::create_in(folder.path()).unwrap();
        assert!(!left.exists(), "also when another one is made");
        drop(other);
        used.name(&folder.path().join("store")).unwrap();
        assert_eq!(names_in(folder.path()), ["store"]);
    }

    #[test]
    fn what_is_of_others_stays() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, lock: bool| {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("theirs"), "").unwrap();
            if lock {
                fs::write(folder.path().join(name).join(LOCK), "").unwrap();
            }
        };
        // Those of an older version, which locked nothing; another length, other characters; no lock in it.
        make(".keystead-abcdef", true);
        make(".keystead-copy-abcdef", true);
        make(".keystead-0123456789abcde.tmp", true);
        make(".keystead-0123456789abcde-.tmp", true);
        make("keystead-0123456789abcdef.tmp", true);
        make(".keystead-0123456789abcdef", true);
        make(".keystead-0123456789abcdef.tmp", false);
        fs::write(folder.path().join(".keystead-fedcba9876543210.tmp"), "a file").unwrap();
        #[cfg(unix)]
        {
            let elsewhere = folder.path().join("elsewhere");
            make("elsewhere", true);
            std::os::unix::fs::symlink(elsewhere, folder.path().join(".keystead-1111111111111111.tmp"))
                .unwrap();
        }
        let before = names_in(folder.path());
        remove_unused(folder.path());
        assert_eq!(names_in(folder.path()), before);
        assert!(folder.path().join(".keystead-0123456789abcdef.tmp/theirs").exists());
    }

    #[test]
    fn makers_and_removers_race() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..100 {
                        let made = TemporaryFile::beside(&folder.path().join("x")).unwrap();
                        assert!(made.path().exists());
                        std::thread::yield_now();
                        assert!(made.path().exists());
                    }
                });
            }
        });
        assert_eq!(names_in(folder.path()), [""; 0]);
    }

    #[test]
    fn an_error_names_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = Temporary::beside(&missing.join("store")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("there is no folder {}", missing.display()));
        fs::write(&missing, "").unwrap();
        let error = Temporary::beside(&missing.join("store")).err().unwrap();
        assert_eq!(error.to_string(), format!("{} is no folder", missing.display()));
    }
}
