//! [`Location`]: where a store is, and how it is opened. With `copy` the only place that knows of kinds of stores.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
#[cfg(feature = "etcd")]
use keystead::Etcd;
use keystead::cli_support::Temporary;
use keystead::{Compatibility, Error, Options, Position, Quotas, Store};
use tempfile::TempPath;

use crate::cluster::{Cluster, SETTINGS, SourceOptions};
use crate::failure::Failure;
use crate::new_file::{must_be_new, sync_folder_of};

/// Where the store is.
#[derive(Args)]
pub(crate) struct StoreOptions {
    /// The store's file.
    #[arg(long, global = true, env = "KEYSTEAD_STORE", value_name = "PATH", help_heading = "Store")]
    store: Option<PathBuf>,
    /// How long a command waits while another process has that file locked, in seconds; 1 by default.
    #[arg(long, global = true, env = "KEYSTEAD_LOCK_WAIT", value_name = "SECONDS", value_parser = parse_lock_wait,
        help_heading = "Store")]
    lock_wait: Option<Duration>,
    #[command(flatten)]
    cluster: SourceOptions,
    #[arg(skip)]
    typed: Typed,
}

/// What was typed, and does not come from the environment: it goes before that.
#[derive(Default)]
struct Typed {
    store: bool,
    etcd: bool,
    /// Another option for a store on etcd.
    setting: Option<&'static str>,
}

/// How much there may be, which no store remembers.
#[derive(Args)]
pub(crate) struct QuotaOptions {
    /// How many keys a project may have.
    #[arg(long, env = "KEYSTEAD_KEYS_PER_PROJECT", value_name = "NUMBER", help_heading = "Rules")]
    keys_per_project: Option<u64>,
    /// How many aliases a key may have.
    #[arg(long, env = "KEYSTEAD_ALIASES_PER_KEY", value_name = "NUMBER", help_heading = "Rules")]
    aliases_per_key: Option<usize>,
    /// How many tags a key may have.
    #[arg(long, env = "KEYSTEAD_TAGS_PER_KEY", value_name = "NUMBER", help_heading = "Rules")]
    tags_per_key: Option<usize>,
}

impl QuotaOptions {
    pub(crate) fn quotas(&self) -> Quotas {
        let default = Quotas::default();
        Quotas {
            keys_per_project: self.keys_per_project.unwrap_or(default.keys_per_project),
            aliases_per_key: self.aliases_per_key.unwrap_or(default.aliases_per_key),
            tags_per_key: self.tags_per_key.unwrap_or(default.tags_per_key),
        }
    }
}

/// What a command that writes upholds. None of it is stored, so it must be said as the service says it.
#[derive(Args)]
pub(crate) struct WriteRules {
    #[command(flatten)]
    quotas: QuotaOptions,
    /// To which keys an alias may move.
    #[arg(long, env = "KEYSTEAD_COMPATIBILITY", default_value = "any", help_heading = "Rules")]
    compatibility: Moves,
}

#[derive(Clone, Copy, ValueEnum)]
enum Moves {
    /// To any.
    Any,
    /// To keys of the same spec family and usage.
    SameUsage,
}

impl WriteRules {
    pub(crate) fn options(&self) -> Options {
        let compatibility = match self.compatibility {
            Moves::Any => Compatibility::Any,
            Moves::SameUsage => Compatibility::SameUsage,
        };
        Options::new().quotas(self.quotas.quotas()).compatibility(compatibility)
    }
}

fn parse_lock_wait(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| LOCK_WAIT_SECONDS.contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        let (min, max) = (LOCK_WAIT_SECONDS.start(), LOCK_WAIT_SECONDS.end());
        format!("seconds are a number from {min} to {max}, such as 5 or 0.5")
    })
}

/// What the library allows.
const LOCK_WAIT_SECONDS: RangeInclusive<f64> = 0.01..=3600.0;

