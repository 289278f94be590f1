//! `copy`: a whole store with its history to another place, of either kind.

use std::path::{Path, PathBuf};

use clap::Args;
#[cfg(feature = "etcd")]
use keystead::Etcd;
use keystead::cli_support::Temporary;
use keystead::{Copied, Error, Limit, Options, Store};
use serde_json::json;

use crate::Context;
use crate::ask::Confirm;
use crate::cluster::TargetOptions;
use crate::failure::Failure;
use crate::location::{Location, store_must_be_new};
use crate::output::Output;
use crate::progress::watched;
use crate::upkeep::count;

/// Copy the whole store with its history to a new place, and compare: from a file to etcd, back, or to its like.
#[derive(Args)]
pub(crate) struct Copy {
    /// The file to be made.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    #[command(flatten)]
    cluster: TargetOptions,
    /// Look whether it can be done, and tell how much it is; copy nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: Confirm,
}

impl Copy {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let (place, target) = (context.store.location()?, self.target()?);
        let source = place.read()?;
        let options = alike(&source)?;
        must_be_free(&target, &options)?;
        if self.dry_run {
            return tell_what_would_be(&source, &target, &mut context.output);
        }
        self.confirm.ask(&format!(
            "everything in {place} is copied to {target}; whoever writes to it must have been stopped, because what \
             is written meanwhile stays behind"
        ))?;
        let copied = fill(&target, &source, &options)?;
        tell(&copied, &mut context.output)?;
        match was_changed(&source, &place, &copied) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let message = format!(
                    "{place} was changed meanwhile; the copy is as it was after commit {}",
                    copied.commit
                );
                Err(Failure::findings(message)
                    .advice("stop whoever writes to it, and copy it again, to a place that is empty"))
            }
            Err(error) => Err(Failure::from(error)
                .behind("the copy is whole, but whether the store was changed meanwhile is not known: ")),
        }
    }

    fn target(&self) -> Result<Location, Failure> {
        match (&self.to, self.cluster.cluster()) {
            (Some(path), None) => {
                let lock_wait = Options::LOCK_WAIT_DEFAULT;
                Ok(Location::File { path: path.clone(), lock_wait })
            }
            (None, Some(cluster)) => Location::on(&cluster),
            (Some(_), Some(_)) => {
                Err(Failure::usage("--to and --to-etcd exclude each other: a copy goes to a file or to etcd"))
            }
            (None, None) => Err(Failure::usage("no place is named to copy to")
                .advice("give --to PATH, or --to-etcd ADDRESSES with --to-etcd-prefix PREFIX")),
        }
    }
}

/// Nothing is overwritten. Asked before anything is confirmed; the library asks again.
#[cfg_attr(not(feature = "etcd"), expect(unused_variables, reason = "a file is always made anew"))]
fn must_be_free(target: &Location, options: &Options) -> Result<(), Failure> {
    match target {
        Location::File { path, .. } => store_must_be_new(path),
        #[cfg(feature = "etcd")]
        Location::Etcd(cluster) => match options.open_etcd_read_only(cluster) {
            Err(Error::NoStore(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(store) if is_empty(&store)? => Ok(()),
            Ok(_) => Err(Error::NotEmpty.into()),
        },
    }
}

#[cfg(feature = "etcd")]
fn is_empty(store: &Store) -> Result<bool, Error> {
    let happened = match store.changes(None, Limit::new(1)?) {
        Err(Error::HistoryDisabled) => false,
        Err(Error::HistoryTrimmed { .. }) => true,
        changes => !changes?.commits.is_empty(),
    };
    Ok(!happened && count(store)? == (0, 0))
}

/// What is fixed when a store is made, as it is in this one.
fn alike(store: &Store) -> Result<Options, Error> {
    let history = match store.history_floor() {
        Err(Error::HistoryDisabled) => false,
        floor => floor.map(|_| true)?,
    };
    Ok(Options::new().alias_scope(store.alias_scope()).region(store.region().clone()).history(history))
}

/// Makes the copy.
fn fill(target: &Location, source: &Store, options: &Options) -> Result<Copied, Failure> {
    match target {
        Location::File { path, .. } => fill_file(path, source, options),
        #[cfg(feature = "etcd")]
        Location::Etcd(cluster) => {
            let store = options.open_etcd(cluster)?;
            watched(|| source.copy_to(&store)).map_err(|error| cut_off(cluster, error))
        }
    }
}

/// Why a copy failed, and what is there of it now.
#[cfg(feature = "etcd")]
fn cut_off(cluster: &Etcd, error: Error) -> Failure {
    if matches!(error, Error::NotEmpty) {
        return error.into();
    }
    let failure = Failure::from(error);
    match Options::new().open_etcd_read_only(cluster) {
        Err(Error::Unfinished) => failure
            .behind(&format!("the copy did not come to its end, and {cluster} can't be opened: "))
            .advice(DELETE_EXACTLY),
        // Nothing of it is there.
        Ok(_) | Err(Error::NoStore(_)) => failure,
        Err(_) => failure.behind(&format!("whether a part of the copy is at {cluster} is not known: ")),
    }
}

/// The keys of a store begin with its prefix and a zero byte.
#[cfg(feature = "etcd")]
const DELETE_EXACTLY: &str = "see to the cause, delete the keys of that prefix by `etcdctl del PREFIX $'PREFIX\\x01'`, and copy again; `etcdctl \
     del --prefix PREFIX` would also delete other stores whose prefix begins so, as kms/prod2 does with kms/prod";

/// The copy is made beside, and gets its name when it is whole.
fn fill_file(path: &Path, source: &Store, options: &Options) -> Result<Copied, Failure> {
    let folder = Temporary::beside(path)?;
    let store = options.open(folder.path().join("copy")).map_err(Failure::of_file(path))?;
    let copied = watched(|| source.copy_to(&store)).map_err(Failure::of_file(path))?;
    watched(|| store.backup(path)).map_err(Failure::of_file(path))?;
    Ok(copied)
}

/// Whether the source has a commit that is not in the copy. Without history that shows only of a file.
fn was_changed(source: &Store, place: &Location, copied: &Copied) -> Result<bool, Error> {
    match source.changes(Some(&source.position_after(copied.commit)), Limit::new(1)?) {
        Err(Error::HistoryDisabled) => {
            Ok(matches!(place, Location::File { .. }) && source.position()?.commit() > copied.commit)
        }
        changes => changes.map(|changes| !changes.commits.is_empty()),
    }
}

fn tell_what_would_be(source: &Store, target: &Location, output: &mut Output) -> Result<(), Failure> {
    let ((scopes, keys), commit) = (count(source)?, source.position()?.commit());
    if output.is_json() {
        return output.json(&json!({
            "dry_run": true, "to": target.to_string(), "commit": commit, "scopes": scopes, "keys": keys,
        }));
    }
    output.line(format!("nothing was copied; {target} is free for it, and it would be:"))?;
    output.fields(&[
        ("as it is after commit", commit.to_string()),
        ("scopes", scopes.to_string()),
        ("keys", keys.to_string()),
    ])
}

fn tell(copied: &Copied, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(copied)?;
    } else {
        output.fields(&[
            ("as it was after commit", copied.commit.to_string()),
            ("rows, all compared", copied.rows.to_string()),
            ("commits in the history, all compared", copied.entries.to_string()),
            ("position", copied.position.to_string()),
        ])?;
    }
    output.flush()
}
