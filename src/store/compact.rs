//! [`compact`]: a store without waste in the place of one that has some. See `docs/backup.md`.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Options;
use super::backup::now;
use super::building::Building;
use super::files::{disk_bytes, log_path, must_be_unused, naming_locked, sync_folder_of};
use super::temporary::Temporary;
use crate::engine::Draft;
use crate::error::Result;
use crate::telemetry::{self, Call, Place, Summary};

/// A store that was [compacted](compact()).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compacted {
    /// Rows of all kinds, those of the history not counted.
    pub rows: u64,
    /// The length of the file before.
    pub bytes_before: u64,
    /// Its length now.
    pub bytes: u64,
    /// How much of the disk the file took before: less than its length, if there were holes in it.
    pub disk_bytes_before: u64,
    /// How much of the disk it takes now; never more than before.
    pub disk_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Rewrites a store into full pages, and puts the new file in the place of the old one. The old file stays if the
/// new one would take more of the disk, or as much without being shorter. It is the same store: its incarnation,
/// commits, versions and positions stay what they were.
///
/// Nobody else may have the store open meanwhile, not even to read. The new file is made as a
/// [`backup`](crate::Store::backup) is, beside the old one, so there must be room for both; it is verified
/// and synced before it takes the name. Whenever it fails, or the process is killed, the file of that name is
/// the old one or the new one, whole. The new one has the permissions and the owner of the old one, but not
/// its access control lists. A write-ahead log beside it has nothing left that is needed, and is deleted; the store
/// makes another when it needs one.
///
/// ```
/// use keystead::{NewKey, Request, Scope, Store, compact};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("kms.redb");
/// let store = Store::open(&path)?;
/// let position = store.position()?;
/// drop(store);
/// let compacted = compact(&path)?;
/// assert!(compacted.disk_bytes <= compacted.disk_bytes_before);
/// assert_eq!(Store::open(&path)?.position()?, position);
/// # Ok::<(), keystead::Error>(())
/// ```
///
/// # Errors
///
/// [`AlreadyOpen`](crate::Error::AlreadyOpen) with this path. [`Io`](crate::Error::Io), also if there is no such file, or the
/// owner can't be kept. [`Corrupted`](crate::Error::Corrupted) or [`Unsound`](crate::Error::Unsound) if the store
/// is damaged: [repair](crate::repair) it. Those of [`Options::open`].
pub fn compact(path: impl AsRef<Path>) -> Result<Compacted> {
    telemetry::told(
        Call::Compact,
        Place::default(),
        || compact_file(path.as_ref()),
        |compacted| Summary {
            rows: Some(compacted.rows),
            bytes: Some(compacted.bytes),
            ..Summary::default()
        },
    )
}

fn compact_file(path: &Path) -> Result<Compacted> {
    let started = now();
    // As it was named, not as it is called without links.
    let named = naming_locked(path);
    // The file itself, not a link to it.
    let path = &path.canonicalize()?;
    let before = path.metadata()?;
    must_be_unused(path).map_err(&named)?;
    // Closed after this, it has all that was in a redo log. It may be longer than before: redb ends a database with
    // a commit, which needs pages.
    drop(Options::new().check_integrity(true).open(path).map_err(&named)?);
    // From here on nobody else can open it, until the new one has its place.
    let old = Draft::open(path).map_err(&named)?;
    let folder = Temporary::beside(path)?;
    let new = folder.path().join("compacted");
    let mut building = Building::create(&new)?;
    building.copy(&*old.read()?)?;
    let built = building.finish()?;
    // Without its log the old one can be opened; beside a log that it does not know the new one could not.
    match fs::remove_file(log_path(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    sync_folder_of(path)?;
    let there = path.metadata()?;
    if (built.disk_bytes, built.bytes) < (disk_bytes(&there), there.len()) {
        keep_owner(&new, &before)?;
        fs::rename(&new, path)?;
        sync_folder_of(path)?;
    }
    drop(old);
    let now = path.metadata()?;
    Ok(Compacted {
        rows: built.report.rows,
        bytes_before: before.len(),
        bytes: now.len(),
        disk_bytes_before: disk_bytes(&before),
        disk_bytes: disk_bytes(&now),
        took: started.elapsed(),
    })
}

fn keep_owner(new: &Path, before: &Metadata) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let now = new.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            chown(new, Some(before.uid()), Some(before.gid()))?;
        }
    }
    Ok(fs::set_permissions(new, before.permissions())?)
}
