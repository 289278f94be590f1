//! [`Options`]: how to open a store, and how one comes into being.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Inner, Store};
use crate::engine::redb::{RedbEngine, RedbReader};
use crate::engine::{Batch, Engine, Log};
use crate::error::{Error, Result};
use crate::format::{Fixed, Space, decode_fixed, encode_fixed};
use crate::id::{Region, random_bytes};
use crate::policy::{AliasScope, Compatibility, Policy, Quotas, Retention};
use crate::txn::Cache;

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
    cache_bytes: usize,
    record_cache_bytes: usize,
    restored: bool,
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

    /// The memory for decoded records if nothing else is said: 64 MiB.
    pub const RECORD_CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

    /// Everything as it is by default.
    pub fn new() -> Self {
        Self {
            alias_scope: None,
            region: None,
            compatibility: Compatibility::default(),
            quotas: Quotas::default(),
            retention: Retention::default(),
            history: None,
            cache_bytes: Self::CACHE_BYTES_DEFAULT,
            record_cache_bytes: Self::RECORD_CACHE_BYTES_DEFAULT,
            restored: false,
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

    /// The most memory for decoded records of names that are asked for often, in bytes;
    /// [`RECORD_CACHE_BYTES_DEFAULT`](Self::RECORD_CACHE_BYTES_DEFAULT) if nothing is said, none if it is 0.
    /// An alias with its key is counted as about 0.9 KiB, a key asked for by its id as 0.75, more with tags and
    /// a description; both on the high side. The memory is divided among the processor's cores, at most 4: a
    /// record that all threads ask for is there once for each. So 64 MiB hold about 73,000 names on one core,
    /// and the hottest 18,000 for each of 4. It is filled as records are read, and [`Store::stats`] tells how
    /// it does. A store that is opened for reading only has none, because another process changes its records.
    pub fn record_cache_bytes(mut self, bytes: usize) -> Self {
        self.record_cache_bytes = bytes;
        self
    }

    /// Says that the file is a copy that takes the place of the store: opening it begins a new
    /// incarnation, in a commit of its own. Whoever kept a [`Position`](crate::Position) of the store
    /// before gets [`PositionOfAnotherStore`](Error::PositionOfAnotherStore), and can't miss that commits
    /// were lost. To be said once, when a copy is put in place.
    pub fn restored(mut self, restored: bool) -> Self {
        self.restored = restored;
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
    /// only, and appears under its name when it is complete.
    ///
    /// # Errors
    ///
    /// [`AlreadyOpen`](Error::AlreadyOpen), [`NotAStore`](Error::NotAStore),
    /// [`Unsupported`](Error::Unsupported), [`OptionsMismatch`](Error::OptionsMismatch),
    /// [`Corrupted`](Error::Corrupted), [`Io`](Error::Io).
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        self.check()?;
        let engine = match RedbEngine::open(path, self.cache_bytes) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.create(path)?;
                RedbEngine::open(path, self.cache_bytes)?
            }
            opened => opened?,
        };
        self.on(Box::new(engine))
    }

    /// Opens the store in this file for reading only, also while another process writes it; each read
    /// sees what was committed before it. Nothing is written to the file.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open). A file that was not closed cleanly must be opened for writing
    /// once before: [`RecoveryNeeded`](Error::RecoveryNeeded).
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.check()?;
        // Its engine can't tell what has changed, so a cache would never be used.
        let uncached = self.clone().record_cache_bytes(0);
        uncached.on(Box::new(RedbReader::open(path.as_ref(), self.cache_bytes)?))
    }

    /// A store that lives in memory and ends with its last handle; for tests.
    pub fn in_memory(&self) -> Result<Store> {
        self.check()?;
        let engine = RedbEngine::in_memory(self.cache_bytes)?;
        self.begin(&engine)?;
        self.on(Box::new(engine))
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
        let ranges = [
            (
                "retention.history_days",
                retention.history_days.map(u64::from),
                Retention::HISTORY_DAYS_MAX.into(),
            ),
            ("retention.history_commits", retention.history_commits, Retention::HISTORY_COMMITS_MAX),
            (
                "retention.outcome_hours",
                Some(retention.outcome_hours.into()),
                Retention::OUTCOME_HOURS_MAX.into(),
            ),
            (
                "retention.outcomes_per_scope",
                Some(retention.outcomes_per_scope),
                Retention::OUTCOMES_PER_SCOPE_MAX,
            ),
        ];
        for (option, asked, max) in ranges {
            if let Some(asked) = asked.filter(|asked| !(1..=max).contains(asked)) {
                let (asked, expected) = (asked.to_string(), format!("from 1 to {max}"));
                return Err(Error::OptionsMismatch { option, asked, expected });
            }
        }
        Ok(())
    }

    /// Makes a store beside the path and moves it there, unless something is there by then.
    fn create(&self, path: &Path) -> Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let file = tempfile::Builder::new().prefix(".keystead-").tempfile_in(&folder)?;
        let engine = RedbEngine::create(file.reopen()?, self.cache_bytes)?;
        self.begin(&engine)?;
        drop(engine);
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            // Somebody else was faster: theirs is as good.
            Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            persisted => persisted.map_err(|refused| refused.error)?,
        };
        // The name is durable only with its folder; there is nothing to sync where that can't be done.
        if cfg!(unix) {
            File::open(&folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Writes what is fixed at creation, the first commit of a store.
    pub(crate) fn begin(&self, engine: &dyn Engine) -> Result<()> {
        let region = self.region.clone().map_or_else(|| Region::new(DEFAULT_REGION), Ok)?;
        let alias_scope = self.alias_scope.unwrap_or_default();
        let history = self.history.unwrap_or(true);
        let fixed = Fixed { incarnation: random_bytes(), alias_scope, region, history };
        let batch = Batch::from([(Space::of_store().fixed(), Some(encode_fixed(&fixed)))]);
        engine.begin_write()?.commit(&batch, Log::default())?;
        Ok(())
    }

    /// The store on an engine on which one was begun.
    pub(crate) fn on(&self, engine: Box<dyn Engine>) -> Result<Store> {
        let row = Space::of_store().fixed();
        let stored = engine.begin_read()?.get(&[&row])?.pop().flatten();
        let not_a_store = || Error::NotAStore("it was never begun".into());
        let mut fixed = decode_fixed(&row, &stored.ok_or_else(not_a_store)?.bytes)?;
        must_be("alias_scope", self.alias_scope.map(AliasScope::as_str), fixed.alias_scope.as_str())?;
        must_be("region", self.region.as_ref().map(Region::as_str), fixed.region.as_str())?;
        must_be("history", self.history.map(show), show(fixed.history))?;
        if self.restored {
            fixed.incarnation = random_bytes();
            let batch = Batch::from([(row, Some(encode_fixed(&fixed)))]);
            engine.begin_write()?.commit(&batch, Log::default())?;
        }
        let policy = Policy {
            alias_scope: fixed.alias_scope,
            compatibility: self.compatibility,
            quotas: self.quotas,
            region: fixed.region,
            history: fixed.history,
        };
        let inner = Inner {
            engine,
            cache: Cache::new(self.record_cache_bytes),
            policy,
            retention: self.retention,
            incarnation: fixed.incarnation,
            run_closures_twice: self.run_closures_twice,
        };
        Ok(Store { inner: Arc::new(inner) })
    }
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