/// How many damaged pages are named; all are counted.
const DAMAGED_PAGES_NAMED: usize = 5;

/// What became of a look at all pages of a file.
pub(crate) enum PageCheck {
    Sound,
    Damaged(String),
}

impl PageCheck {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Damaged(_) => "damaged",
        }
    }
}

/// A place where a store is, or may be made.
pub(crate) enum Location {
    /// A file, and how long it is waited for while another process has it locked.
    File { path: PathBuf, lock_wait: Duration },
    #[cfg(feature = "etcd")]
    Etcd(Box<Etcd>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => cluster.fmt(f),
        }
    }
}

impl StoreOptions {
    /// Takes note of what was typed.
    pub(crate) fn note_typed(&mut self, matches: &ArgMatches) {
        let typed = |name: &&str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let [etcd, settings @ ..] = &SETTINGS;
        let setting = settings.iter().copied().find(typed);
        self.typed = Typed { store: typed(&"store"), etcd: typed(etcd), setting };
    }

    /// The place that was named.
    pub(crate) fn location(&self) -> Result<Location, Failure> {
        let Typed { store, etcd, setting } = self.typed;
        match (&self.store, self.cluster.cluster()) {
            (None, None) => Err(Failure::usage("no store is named")
                .advice("give --store PATH or --etcd ADDRESSES, or set KEYSTEAD_STORE or KEYSTEAD_ETCD")),
            (Some(_), Some(_)) if store && etcd => {
                Err(Failure::usage("--store and --etcd exclude each other: a store is in a file or on etcd"))
            }
            (Some(_), Some(_)) if !store && !etcd => {
                Err(Failure::usage("KEYSTEAD_STORE and KEYSTEAD_ETCD are set both")
                    .advice("give --store PATH or --etcd ADDRESSES, or unset one of them"))
            }
            (Some(path), cluster) if cluster.is_none() || store => match setting {
                None => Ok(self.in_file(path)),
                Some(setting) => {
                    let path = path.display();
                    let message = format!("--{setting} is for a store on etcd, and {path} is a file");
                    Err(Failure::usage(message).advice("give --etcd ADDRESSES too, or set KEYSTEAD_ETCD"))
                }
            },
            (_, Some(cluster)) => Location::on(&cluster),
            (Some(path), None) => Ok(self.in_file(path)),
        }
    }

    fn in_file(&self, path: &Path) -> Location {
        let lock_wait = self.lock_wait.unwrap_or(Options::LOCK_WAIT_DEFAULT);
        Location::File { path: path.to_owned(), lock_wait }
    }

    /// Opens the store for reading.
    pub(crate) fn read(&self) -> Result<Store, Failure> {
        self.location()?.read()
    }

    /// Opens the store for writing.
    pub(crate) fn write(&self, rules: &WriteRules) -> Result<Store, Failure> {
        self.location()?.write(&rules.options())
    }

    /// Its file, for what is done to files; `instead` says what to do about a store on etcd.
    #[cfg_attr(not(feature = "etcd"), expect(unused_variables, reason = "all stores are files"))]
    pub(crate) fn file(&self, instead: &'static str) -> Result<PathBuf, Failure> {
        match self.location()? {
            Location::File { path, .. } => Ok(path),
            #[cfg(feature = "etcd")]
            cluster @ Location::Etcd(_) => Err(cluster.for_files_only(instead)),
        }
    }

    /// Its file, which must be there.
    pub(crate) fn existing_file(&self, instead: &'static str) -> Result<PathBuf, Failure> {
        let path = self.file(instead)?;
        must_exist(&path)?;
        Ok(path)
    }

    /// For a command that needs no store: that none on etcd was typed.
    pub(crate) fn must_be_no_cluster(&self, instead: &'static str) -> Result<(), Failure> {
        if self.typed.etcd { self.file(instead).map(drop) } else { Ok(()) }
    }
}

