//! [`Temporary`]: a folder for files that are not complete yet, which goes when its process does; and if that was
//! killed, when a later one comes. The operator's tool uses it too, by `keystead::cli_support`.
//!
//! Others may write where such a folder lies, and may want that somebody who may do more than they deletes for them.
//! So a folder is opened once and then used by its descriptor: what is put in its place later is never looked at.
//! What a killed process left is only removed if it can't have been made by anybody else ([`remove_unused`]).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What the names of such folders begin with, and end with.
const PREFIX: &str = ".keystead-";
const SUFFIX: &str = ".tmp";
/// How many random characters stand between.
const RANDOM: usize = 16;
/// How often another name is tried, if somebody removes the folder before it is locked.
const ATTEMPTS: usize = 16;

/// A folder, for its owner only, that is removed with all that is in it when this is dropped.
///
/// A process that is killed leaves it, but not its lock. So whoever gets the lock knows that nobody uses the folder.
pub struct Temporary {
    folder: PathBuf,
    #[cfg(unix)]
    opened: File,
    /// Held until the folder is gone.
    _lock: File,
}

impl Temporary {
    /// In this folder.
    ///
    /// # Errors
    ///
    /// They name the folder in which it was to be made.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(made) = Self::attempt(folder).map_err(|error| in_folder(folder, &error))? {
                return Ok(made);
            }
        }
        Err(in_folder(folder, &io::ErrorKind::ResourceBusy.into()))
    }

    /// In the folder in which a file is, or will be.
    pub fn beside(path: &Path) -> io::Result<Self> {
        Self::create_in(folder_of(path))
    }

    /// `None` if somebody else found it before it was locked, and has removed it.
    fn attempt(folder: &Path) -> io::Result<Option<Self>> {
        let mut named = tempfile::Builder::new();
        named.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        named.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = named.tempdir_in(folder)?.keep();
        match Self::lock(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                // It holds nothing, or is not this one any more.
                let _ = std::fs::remove_dir(&folder);
                Err(error)
            }
            locked => locked,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

/// The file in a folder of ours that is locked for as long as somebody uses the folder. Its name is made of the
/// folder's, so a folder that somebody gave such a name has none.
fn lock_name(folder: &str) -> Option<String> {
    let random = folder.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let is_random = random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_random.then(|| format!("lock-{random}"))
}

fn lock_name_of(folder: &Path) -> io::Result<String> {
    let name = folder.file_name().and_then(|name| name.to_str()).and_then(lock_name);
    name.ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

#[cfg(unix)]
pub use by_descriptor::remove_unused;

/// All by descriptors.
#[cfg(unix)]
mod by_descriptor {
    use std::ffi::{CStr, CString};
    use std::fs::{File, TryLockError};
    use std::io;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat, unlinkat};
    use rustix::io::Errno;
    use rustix::process::geteuid;

    use super::{Temporary, lock_name, lock_name_of};

    /// How many folders of ours lie in each other: where a store is made in one, its files are made in another.
    const DEPTH: usize = 3;

    impl Temporary {
        pub(super) fn lock(folder: &Path) -> io::Result<Option<Self>> {
            let name = lock_name_of(folder)?;
            let opened = open_folder(CWD, folder)?;
            // What is in it when it is removed came later.
            if !entries(&opened)?.is_empty() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = File::from(openat(&opened, &*name, flags, Mode::RUSR | Mode::WUSR)?);
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                // Where files can't be locked nobody else gets the lock either, so nobody removes the folder.
                Err(TryLockError::Error(_)) | Ok(()) => {}
            }
            // Who had the lock before removes the folder before the lock goes.
            match statat(&opened, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(Some(Self { folder: folder.to_path_buf(), opened, _lock: lock })),
            }
        }

        fn remove(&self) -> io::Result<()> {
            empty(&self.opened, &lock_name_of(&self.folder)?, DEPTH)?;
            // Only an empty folder goes by this, and no link.
            std::fs::remove_dir(&self.folder)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            // What can't be removed now is removed by the next one who comes.
            let _ = self.remove();
        }
    }

    /// Removes what killed processes left in a folder. To be called when it is known that it is a folder of ours:
    /// that a store is there, or has been made there.
    ///
    /// What goes has a name as ours have, is a folder of the user of this process in which nobody else may do
    /// anything, has a lock that is a file of this user and is named after the folder, and that nobody holds. So does
    /// one that is empty. All else stays, and so does what can't be removed: nobody needs it, and that is no reason
    /// to fail.
    pub fn remove_unused(folder: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(folder) = openat(CWD, folder, flags, Mode::empty()).map(File::from) else { return };
        for entry in entries(&folder).unwrap_or_default() {
            if let Some(lock) = entry.to_str().ok().and_then(lock_name) {
                let _ = remove_if_unused(&folder, &entry, &lock);
            }
        }
    }

    fn remove_if_unused(parent: &File, name: &CStr, lock_name: &str) -> io::Result<()> {
        let folder = open_folder(parent, name)?;
        let found = folder.metadata()?;
        if found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
            return Ok(());
        }
        // One that is no file does not hold this up.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let lock = match openat(&folder, lock_name, flags, Mode::empty()) {
            // Its process ended before there was a lock, or has not come so far; then it takes another name. A folder
            // that holds anything is not removed by this.
            Err(Errno::NOENT) => return Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?),
            opened => File::from(opened?),
        };
        let found = lock.metadata()?;
        if !found.is_file() || found.uid() != geteuid().as_raw() {
            return Ok(());
        }
        match lock.try_lock() {
            Ok(()) => {
                empty(&folder, lock_name, DEPTH)?;
                Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
            }
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes what is in a folder: files, and folders of ours. The file by which it is known that nobody uses it
    /// goes after all else: this may be killed too.
    fn empty(folder: &File, lock_name: &str, depth: usize) -> io::Result<()> {
        for entry in entries(folder)? {
            match entry.to_str().ok() {
                Some(name) if name == lock_name => {}
                Some(name) if depth > 1 && super::lock_name(name).is_some() => {
                    let inner_lock = super::lock_name(name).unwrap_or_default();
                    empty(&open_folder(folder, &*entry)?, &inner_lock, depth - 1)?;
                    unlinkat(folder, &*entry, AtFlags::REMOVEDIR)?;
                }
                _ => unlinkat(folder, &*entry, AtFlags::empty())?,
            }
        }
        match unlinkat(folder, lock_name, AtFlags::empty()) {
            // Killed before it was made; or somebody else was faster.
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// A folder, and no link to one.
    fn open_folder(parent: impl AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(parent, name, flags, Mode::empty())?))
    }

    fn entries(folder: &File) -> io::Result<Vec<CString>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                entries.push(name);
            }
        }
        Ok(entries)
    }
}

