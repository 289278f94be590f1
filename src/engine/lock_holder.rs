//! Which process holds a lock on a file, where the system tells: on Linux, of the processes that this one may look into.
//!
//! The kernel names no process for a lock that belongs to an open file, as redb's do, but `/proc/PID/fdinfo/FD` lists
//! the locks of each open file. A process that only has the file open holds none and is not named.

#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::path::Path;

use super::lock_wait::Wanted;
use crate::error::Locked;

/// What is said of a file whose path is not known.
const NO_PATH: &str = "a file of the store";

/// A file, by what it is and not only by its path.
#[derive(Debug, Clone)]
pub(crate) struct FileId {
    path: Box<str>,
    /// The device and the number of the file on it.
    #[cfg(target_os = "linux")]
    inode: (u64, u64),
}

impl FileId {
    /// That of an open file.
    pub(crate) fn of(file: &File, path: &Path) -> Option<Self> {
        file.metadata().ok().map(|metadata| Self::new(&metadata, path))
    }

    /// That of the file at this path, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|metadata| Self::new(&metadata, path))
    }

    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nothing is looked for"))]
    fn new(metadata: &Metadata, path: &Path) -> Self {
        Self {
            path: path.display().to_string().into(),
            #[cfg(target_os = "linux")]
            inode: linux::inode(metadata),
        }
    }
}

/// Says what is locked, and looks for the process that holds a lock which excludes the wanted one.
pub(crate) fn locked(file: Option<&FileId>, wanted: Wanted) -> Locked {
    let path = file.map_or_else(|| NO_PATH.into(), |file| file.path.clone());
    Locked { path, holder: file.and_then(|file| find(file, wanted)) }
}

/// A file that is locked by somebody, whom nobody looked for yet.
pub(crate) fn locked_by_somebody() -> Locked {
    Locked { path: NO_PATH.into(), holder: None }
}

/// The process that holds a lock on the file which excludes the wanted one.
#[cfg(target_os = "linux")]
pub(crate) fn find(file: &FileId, wanted: Wanted) -> Option<u32> {
    linux::holder(file.inode, wanted)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn find(_: &FileId, _: Wanted) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, File, Metadata};
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::time::Duration;

    use super::Wanted;
    use crate::time::Stopwatch;

    /// How long is looked at most: there may be very many processes.
    const TIME_MAX: Duration = Duration::from_millis(200);
    /// How much is read of the lines about an open file: some kinds have very many.
    const BYTES_MAX: u64 = 64 * 1024;
    /// Where redb's locks lie that stand for no bytes of the file.
    const LOCK_BASE: u64 = 1 << 62;

    /// A lock of an open file, as `/proc` tells it.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Lock {
        /// One on the whole file, which has nothing to do with those on bytes.
        whole_file: bool,
        exclusive: bool,
        inode: u64,
        first: u64,
        last: u64,
    }

    pub(super) fn inode(metadata: &Metadata) -> (u64, u64) {
        (metadata.dev(), metadata.ino())
    }

    /// The first process that holds a lock which excludes the wanted one.
    pub(super) fn holder(file: (u64, u64), wanted: Wanted) -> Option<u32> {
        let since = Stopwatch::start();
        // redb also locks the whole file where it takes some of its locks, so such a lock may be the reason, if no
        // other one is.
        let mut of_whole_file = None;
        for process in fs::read_dir("/proc").ok()?.flatten() {
            let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Another user's, or it has ended.
            let Ok(files) = fs::read_dir(process.path().join("fdinfo")) else { continue };
            for number in files.flatten() {
                if since.elapsed() >= TIME_MAX {
                    return of_whole_file;
                }
                let excluding = locks(&number.path()).into_iter().find(|lock| lock.excludes(file.1, wanted));
                let Some(lock) = excluding else { continue };
                // The same number may be that of a file on another device.
                let opened = process.path().join("fd").join(number.file_name());
                if !opened.metadata().is_ok_and(|opened| inode(&opened) == file) {
                    continue;
                }
                if !lock.whole_file {
                    return Some(id);
                }
                of_whole_file = of_whole_file.or(Some(id));
            }
        }
        of_whole_file
    }

    /// The locks of one open file.
    fn locks(info: &Path) -> Vec<Lock> {
        let mut text = String::new();
        let read = File::open(info).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        if read.is_err() { Vec::new() } else { text.lines().filter_map(Lock::read).collect() }
    }

    impl Lock {
        /// Reads a line such as `lock: 1: OFDLCK ADVISORY  WRITE -1 fe:00:10010656 0 319`.
        pub(super) fn read(line: &str) -> Option<Self> {
            let mut words = line.strip_prefix("lock:")?.split_whitespace().skip(1);
            let whole_file = match words.next()? {
                "FLOCK" => true,
                "OFDLCK" | "POSIX" => false,
                _ => return None,
            };
            let exclusive = words.nth(1)? == "WRITE";
            let inode = words.nth(1)?.rsplit(':').next()?.parse().ok()?;
            let first = words.next()?.parse().ok()?;
            let last = match words.next()? {
                "EOF" => u64::MAX,
                last => last.parse().ok()?,
            };
            Some(Self { whole_file, exclusive, inode, first, last })
        }

        pub(super) fn excludes(&self, inode: u64, wanted: Wanted) -> bool {
            let overlap = self.first <= wanted.last && wanted.first <= self.last;
            let is_exclusive = match self.whole_file {
                // Shared with others, unless the range has no end: that is for one process alone.
                true if wanted.first >= LOCK_BASE || wanted.last == u64::MAX => {
                    self.exclusive || (wanted.exclusive && wanted.last == u64::MAX)
                }
                true => false,
                false => self.exclusive || wanted.exclusive,
            };
            self.inode == inode && overlap && is_exclusive
        }
    }
}
