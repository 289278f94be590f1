//! `bench`: a quick look at what this disk can do for a store.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use keystead::cli_support::{Temporary, remove_unused};
use keystead::{Error, KeyAlias, KeyId, NewKey, Options, Request, Scope, Store};
use serde_json::json;

use crate::Context;
use crate::failure::Failure;

use crate::progress::{Bar, now};

/// Measure this disk: how long a sync takes, how many commits a second a store makes.
#[derive(Args)]
pub(crate) struct Bench {
    /// Where to measure: a temporary folder is made there, and deleted again.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// How long each of the three measurements lasts.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// How many threads write at once, where there are several.
const WRITERS: usize = 8;
/// What is synced: a page.
const PAGE: [u8; 4096] = [0x6b; 4096];

struct Syncs {
    median: Duration,
    worst_of_100: Duration,
    longest: Duration,
}

impl Bench {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        context
            .store
            .must_be_no_cluster("it measures a disk; a cluster is measured by `cargo bench -p keystead-benches --features etcd --bench etcd`")?;
        let folder = Temporary::create_in(&self.folder)?;
        let at = |failure: Failure| failure.behind(&format!("in {}: ", self.folder.display()));
        let time = Duration::from_secs(self.seconds);
        let bar = Bar::new("measuring", 3, "measurements");
        let syncs = measure_syncs(&folder.path().join("syncs"), time).map_err(at)?;
        bar.set(1);
        let alone = measure_commits(&folder.path().join("alone"), 1, time).map_err(at)?;
        bar.set(2);
        let together = measure_commits(&folder.path().join("together"), WRITERS, time).map_err(at)?;
        drop(bar);
        remove_unused(&self.folder);
        if context.output.is_json() {
            return context.output.json(&json!({
                "sync_microseconds": {
                    "median": micros(syncs.median), "percentile_99": micros(syncs.worst_of_100),
                    "longest": micros(syncs.longest),
                },
                "commits_a_second": { "one_writer": alone, "eight_writers": together },
            }));
        }
        let show = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1000.0);
        let rate = |commits: f64| format!("{commits:.0}");
        context.output.fields(&[
            ("a sync of 4 KiB, median", show(syncs.median)),
            ("a sync of 4 KiB, 99 of 100 within", show(syncs.worst_of_100)),
            ("a sync of 4 KiB, longest", show(syncs.longest)),
            ("commits a second", rate(alone)),
            ("commits a second, 8 writers", rate(together)),
        ])
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Appends pages to a file and syncs each.
fn measure_syncs(path: &Path, time: Duration) -> Result<Syncs, Failure> {
    let mut file = std::fs::File::create(path)?;
    let (started, mut took) = (now(), Vec::new());
    while took.is_empty() || started.elapsed() < time {
        file.write_all(&PAGE)?;
        let begun = now();
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    took.sort();
    let at = |hundredths: usize| took[(took.len() - 1) * hundredths / 100];
    Ok(Syncs { median: at(50), worst_of_100: at(99), longest: at(100) })
}

/// Renames keys, each thread one of its own, to and fro.
fn measure_commits(path: &Path, writers: usize, time: Duration) -> Result<f64, Failure> {
    let store = Options::new().open(path)?;
    let scope = Scope::new("bench", "bench").map_err(Error::from)?;
    let mut keys = Vec::new();
    for writer in 0..writers {
        let new = NewKey::new(&format!("key-{writer}")).map_err(Error::from)?;
        store.write(&Request::new(&scope), |txn| txn.create_key(&new))?;
        keys.push((new.key_id, writer));
    }
    let started = now();
    let commits = thread::scope(|threads| {
        let rename = |&(key_id, writer)| {
            let (store, scope) = (&store, &scope);
            threads.spawn(move || rename_for(store, scope, key_id, writer, time))
        };
        let threads: Vec<_> = keys.iter().map(rename).collect();
        let counts = threads.into_iter().map(|thread| thread.join().expect("a writer does not panic"));
        counts.sum::<Result<u64, Error>>()
    })?;
    #[expect(clippy::cast_precision_loss, reason = "no disk makes 2^52 commits")]
    Ok(commits as f64 / started.elapsed().as_secs_f64())
}

fn rename_for(
    store: &Store,
    scope: &Scope,
    key_id: KeyId,
    writer: usize,
    time: Duration,
) -> Result<u64, Error> {
    let (started, mut commits) = (now(), 0);
    while commits == 0 || started.elapsed() < time {
        let name = KeyAlias::new(&format!("key-{writer}-{}", commits % 2))?;
        store.write(&Request::new(scope), |txn| txn.rename_key_alias(key_id, &name))?;
        commits += 1;
    }
    Ok(commits)
}
