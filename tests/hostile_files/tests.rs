//! How many cases of each kind there are, and what must come of them.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use crate::child;
use crate::mutations::{Case, Kind};
use crate::pages::{Holder, PAGE, Pages};
use crate::runner::{self, Tally};
use crate::stores::{Base, HOT, Image, NOTHING, Name, TABLE};

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
const CASES: u64 = 100;
const SEED: u64 = 15;
/// So many cases of a kind are enough to tell how many calls meet the damage.
const MANY: usize = 20;

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

/// The stores are made once for all tests that run at the same time, and go with the last of them.
fn stores() -> Arc<TempDir> {
    static STORES: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    // A test that failed while it made them made none.
    let mut known = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let stores = Arc::new(tempfile::tempdir().unwrap());
        runner::make_stores(stores.path(), seed());
        *known = Arc::downgrade(&stores);
        stores
    })
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
fn run(kinds: &[Kind]) {
    let cases = cases_of(kinds);
    let stores = stores();
    let tally = runner::run(&cases, stores.path(), seed());
    println!("KEYSTEAD_HOSTILE_SEED={}: {} cases of {kinds:?}", seed(), cases.len());
    let mut table: BTreeMap<_, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((case, operation), outcome) in &tally.counts {
        *table.entry((case.kind, operation)).or_default().entry(outcome).or_default() += 1;
    }
    for ((kind, operation), outcomes) in table {
        println!("{kind:?} {operation:?}: {outcomes:?}");
    }
    assert!(tally.faults.is_empty(), "{}", told(&tally, stores.path()));
    // So many calls as were meant to be made were made, and of each kind some met the damage.
    let one = env::var("KEYSTEAD_HOSTILE_CASE").is_ok();
    let mut detected_of_all = 0;
    for kind in kinds.iter().filter(|_| !one) {
        let of_kind = tally.counts.iter().filter(|((case, _), _)| case.kind == *kind);
        let detected = of_kind.clone().filter(|(_, outcome)| is_detected(outcome)).count();
        let calls =
            cases.iter().filter(|case| case.kind == *kind).map(|case| runner::operations(*case).len());
        let (calls, made) = (calls.sum::<usize>(), of_kind.count());
        assert_eq!(made, calls, "{kind:?}");
        detected_of_all += detected;
        // Of a few cases, chance may have it that all damage what nobody reads.
        let is_many = cases.iter().filter(|case| case.kind == *kind).count() >= MANY;
        assert!(
            !is_many || detected * kind.detected_one_in() >= calls,
            "{kind:?}: {detected} of {calls} calls met it"
        );
    }
    assert!(one || detected_of_all > 0, "no call met the damage");
}

/// Whether a call met the damage.
fn is_detected(outcome: &str) -> bool {
    ["detected", "lost told", "earlier", "healed"].iter().any(|word| outcome.contains(word))
}

/// One of each kind of fault whole, with its files, and how many there are.
fn told(tally: &Tally, stores: &Path) -> String {
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
        told += &format!("  files: {}\n", keep(first.case, stores).display());
        told += &format!(
            "  again: KEYSTEAD_HOSTILE_SEED={} KEYSTEAD_HOSTILE_CASE={kind:?}-{} cargo test --test hostile_files\n",
            seed(),
            first.case.number
        );
    }
    told
}

/// Keeps the damaged files of a case.
fn keep(case: Case, stores: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("hostile")
        .join(format!("{:?}-{}", case.kind, case.number));
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    case.make(seed(), stores, &folder);
    folder
}

#[test]
fn the_plan_has_2000_cases() {
    assert_eq!(PLAN.iter().map(|(_, cases)| cases).sum::<u64>(), 2000);
}

/// Otherwise hardly anything that is about pages would be tried.
#[test]
fn the_stores_have_what_is_to_be_damaged() {
    let stores = stores();
    let stores = stores.path();
    for base in [Base::Closed, Base::Killed, Base::Logged, Base::Small] {
        let bytes = std::fs::read(base.folder(stores).join(TABLE)).unwrap();
        let (pages, image) = (Pages::of(&bytes), Image::read(base, stores));
        let used = pages.used().iter().map(|(_, length)| length / PAGE).sum::<usize>();
        let of =
            |holder: Holder| pages.references.iter().filter(|reference| reference.holder == holder).count();
        let [slot, definition, branch, list] =
            [Holder::Slot, Holder::Definition, Holder::Branch, Holder::List].map(of);
        println!(
            "{base:?}: {} bytes, depth {}, {used} pages used, references {slot} {definition} {branch} {list}",
            bytes.len(),
            pages.depth
        );
        assert!(slot > 0 && definition > 0 && branch > 0, "{base:?}");
        assert!(used + 3 < bytes.len() / PAGE, "{base:?} has free pages");
        if base == Base::Small {
            continue;
        }
        let keys = image.names.iter().zip(image.newest());
        let keys = keys.filter(|(name, answer)| matches!(name, Name::Key(..)) && **answer != NOTHING).count();
        assert!(pages.depth > 2 && keys >= 400 && list > 0, "{base:?}: depth {}, {keys} keys", pages.depth);
    }
    // The records of what each commit left tell a former key from the present one.
    let image = Image::read(Base::Logged, stores);
    let hot = image.names.iter().position(|name| *name == Name::Alias(0, HOT.to_owned())).unwrap();
    let answers: BTreeSet<_> = image.commits.values().filter_map(|answers| answers.get(hot)).collect();
    assert!(answers.len() > 5, "{answers:?}");
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
