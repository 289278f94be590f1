//! Damages the history of a store in every way that the walk is to see; the bytes of the log, and what
//! decoding makes of any others.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::Report;
use crate::change::{Change, CommitInfo, CommitRecord, Images, Operation, Previous};
use crate::engine::Engine;
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::redb::seal;
use crate::format::{
    Floor, Outcome, RecordId, Row, Space, decode_floor, decode_log_entry, decode_outcome, decode_tombstone,
    encode_floor, encode_log_entry, encode_nothing, encode_outcome, encode_tombstone,
};
use crate::{Alias, Commit, KeyAlias, KeyId, NewKey, Options, Request, RequestId, Scope, Store, Timestamp};

const MISSING: &str = "a change of the record is not in the log";
const NOT_ITS_OWN: &str = "the entry has no change of the record";
const OTHER_IMAGE: &str = "a change did not leave what was there after it";
const BACK_IN_TIME: &str = "the changes of the record go back in time";
const OTHER_TIME: &str = "a change is not of the time that the one after it says";
const STALE_TOMBSTONE: &str = "a tombstone of a deletion that was trimmed";
const BEFORE_ITSELF: &str = "a change comes before itself";
const NOT_CANONICAL: &str = "the entry does not encode to itself";
const NO_ENTRY_HERE: &str = "no entry can be there";

fn counts(logged: u64, chained: u64) -> (u8, String) {
    (9, format!("the log has {logged} changes, the records and tombstones {chained}"))
}

fn nine(what: &str) -> (u8, String) {
    (9, what.to_owned())
}

fn ten(what: &str) -> (u8, String) {
    (10, what.to_owned())
}

