//! [`Options`]: how to open a store, and how one comes into being.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::files::{Files, LOG_BYTES_MAX, LOG_BYTES_MIN};
use super::incarnation::begin_anew_in_place;
use super::page_check::{BackgroundCheck, Checker};
use super::storages::{self, Storages};
use super::{Inner, Store};
use crate::engine::embedded::EmbeddedEngine;
#[cfg(feature = "etcd")]
use crate::engine::etcd::{Access, Etcd, EtcdEngine};
use crate::engine::lock_wait::LOCK_WAIT_DEFAULT;
use crate::engine::redb::{Pages, TableFile};
use crate::engine::simulated::Machine;
use crate::engine::{Batch, Engine, Log, ReadTransaction, Storage};
use crate::error::{Error, Result};
use crate::format::{Fixed, Space, corrupted, decode_fixed, encode_fixed};
use crate::id::{Region, random_bytes};
use crate::policy::{AliasScope, Compatibility, Policy, Quotas, Retention};
use crate::telemetry;
#[cfg(feature = "etcd")]
use crate::time::Stopwatch;
use crate::time::Timestamp;
use crate::txn::{Cache, TransactionLimits};

/// The region of a store whose creator named none.
const DEFAULT_REGION: &str = "local";

/// How to open a store.
///
/// ```
/// use keystead::{AliasScope, Options, Quotas};
/// let store = Options::new()
///     .alias_scope(AliasScope::Domain)
///     .region("cn-north-7".parse()?)
///     .quotas(Quotas { keys_per_project: 1000, ..Quotas::default() })
///     .in_memory()?;
/// assert_eq!(store.region().as_str(), "cn-north-7");
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    alias_scope: Option<AliasScope>,
    region: Option<Region>,
    compatibility: Compatibility,
    quotas: Quotas,
    retention: Retention,
    history: Option<bool>,
    create: bool,
    cache_bytes: usize,
    wal_bytes: u64,
    checkpoint_bytes: usize,
    record_cache_bytes: usize,
    check_integrity: bool,
    lock_wait: Duration,
    page_check: BackgroundCheck,
    page_check_rate: u64,
    restored: bool,
    transaction_time: Duration,
    run_closures_twice: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The memory for cached pages if nothing else is said: 64 MiB.
    pub const CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

    /// How long the write-ahead log may grow by default: 64 MiB.
    pub const WAL_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
    /// How many bytes of changes begin a checkpoint if nothing else is said: 8 MiB.
    pub const CHECKPOINT_BYTES_DEFAULT: usize = 8 * 1024 * 1024;
    /// The least that the write-ahead log may be allowed to grow to: half a mebibyte and 8 KiB.
    pub const WAL_BYTES_MIN: u64 = LOG_BYTES_MIN;
    /// The most: 16 GiB.
    pub const WAL_BYTES_MAX: u64 = LOG_BYTES_MAX;
    /// The memory for decoded records if nothing else is said: 64 MiB.
    pub const RECORD_CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

    /// How many bytes a second the check of pages in the background reads, if
    /// [`page_check_rate`](Self::page_check_rate) says nothing else: 32 MiB, so that 4 GiB take two minutes.
    pub const PAGE_CHECK_RATE_DEFAULT: u64 = 32 * 1024 * 1024;

    /// How long an opening waits by default while another process has the file locked: a second.
    pub const LOCK_WAIT_DEFAULT: Duration = LOCK_WAIT_DEFAULT;

    /// Everything as it is by default.
    pub fn new() -> Self {
        Self {
            alias_scope: None,
            region: None,
            compatibility: Compatibility::default(),
            quotas: Quotas::default(),
            retention: Retention::default(),
            history: None,
            create: true,
            cache_bytes: Self::CACHE_BYTES_DEFAULT,
            wal_bytes: Self::WAL_BYTES_DEFAULT,
            checkpoint_bytes: Self::CHECKPOINT_BYTES_DEFAULT,
            record_cache_bytes: Self::RECORD_CACHE_BYTES_DEFAULT,
            check_integrity: false,
            lock_wait: Self::LOCK_WAIT_DEFAULT,
            page_check: BackgroundCheck::default(),
            page_check_rate: Self::PAGE_CHECK_RATE_DEFAULT,
            restored: false,
            transaction_time: TransactionLimits::TIME_DEFAULT,
            run_closures_twice: false,
        }
    }

    /// Where aliases are unique. Fixed at creation, [`AliasScope::Project`] if nothing is said;
    /// opening a store that has another is [`Error::OptionsMismatch`].
    pub fn alias_scope(mut self, alias_scope: AliasScope) -> Self {
        self.alias_scope = Some(alias_scope);
        self
    }

    /// The region in the URNs of aliases. Fixed at creation, `local` if nothing is said; opening a
    /// store that has another is [`Error::OptionsMismatch`].
    pub fn region(mut self, region: Region) -> Self {
        self.region = Some(region);
        self
    }

    /// To which keys an alias may move; [`Compatibility::Any`] if nothing is said.
    pub fn compatibility(mut self, compatibility: Compatibility) -> Self {
        self.compatibility = compatibility;
        self
    }

    /// How much there may be. A quota below what is there already only keeps more from being added.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// Whether each commit leaves in the store what it changed: without that, what asks for history is
    /// [`Error::HistoryDisabled`]. Fixed at creation, true if nothing is said; opening a store that
    /// differs is [`Error::OptionsMismatch`].
    pub fn history(mut self, history: bool) -> Self {
        self.history = Some(history);
        self
    }

    /// Whether opening makes a store where there is none; true if nothing is said. Otherwise that is
    /// [`Error::NoStore`], and nothing is written: so a mistyped path, address or prefix is found out.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How long the history and the outcomes of repeatable requests are kept. Applied by
    /// [`sweep`](Store::sweep), so it matters only to a store that is swept. A number that is 0 is
    /// [`Error::OptionsMismatch`] at opening.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The most memory for cached pages of the file, in bytes;
    /// [`CACHE_BYTES_DEFAULT`](Self::CACHE_BYTES_DEFAULT) if nothing is said.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How long the write-ahead log may grow, in bytes; [`WAL_BYTES_DEFAULT`](Self::WAL_BYTES_DEFAULT) by default.
    ///
    /// The second commit of a process makes the log, if there is none, with less than a mebibyte. The log is doubled when
    /// half of it is full before [`checkpoint_bytes`](Self::checkpoint_bytes) have gathered; where there is no space for a
    /// longer one, it stays as it is. A commit that is larger than half of it goes to the table at once. A longer log lets
    /// longer bursts of writes go on before they wait for the table; it takes more memory, and more time to open after a
    /// crash. If the log is longer than this after a clean end, a shorter one takes its place. Out of the range from
    /// [`WAL_BYTES_MIN`](Self::WAL_BYTES_MIN) to [`WAL_BYTES_MAX`](Self::WAL_BYTES_MAX) it is [`Error::OptionsMismatch`]
    /// at opening.
    #[must_use]
    pub fn wal_bytes(mut self, bytes: u64) -> Self {
        self.wal_bytes = bytes;
        self
    }

    /// How many bytes of changes gather in memory before a checkpoint writes them to the table, in the background;
    /// [`CHECKPOINT_BYTES_DEFAULT`](Self::CHECKPOINT_BYTES_DEFAULT) if nothing is said. It begins earlier if half of the
    /// log is full, and later if another checkpoint still runs. A smaller number makes opening after a crash faster; with a
    /// larger one, a row that changes often is written to the table less often.
    pub fn checkpoint_bytes(mut self, bytes: usize) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// The most memory for decoded records of names that are asked for often, in bytes;
    /// [`RECORD_CACHE_BYTES_DEFAULT`](Self::RECORD_CACHE_BYTES_DEFAULT) if nothing is said, none if it is 0.
    /// An alias with its key is counted as about 0.8 KiB, a key asked for by its id as 0.65, more with tags, a
    /// description, and names of more than 23 bytes; all on the high side. So 64 MiB hold about 73,000 names, for
    /// all threads. Where there is more than one core, an eighth of it is for copies of those that each thread
    /// asks for most. It is filled as records are read, and [`Store::stats`] tells how it does. A process that opens the
    /// store [for reading only](Self::open_read_only) has one of its own.
    pub fn record_cache_bytes(mut self, bytes: usize) -> Self {
        self.record_cache_bytes = bytes;
        self
    }

    /// Whether opening reads the whole file and compares every page with its checksum; off by default. A damaged page is
    /// [`Error::Corrupted`], and the store is not opened.
    ///
    /// Without it each page is compared when it is read first, so a damaged page is never served; this finds out before
    /// anything is built on the store. Opening to write also rebuilds the lists of free pages: use it for a file that
    /// comes from elsewhere, because somebody can have made lists whose checksums fit and that overwrite what is needed.
    /// It takes as long as reading the file; [`page_check`](Self::page_check) does the same in the background.
    /// It has no effect on etcd and in memory.
    pub fn check_integrity(mut self, check_integrity: bool) -> Self {
        self.check_integrity = check_integrity;
        self
    }

    /// How long an opening waits while another process, or another handle of this one, has the file locked;
    /// [`LOCK_WAIT_DEFAULT`](Self::LOCK_WAIT_DEFAULT) by default. Then it is [`AlreadyOpen`](Error::AlreadyOpen), which
    /// names the process where the system tells. Out of the range from 10 ms to an hour it is
    /// [`Error::OptionsMismatch`] at opening. It has no effect on etcd and in memory.
    ///
    /// A read of a store that is open for reading only waits as long for the lock on the file's header, which processes
    /// hold for microseconds unless they are stopped just then. So does closing the store; without the lock the file stays
    /// as after a crash, and nothing is lost. A write waits on without a limit, because giving up in the middle of a
    /// commit would leave the store unable to write: [`Stats::locks`](crate::Stats::locks) and telemetry show that it waits.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// When the pages of the table are compared with their checksums in the background, after the store was opened to
    /// write; [after an unclean end](BackgroundCheck::AfterUncleanEnd) by default. What it finds is reported as
    /// [`Store::check_pages`] says.
    #[must_use]
    pub fn page_check(mut self, when: BackgroundCheck) -> Self {
        self.page_check = when;
        self
    }

    /// How many bytes a second the check in the background reads at most;
    /// [`PAGE_CHECK_RATE_DEFAULT`](Self::PAGE_CHECK_RATE_DEFAULT) by default, at least 1 MiB.
    #[must_use]
    pub fn page_check_rate(mut self, bytes_per_second: u64) -> Self {
        self.page_check_rate = bytes_per_second;
        self
    }

    /// Says that the file is a copy, made by other means than [`backup`](Store::backup), that takes the place of
    /// the store: opening it begins a new incarnation, in a commit of its own. Whoever kept a
    /// [`Position`](crate::Position) of the store before gets
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore), and can't miss that commits were lost; their
    /// numbers are not given again, as after a [`Restore`](crate::Restore). To be said once, when a copy is put
    /// in place; if there is no file, none is made, and that is [`NoStore`](Error::NoStore).
    pub fn restored(mut self, restored: bool) -> Self {
        self.restored = restored;
        self
    }

    /// How long a transaction may take from its begin to its commit;
    /// [`TIME_DEFAULT`](TransactionLimits::TIME_DEFAULT) if nothing is said. A write whose closure took longer is
    /// [`TransactionTooLarge`](Error::TransactionTooLarge), and nothing is written: it would have kept others
    /// waiting, or met them again and again. Out of the range from a millisecond to a minute it is
    /// [`Error::OptionsMismatch`] at opening.
    pub fn transaction_time(mut self, time: Duration) -> Self {
        self.transaction_time = time;
        self
    }

    /// For tests: runs the closure of every write twice from the same state, and fails with
    /// [`Error::Aborted`] if the two runs differ in what they would write. A closure must have no
    /// effect but on its transaction, because it may be run again.
    pub fn run_closures_twice(mut self, twice: bool) -> Self {
        self.run_closures_twice = twice;
        self
    }

    /// Opens the store in this file, or makes it if there is no such file. The file is for its owner
    /// only, and appears under its name when it is complete. If somebody else has it locked, it waits as long as
    /// [`lock_wait`](Self::lock_wait) says.
    ///
    /// # Errors
    ///
    /// [`NoStore`](Error::NoStore) if none is to be [made](Self::create), [`AlreadyOpen`](Error::AlreadyOpen),
    /// [`NotAStore`](Error::NotAStore), [`Unfinished`](Error::Unfinished), [`Unsupported`](Error::Unsupported),
    /// [`OptionsMismatch`](Error::OptionsMismatch), [`LogMismatch`](Error::LogMismatch),
    /// [`Corrupted`](Error::Corrupted), [`Io`](Error::Io).
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        self.check()?;
        if self.restored {
            // It is closed again, and has all that was in its log.
            // Nothing is made where the copy must be: an empty store would hide that it is not there.
            let as_it_was = self.clone().restored(false).create(false);
            drop(as_it_was.open(path)?);
            begin_anew_in_place(path, Timestamp::now())?;
            return as_it_was.open(path);
        }
        let files = self.files(path);
        let begin = |engine: &dyn Engine| self.begin(engine);
        self.on_to_write(files.open(begin)?)
    }

    /// Opens the store in this file for reading only, also while another process writes it: each read sees every
    /// commit that was acknowledged in any process before it began. A store that no process closed is read as the crash
    /// left it. Rows that are in the write-ahead log only are kept in memory. Nothing is written to either file, and the
    /// permission to read them is enough.
    ///
    /// The writer may end, be killed, and come again meanwhile. If another store, or an older copy of this one, takes
    /// its place, reads fail as [`Replaced`](Error::Replaced) until it is opened again.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`NoStore`](Error::NoStore) if there is no such file.
    /// [`AlreadyOpen`](Error::AlreadyOpen) if it is locked for longer than [`lock_wait`](Self::lock_wait): by a process that is
    /// opening it to write, or by one that uses it alone, as [`compact`](crate::compact) does.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.check()?;
        if self.restored {
            return Err(Error::ReadOnly);
        }
        self.on(self.files(path.as_ref()).open_read_only()?)
    }

    /// Opens the store that is kept in a [`Storage`] of the caller's instead of a file. An empty one becomes
    /// a store. With a storage for the write-ahead log, the store has one, as in files: an empty storage becomes a log when
    /// it is needed, and may grow to [`wal_bytes`](Self::wal_bytes). With `None` each commit goes to the table, which takes
    /// longer. Both storages are the store's alone until its last handle is dropped: nothing is locked, that is the caller's
    /// part.
    ///
    /// As with files, a store that was closed does not need its log any more, and may be opened without it. After a
    /// crash both storages belong together, and both must be given.
    ///
    /// ```
    /// use std::io;
    /// use std::sync::{Arc, Mutex};
    ///
    /// use keystead::{NewKey, Options, Request, Scope, Storage};
    ///
    /// /// Bytes of which none is kept as it is. A real one would encrypt them; this only says where.
    /// #[derive(Clone, Default)]
    /// struct Masked(Arc<Mutex<Vec<u8>>>);
    ///
    /// impl Storage for Masked {
    ///     fn len(&self) -> io::Result<u64> {
    ///         Ok(self.0.lock().unwrap().len() as u64)
    ///     }
    ///
    ///     fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
    ///         let bytes = self.0.lock().unwrap();
    ///         let kept = bytes.get(offset as usize..offset as usize + out.len());
    ///         let kept = kept.ok_or(io::ErrorKind::UnexpectedEof)?;
    ///         out.iter_mut().zip(kept).for_each(|(out, kept)| *out = kept ^ 0x5a);
    ///         Ok(())
    ///     }
    ///
    ///     fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
    ///         let place = offset as usize..offset as usize + data.len();
    ///         let mut bytes = self.0.lock().unwrap();
    ///         bytes[place].iter_mut().zip(data).for_each(|(kept, data)| *kept = data ^ 0x5a);
    ///         Ok(())
    ///     }
    ///
    ///     fn set_len(&self, length: u64) -> io::Result<()> {
    ///         self.0.lock().unwrap().resize(length as usize, 0x5a);
    ///         Ok(())
    ///     }
    ///
    ///     fn sync(&self) -> io::Result<()> {
    ///         Ok(()) // it ends with the process, as all memory
    ///     }
    /// }
    ///
    /// let table = Masked::default();
    /// let request = Request::new(&Scope::new("domain", "project")?);
    /// let new = NewKey::new("orders")?;
    /// let store = Options::new().open_on(Box::new(table.clone()), None)?;
    /// store.write(&request, |txn| txn.create_key(&new))?;
    /// drop(store);
    ///
    /// let again = Options::new().open_on(Box::new(table.clone()), None)?;
    /// assert!(again.read(request.scope(), |snap| snap.key(new.key_id)).is_ok());
    /// let bytes = table.0.lock().unwrap();
    /// assert!(!bytes.windows(6).any(|six| six == b"orders"));
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), but never [`AlreadyOpen`](Error::AlreadyOpen).
    /// [`NotAStore`](Error::NotAStore) also if an earlier opening was cut off while it made the store out of
    /// an empty storage: nothing was in it, so set its length to 0 and open it again.
    /// [`LogMismatch`](Error::LogMismatch) also if the store was not closed and its log is not given.
    pub fn open_on(&self, table: Box<dyn Storage>, log: Option<Box<dyn Storage>>) -> Result<Store> {
        self.check()?;
        self.open_storages(table, log, None)
    }

    fn open_storages(
        &self,
        table: Box<dyn Storage>,
        log: Option<Box<dyn Storage>>,
        machine: Option<Machine>,
    ) -> Result<Store> {
        let Self { create, wal_bytes: log_bytes, checkpoint_bytes, .. } = *self;
        let pages = self.pages();
        let storages = Storages { table, log, create, pages, log_bytes, checkpoint_bytes, machine };
        self.on_to_write(storages.open(|engine: &dyn Engine| self.begin(engine))?)
    }

    /// Opens the store on an etcd cluster, or begins it if nothing is there; by the feature `etcd`. Any number of
    /// processes may have it open, and each sees what the others write. [`cache_bytes`](Self::cache_bytes) is for
    /// rows that were read; what is about files does not count.
    ///
    /// The cluster must keep old revisions for longer than the longest walk takes through the whole store, a
    /// [`verify`](Store::verify) or a [`backup`](Store::backup), and take transactions of 256 operations:
    /// `--auto-compaction-retention`, `--max-txn-ops`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](Error::Unavailable) if no member answers within the deadline,
    /// [`AccessDenied`](Error::AccessDenied), [`NoStore`](Error::NoStore) if none is to be [begun](Self::create),
    /// [`NotAStore`](Error::NotAStore) if there is something else at the prefix, [`Unfinished`](Error::Unfinished),
    /// [`Unsupported`](Error::Unsupported), [`OptionsMismatch`](Error::OptionsMismatch),
    /// [`Corrupted`](Error::Corrupted), [`Io`](Error::Io) if etcd has used up its space.
    #[cfg(feature = "etcd")]
    pub fn open_etcd(&self, cluster: &Etcd) -> Result<Store> {
        self.check()?;
        let access = if self.create { Access::Begin } else { Access::Write };
        let engine = EtcdEngine::open(cluster, self.cache_bytes, access)?;
        let (since, mut conflicts) = (Stopwatch::start(), 0);
        while self.create
            && let Err(error) = self.begin(&engine)
        {
            // Another process may begin it at the same time.
            conflicts += 1;
            if !matches!(error, Error::Conflict) || !engine.should_retry(conflicts, since) {
                return Err(error);
            }
        }
        self.on_engine(Backend::on_cluster(engine), None)
    }

    /// Opens the store on an etcd cluster for reading only, by the feature `etcd`, while any number of processes
    /// write it: each read sees what was committed before it, anywhere. Nothing is written, not even for the time
    /// that it is open, so a user of etcd who may only read the keys of the store is enough. Each read asks the
    /// cluster: [`Etcd::staleness`] does not count here, because how old something is shows only by writing.
    ///
    /// # Errors
    ///
    /// Those of [`open_etcd`](Self::open_etcd); [`NoStore`](Error::NoStore) if there is nothing at the prefix.
    #[cfg(feature = "etcd")]
    pub fn open_etcd_read_only(&self, cluster: &Etcd) -> Result<Store> {
        self.check()?;
        let engine = EtcdEngine::open(cluster, self.cache_bytes, Access::Read)?;
        self.on_engine(Backend::on_cluster(engine), None)
    }

    /// A store that lives in memory and ends with its last handle; for tests.
    pub fn in_memory(&self) -> Result<Store> {
        self.check()?;
        let engine = EmbeddedEngine::without_log(TableFile::in_memory(self.cache_bytes)?)?;
        self.begin(&engine)?;
        self.on(Box::new(engine))
    }

    fn files<'a>(&self, path: &'a Path) -> Files<'a> {
        let Self { create, wal_bytes: log_bytes, checkpoint_bytes, .. } = *self;
        Files { path, create, pages: self.pages(), log_bytes, checkpoint_bytes }
    }

    fn pages(&self) -> Pages {
        let Self { cache_bytes, check_integrity, lock_wait, .. } = *self;
        Pages { cache_bytes, check_integrity, lock_wait }
    }

    fn check(&self) -> Result<()> {
        let ranges = [
            ("quotas.aliases_per_key", self.quotas.aliases_per_key, Quotas::ALIASES_PER_KEY_MAX),
            ("quotas.tags_per_key", self.quotas.tags_per_key, Quotas::TAGS_PER_KEY_MAX),
        ];
        if let Some((option, asked, max)) = ranges.into_iter().find(|(_, asked, max)| asked > max) {
            return Err(Error::OptionsMismatch {
                option,
                asked: asked.to_string(),
                expected: format!("at most {max}"),
            });
        }
        let retention = self.retention;
        let days = retention.history_days.map(u64::from);
        let hours = u64::from(retention.outcome_hours);
        let milliseconds = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let ranges = [
            ("transaction_time", milliseconds(self.transaction_time), 1, 60_000),
            ("lock_wait", milliseconds(self.lock_wait), 10, 3_600_000),
            ("page_check_rate", Some(self.page_check_rate), 1 << 20, u64::MAX),
            ("wal_bytes", Some(self.wal_bytes), LOG_BYTES_MIN, LOG_BYTES_MAX),
            ("retention.history_days", days, 1, Retention::HISTORY_DAYS_MAX.into()),
            ("retention.history_commits", retention.history_commits, 1, Retention::HISTORY_COMMITS_MAX),
            ("retention.outcome_hours", Some(hours), 1, Retention::OUTCOME_HOURS_MAX.into()),
            (
                "retention.outcomes_per_scope",
                Some(retention.outcomes_per_scope),
                1,
                Retention::OUTCOMES_PER_SCOPE_MAX,
            ),
        ];
        for (option, asked, min, max) in ranges {
            if let Some(asked) = asked.filter(|asked| !(min..=max).contains(asked)) {
                let (asked, expected) = (asked.to_string(), format!("from {min} to {max}"));
                return Err(Error::OptionsMismatch { option, asked, expected });
            }
        }
        Ok(())
    }

    /// Writes what is fixed at creation, the first commit of a store.
    pub(crate) fn begin(&self, engine: &dyn Engine) -> Result<()> {
        let row = Space::of_store().fixed();
        let rows = engine.begin_read()?;
        if rows.get(&[&row])?.iter().any(Option::is_some) {
            return Ok(());
        }
        must_be_empty(&*rows)?;
        drop(rows);
        let region = self.region.clone().map_or_else(|| Region::new(DEFAULT_REGION), Ok)?;
        let alias_scope = self.alias_scope.unwrap_or_default();
        let history = self.history.unwrap_or(true);
        let fixed = Fixed { incarnation: random_bytes(), alias_scope, region, history };
        let batch = Batch::from([(row.clone(), Some(encode_fixed(&fixed)))]);
        let transaction = engine.begin_write()?;
        // Where several may begin it at once, only the first finds nothing there.
        if transaction.get(&[&row])?.iter().any(Option::is_some) {
            return transaction.end();
        }
        transaction.commit(&batch, Log::default())?;
        Ok(())
    }

    /// The store on an engine that writes files, whose pages are to be checked.
    fn on_to_write(&self, engine: Box<dyn Engine>) -> Result<Store> {
        let engine: Arc<dyn Engine> = engine.into();
        let state = engine.stats().pages.unwrap_or_default();
        let check = match self.page_check {
            BackgroundCheck::Never => false,
            BackgroundCheck::AfterUncleanEnd => state.unclean,
            BackgroundCheck::AfterOpening => true,
        };
        // If no thread can be had for it, the store is as good without: `Stats::pages` counts no check then.
        let checked = || Checker::begin(Arc::clone(&engine), self.page_check_rate).ok();
        let checker = check.then(checked).flatten();
        self.on_engine(engine.into(), checker)
    }

    /// The store on an engine on which one was begun.
    pub(crate) fn on(&self, engine: Box<dyn Engine>) -> Result<Store> {
        self.on_engine(Arc::<dyn Engine>::from(engine).into(), None)
    }

    fn on_engine(&self, engine: Backend, checker: Option<Checker>) -> Result<Store> {
        let (row, unfinished) = (Space::of_store().fixed(), Space::of_store().unfinished());
        let rows = engine.begin_read()?;
        let (commit, mut stored) = (rows.commit(), rows.get(&[&row, &unfinished])?);
        if stored.pop().flatten().is_some() {
            return Err(Error::Unfinished);
        }
        let Some(stored) = stored.pop().flatten() else {
            must_be_empty(&*rows)?;
            return Err(Error::NoStore("this place: it was never begun".into()));
        };
        drop(rows);
        let fixed = decode_fixed(&row, &stored.bytes)?;
        must_be("alias_scope", self.alias_scope.map(AliasScope::as_str), fixed.alias_scope.as_str())?;
        must_be("region", self.region.as_ref().map(Region::as_str), fixed.region.as_str())?;
        must_be("history", self.history.map(show), show(fixed.history))?;
        let policy = Policy {
            alias_scope: fixed.alias_scope,
            compatibility: self.compatibility,
            quotas: self.quotas,
            region: fixed.region,
            history: fixed.history,
        };
        let inner = Inner {
            _checker: checker,
            _open: telemetry::Open::new(commit, fixed.history, engine.stats().wal.is_some()),
            engine,
            cache: Cache::new(self.record_cache_bytes),
            policy,
            retention: self.retention,
            incarnation: fixed.incarnation,
            transaction_time: self.transaction_time,
            run_closures_twice: self.run_closures_twice,
        };
        Ok(Store { inner: Arc::new(inner) })
    }
}

