//! Which process holds a lock on a file, where the system tells: on Linux, of the processes that this one may look into.
//!
//! The kernel names no process for a lock that belongs to an open file, as redb's do, but `/proc/PID/fdinfo/FD` lists
//! the locks of each open file. A process that only has the file open holds none and is not named.

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
    /// How much is read of what is told of an open file: those of some kinds have very many lines.
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

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
mod tests {
    use std::ops::Bound;

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::linux::Lock;
    use super::*;

    const BASE: u64 = 1 << 62;

    fn wanted(first: u64, last: u64, exclusive: bool) -> Wanted {
        Wanted { first, last, exclusive }
    }

    fn excludes(line: &str, wanted: Wanted) -> bool {
        Lock::read(line).is_some_and(|lock| lock.excludes(7, wanted))
    }

    #[test]
    fn only_a_lock_on_the_same_bytes_of_the_same_file_excludes() {
        let exclusive = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 319";
        assert!(excludes(exclusive, wanted(319, 400, false)));
        assert!(!excludes(exclusive, wanted(320, 400, true)), "it ends before");
        assert!(!excludes(&exclusive.replace(":7 ", ":8 "), wanted(0, 319, true)), "that is another file");
        let shared = exclusive.replace("WRITE", "READ");
        assert!(!excludes(&shared, wanted(0, 319, false)));
        assert!(excludes(&shared, wanted(0, 319, true)));
        assert!(excludes("lock:\t2: POSIX  ADVISORY  WRITE 12 fe:00:7 100 EOF", wanted(BASE, BASE, false)));
        assert!(!excludes("lock:\t2: LEASE  ACTIVE    WRITE 12 fe:00:7 0 EOF", wanted(0, 0, true)));
        assert!(!excludes("ino:\t7", wanted(0, 0, true)));
        assert!(!excludes("lock:\t1: OFDLCK ADVISORY", wanted(0, 0, true)));
    }

    #[test]
    fn a_lock_on_the_whole_file_excludes_where_redb_takes_one_too() {
        let exclusive = "lock:\t1: FLOCK  ADVISORY  WRITE 12 fe:00:7 0 EOF";
        assert!(excludes(exclusive, wanted(BASE + 1, BASE + 1, true)));
        assert!(excludes(exclusive, Wanted::whole_file(false)));
        assert!(!excludes(exclusive, wanted(0, 319, true)), "that of the header is on its bytes");
        let shared = exclusive.replace("WRITE", "READ");
        assert!(!excludes(&shared, wanted(BASE + 1, BASE + 1, true)), "a writer with readers shares it");
        assert!(excludes(&shared, wanted(BASE + 1024, u64::MAX, true)));
    }

    #[test]
    fn who_only_has_the_file_open_holds_no_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = FileId::at(file.path());
        let open = || FileBackend::new(File::open(file.path()).unwrap()).unwrap();
        let byte = |byte| (Bound::Included(byte), Bound::Included(byte));
        let other = open();
        let (start, end) = byte(5);
        assert!(other.try_lock_shared_range(start, end).unwrap());
        let holder = |wanted| locked(id.as_ref(), wanted).holder;
        assert_eq!(holder(Wanted::new(byte(5), true)), Some(std::process::id()));
        assert_eq!(holder(Wanted::new(byte(5), false)), None, "it is shared");
        assert_eq!(holder(Wanted::new(byte(6), true)), None, "nobody has a lock there");
        other.unlock_range(start, end).unwrap();
        assert_eq!(holder(Wanted::whole_file(true)), None, "it is only open");
    }
}