fn twelve(what: &str) -> (u8, String) {
    (12, what.to_owned())
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn elsewhere() -> Scope {
    Scope::new("domain", "elsewhere").unwrap()
}

fn key_id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

fn request_id() -> RequestId {
    "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn alias(name: &str) -> Alias {
    name.parse().unwrap()
}

fn x() -> RecordId {
    RecordId::Alias("x".to_owned())
}

fn log_row(commit: u64) -> Row {
    [&[0xff][..], &commit.to_be_bytes()].concat()
}

/// A store whose rows can be damaged.
struct Bench {
    engine: Arc<EmbeddedEngine>,
    store: Store,
}

impl Bench {
    /// What the commits are: 1 begins the store; 2 makes the key 1 with the alias `x`, and the key 2; 3
    /// moves `x` to the key 2; 4 deletes it; 5 makes `y` on the key 1; 6 renames the key 1 twice; 7 is an
    /// outcome.
    fn new() -> Self {
        Self::with(&Options::new())
    }

    fn with(options: &Options) -> Self {
        let engine = Arc::new(EmbeddedEngine::in_memory());
        options.begin(&*engine).unwrap();
        let store = options.clone().run_closures_twice(true).on(Box::new(Arc::clone(&engine))).unwrap();
        let bench = Self { engine, store };
        bench.fill();
        bench.expect(&[]);
        bench
    }

    fn fill(&self) {
        let one = NewKey::new("one").unwrap().id(key_id(1)).alias(alias("x"));
        let other = NewKey::new("other").unwrap().id(key_id(2));
        let request = |time| Request::new(&scope()).at(at(time)).actor("alice");
        let store = &self.store;
        store.write(&request(1000), |txn| txn.create_key(&one).and(txn.create_key(&other))).unwrap();
        store.write(&request(1001), |txn| txn.associate_alias(&alias("x"), key_id(2))).unwrap();
        store.write(&request(1002), |txn| txn.delete_aliases(key_id(2), &[alias("x")])).unwrap();
        store.write(&request(1003), |txn| txn.create_alias(&alias("y"), key_id(1))).unwrap();
        let names = ["1", "2"].map(|name| KeyAlias::new(name).unwrap());
        store
            .write(&request(1004), |txn| {
                names.iter().try_for_each(|name| txn.rename_key_alias(key_id(1), name).map(drop))
            })
            .unwrap();
        store.write_once(&request(1005), &request_id(), b"body", |_| Ok(7)).unwrap();
    }

    fn report(&self) -> Report {
        self.store.verify().unwrap()
    }

    /// Asserts that the walk sees exactly this.
    fn expect(&self, expected: &[(u8, String)]) {
        let report = self.report();
        let seen: Vec<_> = report.violations.iter().map(|seen| (seen.invariant, seen.what.clone())).collect();
        assert_eq!(seen, expected, "{report:#?}");
    }

    fn put(&self, row: &[u8], commit: u64, bytes: &[u8]) {
        self.engine.damage(row, Some(&seal(row, Commit::new(commit), bytes)));
    }

    fn remove(&self, row: &[u8]) {
        self.engine.damage(row, None);
    }

    fn entry_bytes(&self, commit: u64) -> Vec<u8> {
        self.engine.begin_read().unwrap().changelog_entry(Commit::new(commit)).unwrap().unwrap()
    }

    fn entry(&self, commit: u64) -> CommitRecord {
        decode_log_entry(Commit::new(commit), &self.entry_bytes(commit)).unwrap()
    }

    /// Writes another entry in the place of one.
    fn change_entry(&self, commit: u64, change: impl FnOnce(&mut CommitRecord)) {
        let mut entry = self.entry(commit);
        change(&mut entry);
        self.put(&log_row(commit), commit, &encode_log_entry(&entry));
    }

    fn row(&self, row: &[u8]) -> Vec<u8> {
        self.engine.begin_read().unwrap().get(&[row]).unwrap().pop().flatten().unwrap().bytes
    }
}

#[test]
fn a_missing_entry_is_seen() {
    let bench = Bench::new();
    bench.remove(&log_row(3));
    // The alias's chain ends there, and with it goes the change of commit 2.
    bench.expect(&[nine(MISSING), counts(7, 6)]);
    let bench = Bench::new();
    bench.remove(&log_row(6));
    bench.expect(&[nine(MISSING), counts(6, 5)]);
}

#[test]
fn a_missing_oldest_entry_is_seen() {
    let bench = Bench::new();
    bench.remove(&log_row(2));
    // By both keys, and by the alias's tombstone.
    bench.expect(&[nine(MISSING), nine(MISSING), nine(MISSING)]);
    assert_eq!(bench.report().changes, 5);
}

#[test]
fn an_entry_of_another_commit_in_its_place_is_seen() {
    let bench = Bench::new();
    bench.put(&log_row(3), 3, &bench.entry_bytes(6));
    let seen = bench.report();
    assert_eq!(seen.violations[0].what, NOT_ITS_OWN);
    assert_eq!(seen.violations[0].rows[1], "log entry 3");
    assert_eq!(seen.violations.len(), 2, "{seen:#?}");
}

#[test]
fn an_entry_of_another_scope_is_seen() {
    let bench = Bench::new();
    bench.change_entry(5, |entry| entry.info.scope = elsewhere());
    bench.expect(&[nine(NOT_ITS_OWN), counts(8, 7)]);
}

#[test]
fn an_orphan_entry_is_seen() {
    let bench = Bench::new();
    // Commit 7 changed no record, so no chain leads there.
    bench.put(&log_row(7), 7, &bench.entry_bytes(5));
    bench.expect(&[counts(9, 8)]);
}

#[test]
fn an_orphan_change_in_an_entry_is_seen() {
    let bench = Bench::new();
    let foreign = bench.entry(6).changes[1].clone();
    bench.change_entry(5, |entry| entry.changes.push(foreign));
    bench.expect(&[counts(9, 8)]);
}

#[test]
fn a_wrong_after_image_is_seen() {
    let bench = Bench::new();
    bench.change_entry(5, |entry| {
        let Images::Alias { after: Some(after), .. } = &mut entry.changes[0].images else { panic!() };
        Arc::make_mut(after).key_id = key_id(2);
    });
    bench.expect(&[nine(OTHER_IMAGE)]);
}

#[test]
fn a_wrong_before_image_is_seen() {
    let bench = Bench::new();
    bench.change_entry(3, |entry| {
        let Images::Alias { before: Some(before), .. } = &mut entry.changes[0].images else { panic!() };
        Arc::make_mut(before).key_id = key_id(9);
    });
    bench.expect(&[nine(OTHER_IMAGE)]);
}

#[test]
fn a_wrong_image_within_a_commit_is_seen() {
    let bench = Bench::new();
    bench.change_entry(6, |entry| {
        let Images::Key { before: Some(before), .. } = &mut entry.changes[1].images else { panic!() };
        Arc::make_mut(before).key_alias = KeyAlias::new("never").unwrap();
    });
    bench.expect(&[nine(OTHER_IMAGE)]);
}

#[test]
fn a_row_that_changed_without_its_history_is_seen() {
    let bench = Bench::new();
    let row = Space::of_scope(&scope()).alias("y");
    let entry = bench.entry(5);
    let Images::Alias { after: Some(after), .. } = &entry.changes[0].images else { panic!() };
    let mut record = (**after).clone();
    record.created_at = at(1);
    bench.put(&row, 5, &crate::format::encode_alias(&record));
    bench.expect(&[nine(OTHER_IMAGE)]);
    // Another version leads to an entry that is not there, or not of this alias.
    bench.put(&row, 7, &crate::format::encode_alias(after));
    bench.expect(&[nine(MISSING), counts(8, 7)]);
    bench.put(&row, 6, &crate::format::encode_alias(after));
    bench.expect(&[nine(NOT_ITS_OWN), counts(8, 7)]);
    bench.put(&row, 8, &crate::format::encode_alias(after));
    bench.expect(&[nine("it is of commit 8, which is to come"), nine(MISSING), counts(8, 7)]);
}

#[test]
fn a_change_that_is_cut_off_from_the_one_before_it_is_seen() {
    let bench = Bench::new();
    bench.change_entry(3, |entry| {
        let Images::Alias { before, .. } = &mut entry.changes[0].images else { panic!() };
        *before = None;
        entry.changes[0].previous = None;
    });
    // What commit 2 did to the alias is on no chain.
    bench.expect(&[counts(8, 7)]);
}

#[test]
fn a_previous_change_in_another_commit_is_seen() {
    let bench = Bench::new();
    let lead = |to: u64, time: u64| {
        bench.change_entry(4, |entry| {
            entry.changes[0].previous = Some(Previous { commit: Commit::new(to), time: at(time) });
        });
    };
    lead(2, 1000);
    // The version of the before image is the commit to which it leads; the change there is another.
    bench.expect(&[nine(OTHER_IMAGE), counts(8, 7)]);
    lead(4, 1001);
    bench.expect(&[nine(BEFORE_ITSELF), counts(8, 6)]);
    lead(6, 1001);
    let seen: Vec<_> = bench.report().violations.into_iter().map(|seen| seen.what).collect();
    assert!(seen.iter().any(|what| what == BACK_IN_TIME), "{seen:?}");
    assert!(seen.iter().any(|what| what == BEFORE_ITSELF), "{seen:?}");
}

#[test]
fn times_that_go_back_are_seen() {
    let bench = Bench::new();
    // Later than the change itself.
    bench.change_entry(4, |entry| {
        entry.changes[0].previous = Some(Previous { commit: Commit::new(3), time: at(1003) });
    });
    bench.expect(&[nine(BACK_IN_TIME), nine(OTHER_TIME)]);
    // Not the time that the change before it tells of itself.
    let bench = Bench::new();
    bench.change_entry(3, |entry| entry.changes[0].time = at(1002));
    bench.expect(&[nine(OTHER_TIME)]);
    let bench = Bench::new();
    bench.change_entry(4, |entry| {
        entry.changes[0].previous = Some(Previous { commit: Commit::new(3), time: at(1000) });
    });
    bench.expect(&[nine(OTHER_TIME)]);
}

#[test]
fn a_tombstone_of_a_living_record_is_seen() {
    let bench = Bench::new();
    let row = Space::tombstone(&scope(), &RecordId::Alias("y".to_owned()));
    bench.put(&row, 5, &encode_tombstone(at(1003)));
    let seen = bench.report();
    assert_eq!(seen.violations[0].what, "a tombstone of a record that is there");
    assert_eq!(seen.violations[0].invariant, 9);
    let bench = Bench::new();
    bench.put(&Space::tombstone(&scope(), &RecordId::Key(key_id(1))), 6, &encode_tombstone(at(1004)));
    assert_eq!(bench.report().violations[0].what, "a tombstone of a record that is there");
}

#[test]
fn a_missing_tombstone_is_seen() {
    let bench = Bench::new();
    bench.remove(&Space::tombstone(&scope(), &x()));
    bench.expect(&[counts(8, 5)]);
}

#[test]
fn a_tombstone_that_outlived_its_deletion_is_seen() {
    let bench = Bench::new();
    let row = Space::tombstone(&scope(), &x());
    let bytes = bench.row(&row);
    bench.store.trim_history(Commit::new(4)).unwrap();
    bench.put(&row, 4, &bytes);
    bench.expect(&[nine(STALE_TOMBSTONE)]);
}

#[test]
fn a_tombstone_of_a_record_that_never_was_is_seen() {
    let bench = Bench::new();
    bench.put(&Space::tombstone(&scope(), &RecordId::Key(key_id(9))), 4, &encode_tombstone(at(1002)));
    bench.expect(&[nine(NOT_ITS_OWN)]);
    let bench = Bench::new();
    bench.put(&Space::tombstone(&elsewhere(), &x()), 4, &encode_tombstone(at(1002)));
    bench.expect(&[nine(NOT_ITS_OWN)]);
}

#[test]
fn a_tombstone_of_another_time_or_commit_is_seen() {
    let bench = Bench::new();
    let row = Space::tombstone(&scope(), &x());
    bench.put(&row, 4, &encode_tombstone(at(1001)));
    bench.expect(&[nine(OTHER_TIME)]);
    bench.put(&row, 3, &encode_tombstone(at(1002)));
    let seen = bench.report();
    assert_eq!(seen.violations[0].what, OTHER_IMAGE);
}

#[test]
fn a_floor_too_high_is_seen() {
    let bench = Bench::new();
    let row = Space::of_store().floor();
    let floor = |commit| encode_floor(Floor { commit: Commit::new(commit), time: at(2000) });
    bench.put(&row, 7, &floor(4));
    // Commits 2, 3 and 4 are still in the log; only commits 5 and 6 are on chains.
    let here = nine(NO_ENTRY_HERE);
    bench.expect(&[nine(STALE_TOMBSTONE), here.clone(), here.clone(), here, counts(8, 3)]);
    bench.put(&row, 7, &floor(8));
    let seen = bench.report();
    assert_eq!(seen.violations[0].what, "more was trimmed than there was");
    assert_eq!(seen.violations.len(), 1 + 1 + 5 + 1);
}

#[test]
fn a_floor_too_low_is_seen() {
    let bench = Bench::new();
    assert_eq!(bench.store.trim_history(Commit::new(4)).unwrap(), Commit::new(4));
    bench.expect(&[]);
    bench.remove(&Space::of_store().floor());
    // Both keys miss commit 2; the tombstone went with what it was for.
    bench.expect(&[nine(MISSING), nine(MISSING)]);
}

#[test]
fn an_entry_below_the_floor_or_ahead_is_seen() {
    let bench = Bench::new();
    let bytes = bench.entry_bytes(3);
    bench.store.trim_history(Commit::new(4)).unwrap();
    bench.put(&log_row(3), 3, &bytes);
    bench.expect(&[nine(NO_ENTRY_HERE), counts(4, 3)]);
    bench.remove(&log_row(3));
    bench.put(&log_row(100), 100, &bytes);
    bench.expect(&[nine(NO_ENTRY_HERE), counts(4, 3)]);
}

#[test]
fn a_log_in_a_store_without_history_is_seen() {
    let bytes = Bench::new().entry_bytes(5);
    let bench = Bench::with(&Options::new().history(false));
    assert_eq!(bench.report().changes, 0);
    bench.put(&log_row(5), 5, &bytes);
    bench.expect(&[nine(NO_ENTRY_HERE), counts(1, 0)]);
    let bench = Bench::with(&Options::new().history(false));
    bench.put(&Space::tombstone(&scope(), &x()), 4, &encode_tombstone(at(1002)));
    bench.expect(&[nine("a store without history has no tombstones")]);
    let bench = Bench::with(&Options::new().history(false));
    bench.put(&Space::of_store().floor(), 5, &encode_floor(Floor::default()));
    bench.expect(&[nine("more was trimmed than there was")]);
}

#[test]
fn an_entry_that_can_not_be_decoded_is_seen() {
    let words = |bench: &Bench| {
        let report = bench.report();
        let seen = report.violations.iter().find(|seen| seen.rows == ["log entry 5"]);
        let seen = seen.unwrap_or_else(|| panic!("{report:#?}"));
        assert_eq!(seen.invariant, 12);
        seen.what.clone()
    };
    let bench = Bench::new();
    let good = bench.entry_bytes(5);
    for bad in [&[][..], &[0], &[1], &good[..good.len() - 1], &[&good[..], &[0]].concat()] {
        bench.put(&log_row(5), 5, bad);
        assert!(words(&bench).contains("the store is damaged"), "{}", words(&bench));
    }
    // Of a version to come.
    let mut newer = good.clone();
    newer[0] = 2;
    bench.put(&log_row(5), 5, &newer);
    assert_eq!(words(&bench), "it is in format version 2, and this version of the library reads 1");
    // Not sealed, or for another place.
    bench.engine.damage(&log_row(5), Some(&good));
    assert!(words(&bench).contains("the store is damaged"));
    bench.engine.damage(&log_row(5), Some(&seal(&log_row(4), Commit::new(5), &good)));
    assert!(words(&bench).contains("the checksum is wrong"));
}

#[test]
fn an_entry_that_does_not_encode_to_itself_is_seen() {
    let bench = Bench::new();
    let mut bytes = bench.entry_bytes(4);
    // It ends with the image before the deletion, of 20 odd bytes, and the mark of no image after it. A
    // length below 251 takes one byte; spelt with three it is the same.
    let Images::Alias { before: Some(before), .. } = &bench.entry(4).changes[0].images else { panic!() };
    let image = crate::format::encode_alias(before).len();
    let place = bytes.len() - 1 - image - 1;
    assert_eq!(usize::from(bytes[place]), image);
    bytes.splice(place..=place, [0xfb, bytes[place], 0]);
    bench.put(&log_row(4), 4, &bytes);
    bench.expect(&[twelve(NOT_CANONICAL)]);
}

#[test]
fn a_place_in_the_log_that_is_none_is_seen() {
    for address in
        [[&log_row(5)[..], &1_u64.to_be_bytes()].concat(), [&log_row(5)[..], &[0]].concat(), vec![0xff, 1]]
    {
        let bench = Bench::new();
        bench.put(&address, 5, &bench.entry_bytes(5));
        let report = bench.report();
        let seen = report.violations.first().unwrap_or_else(|| panic!("{address:?}"));
        assert_eq!(seen.invariant, 12);
        assert!(seen.what.starts_with("the log from here on can't be read"), "{}", seen.what);
    }
}

#[test]
fn damaged_rows_of_the_history_are_seen() {
    let tombstone = Space::tombstone(&scope(), &x());
    let outcome = Space::of_scope(&scope()).outcome(&request_id());
    for row in [tombstone, outcome, Space::of_store().floor()] {
        let bench = Bench::new();
        bench.store.trim_history(Commit::new(2)).unwrap();
        let good = bench.row(&row);
        for bad in [&[][..], &[0], &[2, 0], &good[..good.len() - 1], &[&good[..], &[0]].concat()] {
            bench.put(&row, 4, bad);
            let report = bench.report();
            assert!(report.violations.iter().any(|seen| seen.invariant == 12), "{bad:?} {report:#?}");
        }
    }
    // Times below 251 take one byte; spelt with three they are the same.
    let bench = Bench::new();
    bench.put(&Space::of_store().floor(), 7, &[1, 0xfb, 0, 0, 0]);
    bench.expect(&[twelve("the value does not encode to itself")]);
}

#[test]
fn an_outcome_that_nothing_forgets_is_seen() {
    let bench = Bench::new();
    let space = Space::of_scope(&scope());
    let (outcome, time) = (space.outcome(&request_id()), space.outcome_time(at(1005), &request_id()));
    let bytes = bench.row(&outcome);
    bench.remove(&time);
    bench.expect(&[ten("nothing says when the outcome is to be forgotten")]);
    bench.put(&time, 7, &encode_nothing());
    bench.remove(&outcome);
    bench.expect(&[ten("no outcome is of this time")]);
    // A second time for one outcome.
    bench.put(&outcome, 7, &bytes);
    bench.expect(&[]);
    bench.put(&space.outcome_time(at(1006), &request_id()), 7, &encode_nothing());
    bench.expect(&[ten("no outcome is of this time")]);
    bench.remove(&time);
    let (missing, none) = ("nothing says when the outcome is to be forgotten", "no outcome is of this time");
    bench.expect(&[ten(missing), ten(none)]);
}

#[test]
fn pruning_leaves_an_outcome_of_another_time() {
    let bench = Bench::new();
    let request = Request::new(&scope()).at(at(1006));
    let forget =
        |time| bench.store.write(&request, |txn| txn.forget_outcome(&request_id(), at(time))).unwrap().value;
    assert!(!forget(1004));
    bench.expect(&[]);
    assert!(forget(1005));
    assert!(!forget(1005));
    bench.expect(&[]);
}

/// Bytes for people to compare.
fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[test]
fn the_bytes_of_the_log_are_these() {
    let bench = Bench::new();
    assert_eq!(hex(&bench.entry_bytes(3)), GOLDEN_MOVE);
    assert_eq!(hex(&bench.entry_bytes(4)), GOLDEN_DELETION);
    assert_eq!(hex(&bench.entry_bytes(6)), GOLDEN_RENAMES);
    // Each is read as what was written.
    for (commit, golden) in [(3, GOLDEN_MOVE), (4, GOLDEN_DELETION), (6, GOLDEN_RENAMES)] {
        let entry = decode_log_entry(Commit::new(commit), &HEXLOWER.decode(golden.as_bytes()).unwrap());
        assert_eq!(entry.unwrap(), bench.entry(commit));
    }
    assert_eq!(bench.entry(4).info.actor.as_deref(), Some("alice"));
    assert_eq!(bench.entry(4).changes[0].operation, Operation::DeleteAliases);
}

const GOLDEN_MOVE: &str = concat!(
    "011102646f6d61696e000270726f6a65637400fbe9030105616c69636500011700010178000102fbe803",
    "0115010101010101010101010101010101010100e80700",
    "0115010202020202020202020202020202020200e80701",
);
const GOLDEN_DELETION: &str = concat!(
    "011102646f6d61696e000270726f6a65637400fbea030105616c69636500011900010178000103fbe903",
    "0115010202020202020202020202020202020200e8070100",
);
const GOLDEN_RENAMES: &str = concat!(
    "011102646f6d61696e000270726f6a65637400fbec030105616c6963650002",
    "14010101010101010101010101010101010100000102fbe803",
    "011001036f6e65000111e807000000000000",
    "010e010131000111e807040000000000",
    "14010101010101010101010101010101010100000100fbec03",
    "010e010131000111e807040000000000",
    "010e010132000111e807040000000000",
);

#[test]
fn the_bytes_of_the_other_rows_are_these() {
    let outcome = Outcome {
        digest: [0xab; 32],
        value: b"7".to_vec(),
        changed: true,
        time: 1_700_000_000_000,
        stand_in: None,
    };
    let hexadecimal =
        Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap();
    let space = Space::of_scope(&scope());
    let time = at(1_700_000_000_000);
    let golden = [
        (Space::of_store().floor(), "0003"),
        (encode_floor(Floor { commit: Commit::new(258), time }), "01fb0201fd0068e5cf8b010000"),
        (encode_tombstone(time), "01fd0068e5cf8b010000"),
        (
            encode_outcome(&outcome),
            "01abababababababababababababababababababababababababababababababab013701fd0068e5cf8b01000000",
        ),
        (
            space.outcome(&request_id()),
            concat!(
                "02646f6d61696e000270726f6a6563740018",
                "39313963383264342d383034362d343732322d393039342d333563336336353234636666",
            ),
        ),
        (
            space.outcome_time(time, &request_id()),
            concat!(
                "02646f6d61696e000270726f6a65637400190000018bcfe56800",
                "39313963383264342d383034362d343732322d393039342d333563336336353234636666",
            ),
        ),
        (
            Space::tombstone(&scope(), &RecordId::Key(key_id(1))),
            "02646f6d61696e0000040270726f6a6563740001010101010101010101010101010101",
        ),
        (Space::tombstone(&scope(), &x()), "02646f6d61696e0000050270726f6a6563740078"),
        (
            Space::tombstone(&hexadecimal, &RecordId::Key(key_id(1))),
            concat!(
                "013bab8e245e854f68af5967c00dd431270004",
                "010d0466b0e7274d9cb35df84bb474a37f01010101010101010101010101010101"
            ),
        ),
        (
            Space::tombstone(&hexadecimal, &x()),
            "013bab8e245e854f68af5967c00dd431270005010d0466b0e7274d9cb35df84bb474a37f78",
        ),
    ];
    for (bytes, expected) in golden {
        assert_eq!(hex(&bytes), expected);
    }
}

#[test]
fn what_no_entry_may_say_is_damage() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut CommitRecord)| {
        let mut entry = bench.entry(4);
        change(&mut entry);
        decode_log_entry(Commit::new(4), &encode_log_entry(&entry)).unwrap_err().to_string()
    };
    let nowhere = refused(&|entry| entry.changes[0].previous = None);
    assert!(nowhere.contains("what was there before came from nowhere"), "{nowhere}");
    // A change at the last time there is; the time of the entry lies behind its version and its space.
    let mut entry = bench.entry(4);
    entry.changes[0].time = at(u64::MAX);
    let mut bytes = encode_log_entry(&entry);
    assert_eq!(decode_log_entry(Commit::new(4), &bytes).unwrap(), entry);
    let place = 1 + 1 + Space::of_scope(&scope()).start().len();
    assert_eq!(bytes[place..place + 3], [0xfb, 0xea, 0x03]);
    bytes[place + 1] += 1;
    let late = decode_log_entry(Commit::new(4), &bytes).unwrap_err().to_string();
    assert!(late.contains("a change is after all time"), "{late}");
    // The same place, but of no scope, and of one that is spelt otherwise.
    for (place, byte) in [(2, 0), (2, 3), (3, b'!')] {
        let mut bytes = bench.entry_bytes(4);
        bytes[place] = byte;
        let lost = decode_log_entry(Commit::new(4), &bytes).unwrap_err().to_string();
        assert!(lost.contains("it is of no scope"), "{lost}");
    }
}