impl Location {
    /// On a cluster.
    #[cfg(feature = "etcd")]
    pub(crate) fn on(cluster: &Cluster<'_>) -> Result<Self, Failure> {
        Ok(Self::Etcd(Box::new(cluster.settings()?)))
    }

    #[cfg(not(feature = "etcd"))]
    pub(crate) fn on(cluster: &Cluster<'_>) -> Result<Self, Failure> {
        Err(cluster.unsupported())
    }

    pub(crate) fn read(&self) -> Result<Store, Failure> {
        match self {
            Self::File { path, lock_wait } => {
                must_exist(path)?;
                Options::new().lock_wait(*lock_wait).open_read_only(path).map_err(Failure::of_file(path))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => Ok(Options::new().open_etcd_read_only(cluster)?),
        }
    }

    /// Never makes a store: a mistyped place must not answer "not found" to everything.
    fn write(&self, options: &Options) -> Result<Store, Failure> {
        let options = options.clone().create(false);
        match self {
            Self::File { path, lock_wait } => {
                must_exist(path)?;
                options.lock_wait(*lock_wait).open(path).map_err(Failure::of_file(path))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => Ok(options.open_etcd(cluster)?),
        }
    }

    /// Brings the table file up to date, so that it is the whole store.
    pub(crate) fn checkpoint(&self) -> Result<Checkpointed, Failure> {
        match self {
            Self::File { path, lock_wait } => {
                must_exist(path)?;
                checkpoint_file(path, &Options::new().create(false).lock_wait(*lock_wait))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => {
                Err(self.for_files_only("a store on etcd has no log; `keystead backup` saves it"))
            }
        }
    }

    /// What to say of a store on etcd where something is done to files.
    #[cfg(feature = "etcd")]
    fn for_files_only(&self, instead: &'static str) -> Failure {
        Failure::usage(format!("this is done to files only, not to {self}")).advice(instead)
    }

    /// Makes a store where there is none.
    pub(crate) fn create(&self, options: &Options) -> Result<Store, Failure> {
        match self {
            Self::File { path, .. } => create_file(path, options),
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => match Options::new().open_etcd_read_only(cluster) {
                Err(Error::NoStore(_)) => Ok(options.open_etcd(cluster)?),
                Err(error) => Err(error.into()),
                Ok(_) => Err(Failure::refused(format!("there is a store already at {cluster}"))
                    .advice("choose another prefix; nothing is overwritten")),
            },
        }
    }

    /// Compares each page of the file with its checksum; a store on etcd has none.
    pub(crate) fn check_pages(&self) -> Result<Option<PageCheck>, Failure> {
        match self {
            Self::File { path, lock_wait } => {
                must_exist(path)?;
                let found = match Options::new().lock_wait(*lock_wait).open_read_only(path) {
                    Ok(store) => store.check_pages(u64::MAX)?,
                    // No process has such a file open to write.
                    Err(Error::Corrupted(_) | Error::LogMismatch(_)) => keystead::check_pages(path)?,
                    Err(error) => return Err(Failure::of_file(path)(error)),
                };
                let found_in_words = || {
                    let count = found.damaged.len() as u64 + found.damaged_not_kept;
                    let pages = found.damaged.iter().take(DAMAGED_PAGES_NAMED);
                    let pages: Vec<_> =
                        pages.map(|page| format!("at byte {}: {}", page.offset, page.what)).collect();
                    let more = if count > DAMAGED_PAGES_NAMED as u64 { "; ..." } else { "" };
                    format!("{count} damaged; {}{more}", pages.join("; "))
                };
                Ok(Some(if found.is_clean() {
                    PageCheck::Sound
                } else {
                    PageCheck::Damaged(found_in_words())
                }))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Ok(None),
        }
    }

    /// What it is called, where there is no room for the whole path.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => self.to_string(),
        }
    }

    /// How long the file is; none of a store on etcd.
    pub(crate) fn bytes(&self) -> Result<Option<u64>, Failure> {
        match self {
            Self::File { path, .. } => Ok(Some(path.metadata().map_err(Error::from)?.len())),
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Ok(None),
        }
    }
}

/// A table file that is the whole store.
pub(crate) struct Checkpointed {
    pub(crate) position: Position,
    /// How long the table file is.
    pub(crate) bytes: u64,
}

/// Closing a store brings its table file up to date.
fn checkpoint_file(path: &Path, options: &Options) -> Result<Checkpointed, Failure> {
    let opened = options.open(path).map_err(|error| match error {
        Error::AlreadyOpen(_) => Failure::from(error).advice(SAVE_WHILE_IN_USE),
        error => Failure::of_file(path)(error),
    })?;
    drop(opened);
    let position = must_be_whole(path)?;
    let bytes = path.metadata().map_err(|error| Failure::of_file(path)(error.into()))?.len();
    Ok(Checkpointed { position, bytes })
}

/// Closing does not report a failure. So the table file is opened under another name, beside which there is no log.
fn must_be_whole(path: &Path) -> Result<Position, Failure> {
    let failed = |error: io::Error| {
        Failure::of_file(path)(error.into()).behind("whether the log is still needed is not known: ")
    };
    let table = path.canonicalize().map_err(failed)?;
    let folder = Temporary::beside(&table).map_err(failed)?;
    let alone = folder.path().join("table");
    fs::hard_link(&table, &alone).map_err(failed)?;
    let whole = Options::new().open_read_only(&alone).and_then(|store| store.position());
    whole.map_err(|error| match error {
        Error::LogMismatch(_) | Error::AlreadyOpen(_) => Failure::failed(format!(
            "the log is still needed: {} was not brought up to date, or another process has opened it since",
            path.display()
        ))
        .advice(TABLE_IS_BEHIND),
        error => Failure::of_file(path)(error),
    })
}

const SAVE_WHILE_IN_USE: &str = "nothing was changed. `keystead backup` saves a store that is in use; before you copy its files, stop the \
     process that has it open, and give this command again";

const TABLE_IS_BEHIND: &str = "keep both files, nothing is lost; make room if the disk is full, check its health, and give the command \
     again. If a process has the store open, `keystead backup` saves it";

/// Makes a store under a name that nothing has, not even a moment later: of several who make it at the same time one
/// does, and the others hear that it is there.
fn create_file(path: &Path, options: &Options) -> Result<Store, Failure> {
    let failed = Failure::of_file(path);
    store_must_be_new(path)?;
    let folder = Temporary::beside(path).map_err(|error| failed(error.into()))?;
    let made = folder.path().join("store");
    // Closed, it is one file.
    drop(options.open(&made).map_err(&failed)?);
    let made = TempPath::try_from_path(made).map_err(|error| failed(error.into()))?;
    match made.persist_noclobber(path) {
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::FileExists(path.display().to_string().into()).into());
        }
        named => named.map_err(|refused| failed(refused.error.into()))?,
    }
    sync_folder_of(path)?;
    Options::new().open_read_only(path).map_err(&failed)
}

/// Nor is there the write-ahead log of a store that was there.
pub(crate) fn store_must_be_new(path: &Path) -> Result<(), Failure> {
    must_be_new(path)?;
    let mut log = path.as_os_str().to_owned();
    log.push(".redo");
    must_be_new(Path::new(&log))
}

fn must_exist(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NoStore(path.display().to_string().into()).into())
        }
        _ => must_be_file(path),
    }
}

/// That it is there, such as a backup that is asked for.
pub(crate) fn must_be_file(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(Failure::not_opened(format!("{} is no file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::not_opened(format!("there is no file {}", path.display())).advice("check the path"))
        }
        Err(error) => Err(Failure::of_file(path)(error.into()).not_opened_either()),
    }
}