/// Nothing: whose folder it is can't be proved here, so what a killed process left stays.
#[cfg(not(unix))]
pub fn remove_unused(_: &Path) {}

#[cfg(not(unix))]
impl Temporary {
    fn lock(folder: &Path) -> io::Result<Option<Self>> {
        let lock = folder.join(lock_name_of(folder)?);
        let lock = std::fs::OpenOptions::new().write(true).create_new(true).open(lock)?;
        Ok(Some(Self { folder: folder.to_path_buf(), _lock: lock }))
    }
}

#[cfg(not(unix))]
impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A file, for its owner only, that is written in such a folder until it gets its name.
pub struct TemporaryFile {
    // The order in which they are dropped.
    file: NamedTempFile,
    _folder: Temporary,
}

impl TemporaryFile {
    /// An empty one, in the folder in which it will be.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let folder = Temporary::beside(path)?;
        let file =
            NamedTempFile::new_in(folder.path()).map_err(|error| in_folder(folder_of(path), &error))?;
        Ok(Self { file, _folder: folder })
    }

    /// Where it is until it gets its name.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, as it was opened when it was made.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The file, opened once more.
    pub fn reopen(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// Gives it its name, in the place of a file that is there; and removes what killed processes left beside it.
    pub fn replace(self, path: &Path) -> io::Result<()> {
        self.file.persist(path).map(drop).map_err(|refused| refused.error)?;
        remove_unused(folder_of(path));
        Ok(())
    }

    /// Gives it its name if there is no file of that name; otherwise `AlreadyExists`.
    pub fn name(self, path: &Path) -> io::Result<()> {
        self.file.persist_noclobber(path).map(drop).map_err(|refused| refused.error)?;
        remove_unused(folder_of(path));
        Ok(())
    }
}