/// A record of any content that encodes.
fn any_record() -> impl Strategy<Value = CommitRecord> {
    let change = (any::<u64>(), any::<Option<(u64, u64)>>(), 0..27_usize, 0..4_usize);
    let info = (any::<u64>(), any::<Option<String>>(), any::<bool>(), any::<u32>());
    (info, prop::collection::vec(change, 1..5)).prop_map(|((commit, actor, id, time), changes)| {
        let bench_changes = changes.into_iter().map(|(later, previous, operation, which)| {
            let previous =
                previous.map(|(commit, time)| Previous { commit: Commit::new(commit), time: at(time) });
            Change {
                operation: Operation::REGISTER[operation].1,
                time: at(u64::from(time).saturating_add(later)),
                previous,
                images: images(which, Commit::new(commit), previous),
            }
        });
        CommitRecord {
            info: CommitInfo {
                commit: Commit::new(commit),
                time: at(time.into()),
                scope: scope(),
                actor: actor.map(Arc::from),
                request_id: id.then(request_id),
            },
            changes: bench_changes.collect(),
        }
    })
}

fn images(which: usize, commit: Commit, previous: Option<Previous>) -> Images {
    let record = |version| {
        Arc::new(crate::AliasRecord {
            alias: alias(if which.is_multiple_of(2) { "x" } else { "alias/x" }),
            key_id: key_id(1),
            domain_id: scope().domain().clone(),
            project_id: scope().project().clone(),
            created_at: at(1),
            updated_at: at(2),
            version,
        })
    };
    let before = previous.map(|previous| record(previous.commit));
    let after = (which < 2 || before.is_none()).then(|| record(commit));
    Images::Alias { before, after }
}