/// Not part of the API; see [`simulation`](crate::simulation). The storages are those of the table and of the write-ahead
/// log; each opening is a process of its own.
impl Machine {
    /// Opens the store for writing: the mark is written and locked, so that followers read along.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open(&self, options: &Options, files: [Arc<dyn Storage>; 2]) -> Result<Store> {
        options.check()?;
        let [table, log] = files.map(|file| Box::new(file) as Box<dyn Storage>);
        options.open_storages(table, Some(log), Some(self.clone()))
    }

    /// Opens the store as a follower, beside a writer or without one.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open_read_only`].
    pub fn follow(&self, options: &Options, files: [Arc<dyn Storage>; 2]) -> Result<Store> {
        options.check()?;
        options.on(Box::new(storages::follow(self, files, options.pages())?))
    }
}

/// Where what was fixed at creation is missing, there must be nothing else.
fn must_be_empty(rows: &dyn ReadTransaction) -> Result<()> {
    if rows.scan((Bound::Unbounded, Bound::Unbounded), 1)?.is_empty() {
        return Ok(());
    }
    let fixed = Space::of_store().fixed();
    Err(corrupted(&fixed, "what was fixed at creation is missing, and there are other rows"))
}

fn show(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn must_be(option: &'static str, asked: Option<&str>, stored: &str) -> Result<()> {
    match asked {
        Some(asked) if asked != stored => {
            Err(Error::OptionsMismatch { option, asked: asked.to_owned(), expected: stored.to_owned() })
        }
        _ => Ok(()),
    }
}