/// The folder that a file is in, or will be.
pub fn folder_of(path: &Path) -> &Path {
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
    use std::fs;

    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
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
                        remove_unused(folder.path());
                        assert!(made.path().exists());
                    }
                });
            }
        });
        assert_eq!(names_in(folder.path()), [""; 0]);
    }

    #[cfg(unix)]
    mod left_behind {
        use std::fs::Permissions;
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        use std::process::Command;

        use super::*;

        const NAME: &str = ".keystead-0123456789abcdef.tmp";
        const LOCK: &str = "lock-0123456789abcdef";

        /// As a process leaves it that is killed: with its files, and without its lock.
        fn left_behind(folder: &Path) -> PathBuf {
            let left = std::mem::ManuallyDrop::new(Temporary::create_in(folder).unwrap());
            fs::write(left.path().join("copy"), "half of it").unwrap();
            // A store was being made in it.
            let inner = std::mem::ManuallyDrop::new(Temporary::create_in(left.path()).unwrap());
            fs::write(inner.path().join("store"), "half of it").unwrap();
            inner._lock.unlock().unwrap();
            left._lock.unlock().unwrap();
            left.path().to_path_buf()
        }

        /// A folder as ours are, of this name, with a file, and a lock if one is named.
        fn made(folder: &Path, name: &str, lock: Option<&str>) -> PathBuf {
            let made = folder.join(name);
            fs::create_dir(&made).unwrap();
            fs::set_permissions(&made, Permissions::from_mode(0o700)).unwrap();
            fs::write(made.join("theirs"), "").unwrap();
            if let Some(lock) = lock {
                fs::write(made.join(lock), "").unwrap();
            }
            made
        }

        fn fifo(path: &Path) {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }

        #[test]
        fn what_nobody_uses_is_removed_and_what_is_used_stays() {
            let folder = tempfile::tempdir().unwrap();
            let used = TemporaryFile::beside(&folder.path().join("store")).unwrap();
            let left = left_behind(folder.path());
            assert!(left.join("copy").exists());
            let without_lock = made(folder.path(), NAME, None);
            fs::remove_file(without_lock.join("theirs")).unwrap();
            drop(Temporary::create_in(folder.path()).unwrap());
            assert!(left.exists(), "nobody knows yet whose place this is");
            remove_unused(folder.path());
            assert!(!left.exists() && !without_lock.exists());
            assert!(used.path().exists());
            let left = left_behind(folder.path());
            used.name(&folder.path().join("store")).unwrap();
            assert!(!left.exists(), "also when a file gets its name");
            assert_eq!(names_in(folder.path()), ["store"]);
            assert!(made(folder.path(), NAME, Some(LOCK)).exists());
            remove_unused(folder.path());
            assert_eq!(
                names_in(folder.path()),
                ["store"],
                "what the other tests make is ours but for one thing"
            );
        }

        #[test]
        fn what_is_of_others_stays() {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            // Those of an older version, which locked nothing; another length, other characters; no lock in it, or
            // that of another folder.
            for name in [
                ".keystead-abcdef",
                ".keystead-copy-abcdef",
                ".keystead-0123456789abcde.tmp",
                ".keystead-0123456789abcde-.tmp",
                "keystead-0123456789abcdef.tmp",
                ".keystead-0123456789abcdef",
            ] {
                made(folder, name, Some(LOCK));
            }
            made(folder, NAME, None);
            made(folder, ".keystead-2222222222222222.tmp", Some(LOCK));
            made(folder, ".keystead-3333333333333333.tmp", Some("lock"));
            fs::write(folder.join(".keystead-fedcba9876543210.tmp"), "a file").unwrap();
            let elsewhere = made(folder, "elsewhere", Some("lock-1111111111111111"));
            symlink(&elsewhere, folder.join(".keystead-1111111111111111.tmp")).unwrap();
            // Others may do something in it.
            for (name, mode) in
                [("4444444444444444", 0o777), ("5555555555555555", 0o710), ("6666666666666666", 0o704)]
            {
                let open = made(folder, &format!(".keystead-{name}.tmp"), Some(&format!("lock-{name}")));
                fs::set_permissions(open, Permissions::from_mode(mode)).unwrap();
            }
            let before = names_in(folder);
            remove_unused(folder);
            assert_eq!(names_in(folder), before);
            for name in before.iter().filter(|name| *name != ".keystead-fedcba9876543210.tmp") {
                assert!(folder.join(name).join("theirs").exists(), "{name}");
            }
        }

        /// Nobody ends it but the test's own clock, if an opening waits for a writer.
        #[test]
        fn a_lock_that_is_no_file_of_ours_is_left_and_holds_up_nobody() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_path_buf();
            let with_fifo = made(&path, NAME, None);
            fifo(&with_fifo.join(LOCK));
            let with_link = made(&path, ".keystead-1111111111111111.tmp", None);
            fs::write(path.join("target"), "").unwrap();
            symlink(path.join("target"), with_link.join("lock-1111111111111111")).unwrap();
            let (done, wait) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                remove_unused(&path);
                done.send(()).unwrap();
            });
            wait.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
            assert!(with_fifo.join("theirs").exists() && with_link.join("theirs").exists());
            assert!(folder.path().join("target").exists());
        }

        /// Only root can make what is of somebody else.
        #[test]
        fn what_another_user_made_is_left() {
            if !rustix::process::geteuid().is_root() {
                return;
            }
            let folder = tempfile::tempdir().unwrap();
            let theirs = made(folder.path(), NAME, Some(LOCK));
            chown(&theirs, Some(65534), Some(65534)).unwrap();
            let name = ".keystead-1111111111111111.tmp";
            let their_lock = made(folder.path(), name, Some("lock-1111111111111111"));
            chown(their_lock.join("lock-1111111111111111"), Some(65534), Some(65534)).unwrap();
            let empty = folder.path().join(".keystead-2222222222222222.tmp");
            fs::create_dir(&empty).unwrap();
            chown(&empty, Some(65534), Some(65534)).unwrap();
            fs::set_permissions(&empty, Permissions::from_mode(0o700)).unwrap();
            remove_unused(folder.path());
            assert!(theirs.join("theirs").exists() && their_lock.join("theirs").exists() && empty.exists());
        }

        /// Whoever may write there puts a link in the place of a folder that is in use.
        #[test]
        fn what_is_put_in_the_place_of_a_folder_is_left_when_it_is_removed() {
            let folder = tempfile::tempdir().unwrap();
            let victim = made(folder.path(), "victim", None);
            let used = Temporary::create_in(folder.path()).unwrap();
            fs::write(used.path().join("copy"), "").unwrap();
            let place = used.path().to_path_buf();
            let moved = folder.path().join("moved");
            fs::rename(&place, &moved).unwrap();
            symlink(&victim, &place).unwrap();
            fs::write(victim.join(lock_name_of(&place).unwrap()), "").unwrap();
            drop(used);
            assert_eq!(names_in(&victim).len(), 2);
            assert!(victim.join("theirs").exists());
            assert_eq!(names_in(&moved), [""; 0], "what it was is emptied, wherever it is");
        }

        /// What is in a folder of ours is no way out of it.
        #[test]
        fn links_in_a_folder_are_removed_and_not_followed() {
            let folder = tempfile::tempdir().unwrap();
            let victim = made(folder.path(), "victim", Some(LOCK));
            let left = left_behind(folder.path());
            symlink(&victim, left.join("link")).unwrap();
            symlink(victim.join("theirs"), left.join("file")).unwrap();
            remove_unused(folder.path());
            assert!(!left.exists());
            let left = left_behind(folder.path());
            symlink(&victim, left.join(NAME)).unwrap();
            remove_unused(folder.path());
            assert!(left.exists(), "nor is one that is named as a folder of ours");
            assert_eq!(names_in(&victim), [LOCK, "theirs"]);
        }
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