/// What happens to bytes.
#[derive(Debug, Clone)]
enum Harm {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, u8),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (any::<usize>(), 1..=255_u8).prop_map(|(place, with)| Harm::Flip(place, with)),
        1 => any::<usize>().prop_map(Harm::Cut),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(place, byte)| Harm::Insert(place, byte)),
    ]
}

fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let length = bytes.len().max(1);
        match harm {
            Harm::Flip(place, with) => {
                if let Some(byte) = bytes.get_mut(place % length) {
                    *byte ^= with;
                }
            }
            Harm::Cut(place) => bytes.truncate(place % length),
            Harm::Insert(place, byte) => bytes.insert(place % length.min(bytes.len() + 1), *byte),
        }
    }
    bytes
}

/// Decodes as everything; what can be read can be written and read again.
fn decode_all(bytes: &[u8]) {
    if let Ok(entry) = decode_log_entry(Commit::new(9), bytes) {
        let again = decode_log_entry(Commit::new(9), &encode_log_entry(&entry)).unwrap();
        assert_eq!(again, entry);
    }
    let _ = decode_floor(b"row", bytes).map(encode_floor);
    let _ = decode_tombstone(b"row", bytes).map(encode_tombstone);
    let _ = decode_outcome(b"row", bytes).map(|outcome| encode_outcome(&outcome));
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_entry_is_read_as_it_was_written(record in any_record()) {
        let bytes = encode_log_entry(&record);
        let read = decode_log_entry(record.info.commit, &bytes).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert_eq!(encode_log_entry(&read), bytes);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
        decode_all(&[&[1][..], &bytes].concat());
    }

    #[test]
    fn no_harm_to_an_entry_makes_a_decoder_panic(
        record in any_record(),
        harms in prop::collection::vec(harm(), 1..4),
    ) {
        decode_all(&harmed(encode_log_entry(&record), &harms));
    }
}

#[test]
fn a_space_whose_number_is_gone_or_can_not_be_read_is_seen() {
    let bench = Bench::new();
    let is_number = |place: &Vec<u8>| place.len() > 1 && place[0] == 0;
    let spaces: Vec<_> = bench.engine.places().into_iter().filter(is_number).collect();
    assert!(spaces.len() > 1, "a scope and its domain");
    for place in spaces {
        let bench = Bench::new();
        bench.engine.damage_place(&place, None);
        let hidden = bench.report().violations;
        assert!(hidden.iter().any(|seen| seen.what.starts_with("rows may be hidden: ")), "{hidden:#?}");
        bench.engine.damage_place(&place, Some(b"not sealed"));
        let report = bench.report();
        let space = crate::format::show(&place[1..]);
        let seen = report.violations.iter().find(|seen| seen.rows == [space.as_str()]);
        let seen = seen.unwrap_or_else(|| panic!("{report:#?}"));
        assert!(seen.what.contains("the checksum is wrong"), "{}", seen.what);
    }
}
