//! How many cases of each kind there are, and what must come of them.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::child;
use crate::mutations::{Case, Kind};
use crate::runner::{self, Tally};

/// How many of 2,000 cases are of each kind.
const PLAN: [(Kind, u64); 16] = [
    (Kind::Flips, 300),
    (Kind::Zeros, 100),
    (Kind::Lengths, 100),
    (Kind::Exchanged, 160),
    (Kind::Misdirected, 120),
    (Kind::Stale, 240),
    (Kind::Headers, 160),
    (Kind::LogMissing, 20),
    (Kind::LogEarlier, 40),
    (Kind::LogDamaged, 160),
    (Kind::LogLengths, 60),
    (Kind::Orders, 100),
    (Kind::OrdersThatFit, 160),
    (Kind::FlipsThatFit, 120),
    (Kind::Backups, 100),
    (Kind::ChangeFiles, 60),
];

/// How many cases there are in all, unless `KEYSTEAD_HOSTILE_CASES` says so.
const CASES: u64 = 300;
const SEED: u64 = 15;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn seed() -> u64 {
    number("KEYSTEAD_HOSTILE_SEED").unwrap_or(SEED)
}

/// The process that is told what to do; without that it has nothing to do.
#[test]
fn child() {
    if let Some(job) = child::job() {
        child::run(job);
    }
}

/// The stores are made once for all tests.
fn stores() -> &'static Path {
    static STORES: OnceLock<TempDir> = OnceLock::new();
    let stores = STORES.get_or_init(|| {
        let stores = tempfile::tempdir().unwrap();
        runner::make_stores(stores.path(), seed());
        stores
    });
    stores.path()
}

fn cases_of(kinds: &[Kind]) -> Vec<Case> {
    if let Ok(one) = env::var("KEYSTEAD_HOSTILE_CASE") {
        let (kind, number) = one.split_once('-').unwrap();
        let kind = serde_json::from_value(kind.into()).unwrap();
        return if kinds.contains(&kind) {
            vec![Case { kind, number: number.parse().unwrap() }]
        } else {
            Vec::new()
        };
    }
    let all = number("KEYSTEAD_HOSTILE_CASES").unwrap_or(CASES);
    let planned = PLAN.iter().filter(|(kind, _)| kinds.contains(kind));
    planned
        .flat_map(|(kind, of_2000)| {
            (0..(of_2000 * all).div_ceil(2000)).map(|number| Case { kind: *kind, number })
        })
        .collect()
}

/// Runs the cases of these kinds, prints what came of them, and fails with what must not be.
fn run(kinds: &[Kind]) -> Tally {
    let cases = cases_of(kinds);
    let tally = runner::run(&cases, stores(), seed());
    println!("KEYSTEAD_HOSTILE_SEED={}: {} cases of {kinds:?}", seed(), cases.len());
    let mut table: BTreeMap<_, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((case, operation), outcome) in &tally.counts {
        *table.entry((case.kind, operation)).or_default().entry(outcome).or_default() += 1;
    }
    for ((kind, operation), outcomes) in table {
        println!("{kind:?} {operation:?}: {outcomes:?}");
    }
    assert!(tally.faults.is_empty(), "{}", told(&tally));
    tally
}

/// One of each kind of fault whole, with its files, and how many there are.
fn told(tally: &Tally) -> String {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for fault in &tally.faults {
        let what = fault.what.split(':').next().unwrap_or_default();
        groups.entry((fault.case.kind, fault.operation, what)).or_default().push(fault);
    }
    let mut told = format!("{} faults of {} calls\n", tally.faults.len(), tally.counts.len());
    for ((kind, operation, what), faults) in groups {
        let first = faults[0];
        told += &format!("\n{kind:?}, {operation:?}: {what}: {} times\n", faults.len());
        told += &format!("  {}\n  {}\n", first.damage, first.what);
        told += &format!("  files: {}\n", keep(first.case).display());
        told += &format!(
            "  again: KEYSTEAD_HOSTILE_SEED={} KEYSTEAD_HOSTILE_CASE={kind:?}-{} cargo test --test hostile_files\n",
            seed(),
            first.case.number
        );
    }
    told
}

/// Keeps the damaged files of a case.
fn keep(case: Case) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("hostile")
        .join(format!("{:?}-{}", case.kind, case.number));
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    case.make(seed(), stores(), &folder);
    folder
}

#[test]
fn random_damage() {
    run(&[Kind::Flips, Kind::Zeros, Kind::Lengths]);
}

#[test]
fn pages_in_the_wrong_place() {
    run(&[Kind::Exchanged, Kind::Misdirected]);
}

#[test]
fn pages_of_an_earlier_moment() {
    run(&[Kind::Stale]);
}

#[test]
fn damaged_headers() {
    run(&[Kind::Headers]);
}

#[test]
fn logs() {
    run(&[Kind::LogMissing, Kind::LogEarlier, Kind::LogDamaged, Kind::LogLengths]);
}

#[test]
fn hostile_pages() {
    run(&[Kind::Orders, Kind::OrdersThatFit, Kind::FlipsThatFit]);
}

#[test]
fn backups() {
    run(&[Kind::Backups, Kind::ChangeFiles]);
}
