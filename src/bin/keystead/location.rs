//! [`Location`]: where the store is, and how it is opened. The only place that knows of kinds of stores.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use keystead::{Compatibility, Error, Options, Quotas, Store};

use crate::failure::Failure;

/// Where the store is.
#[derive(Args)]
pub(crate) struct StoreOptions {
    /// The store's file.
    #[arg(long, global = true, env = "KEYSTEAD_STORE", value_name = "PATH", help_heading = "Store")]
    store: Option<PathBuf>,
}

/// What a command that writes upholds. None of it is stored, so it must be said as the service says it.
#[derive(Args)]
pub(crate) struct WriteRules {
    /// How many keys a project may have.
    #[arg(long, env = "KEYSTEAD_KEYS_PER_PROJECT", value_name = "NUMBER", help_heading = "Rules")]
    keys_per_project: Option<u64>,
    /// How many aliases a key may have.
    #[arg(long, env = "KEYSTEAD_ALIASES_PER_KEY", value_name = "NUMBER", help_heading = "Rules")]
    aliases_per_key: Option<usize>,
    /// How many tags a key may have.
    #[arg(long, env = "KEYSTEAD_TAGS_PER_KEY", value_name = "NUMBER", help_heading = "Rules")]
    tags_per_key: Option<usize>,
    /// To which keys an alias may move.
    #[arg(long, env = "KEYSTEAD_COMPATIBILITY", default_value = "any", help_heading = "Rules")]
    compatibility: Moves,
    /// Open the store with a redo log beside it, as a service may that uses one.
    #[arg(long, env = "KEYSTEAD_REDO_LOG", help_heading = "Store")]
    redo_log: bool,
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
        let default = Quotas::default();
        let quotas = Quotas {
            keys_per_project: self.keys_per_project.unwrap_or(default.keys_per_project),
            aliases_per_key: self.aliases_per_key.unwrap_or(default.aliases_per_key),
            tags_per_key: self.tags_per_key.unwrap_or(default.tags_per_key),
        };
        let compatibility = match self.compatibility {
            Moves::Any => Compatibility::Any,
            Moves::SameUsage => Compatibility::SameUsage,
        };
        Options::new().quotas(quotas).compatibility(compatibility).redo_log(self.redo_log)
    }
}

/// A place where a store is.
pub(crate) enum Location<'a> {
    File(&'a Path),
}

impl StoreOptions {
    /// The place that was named.
    pub(crate) fn location(&self) -> Result<Location<'_>, Failure> {
        let said = self.store.as_deref().map(Location::File);
        said.ok_or_else(|| {
            Failure::usage("no store is named").advice("give --store PATH, or set KEYSTEAD_STORE")
        })
    }

    /// Opens the store for reading.
    pub(crate) fn read(&self) -> Result<Store, Failure> {
        self.location()?.read()
    }

    /// Opens the store for writing.
    pub(crate) fn write(&self, rules: &WriteRules) -> Result<Store, Failure> {
        self.location()?.write(&rules.options())
    }

    /// Its file, for what is done to files.
    pub(crate) fn file(&self) -> Result<&Path, Failure> {
        match self.location()? {
            Location::File(path) => Ok(path),
        }
    }

    /// Its file, which must be there.
    pub(crate) fn existing_file(&self) -> Result<&Path, Failure> {
        self.location()?.must_exist()?;
        self.file()
    }
}

impl Location<'_> {
    fn read(&self) -> Result<Store, Failure> {
        self.must_exist()?;
        match self {
            Self::File(path) => Ok(Options::new().open_read_only(path)?),
        }
    }

    /// Never makes a store: a mistyped path must not answer "not found" to everything.
    fn write(&self, options: &Options) -> Result<Store, Failure> {
        self.must_exist()?;
        match self {
            Self::File(path) => Ok(options.open(path)?),
        }
    }

    /// Makes a store where there is none.
    pub(crate) fn create(&self, options: &Options) -> Result<Store, Failure> {
        match self {
            Self::File(path) => match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(options.open(path)?),
                Err(error) => Err(Error::from(error).into()),
                Ok(_) => Err(Error::FileExists(path.display().to_string().into()).into()),
            },
        }
    }

    fn must_exist(&self) -> Result<(), Failure> {
        match self {
            Self::File(path) => match path.metadata() {
                Ok(metadata) if metadata.is_file() => Ok(()),
                Ok(_) => Err(Failure::not_opened(format!("{} is no file", path.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let message = format!("there is no store at {}", path.display());
                    Err(Failure::not_opened(message)
                        .advice("check the path; `keystead init` makes a new store"))
                }
                Err(error) => Err(Failure::not_opened(format!("{}: {error}", path.display()))),
            },
        }
    }
}
