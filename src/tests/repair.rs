//! Repairing: each row of a store is damaged in turn, and what comes of it is compared with the store as
//! it was.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::backup::{Rows, rows_of};
use super::new_key;
use crate::engine::Draft;
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::redb::{Pages, TableReader, seal};
use crate::error::Result;
use crate::format::{
    Address, RecordId, Row, ScopedTable, Space, Stored, decode_alias, decode_alias_names, decode_claim,
    decode_counts, decode_floor, decode_key, decode_outcome, encode_alias_names, encode_claim, encode_counts,
    encode_key, encode_key_id, encode_nothing, encode_restored, encode_tombstone, read_address,
};
use crate::{
    AliasScope, Commit, Error, KeyId, NewKey, Options, Origin, PendingDays, RepairReport, Request, Scope,
    Store, Timestamp, repair,
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const ORDERS: KeyId = KeyId::from_bytes([1; 16]);
const ABSENT: KeyId = KeyId::from_bytes([9; 16]);

fn scope() -> Scope {
    Scope::new("domain", "one").unwrap()
}

/// A store with a row of every kind, closed.
struct Rig {
    folder: tempfile::TempDir,
    rows: Rows,
    history: bool,
}

impl Rig {
    fn new(alias_scope: AliasScope, history: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let options = Options::new().alias_scope(alias_scope).history(history);
        fill(&options.open(&path).unwrap()).unwrap();
        Self { rows: read(&path), folder, history }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Damages a copy and repairs that.
    fn repair(&self, damage: &[(Row, Option<Vec<u8>>)]) -> Result<(Rows, RepairReport)> {
        let (damaged, repaired) = (self.path("damaged"), self.path("repaired"));
        drop(std::fs::remove_file(&repaired));
        std::fs::copy(self.path("whole"), &damaged).unwrap();
        let draft = Draft::open(&damaged).unwrap();
        for (row, value) in damage {
            draft.damage(row, value.as_deref());
        }
        drop(draft);
        let before = std::fs::read(&damaged).unwrap();
        let report = repair(&damaged, &repaired);
        assert!(before == std::fs::read(&damaged).unwrap(), "the damaged file was written");
        assert_eq!(report.is_err(), !repaired.exists());
        Ok((read(&repaired), report?))
    }

    fn sealed(&self, row: &Row) -> Vec<u8> {
        let Stored { bytes, commit } = &self.rows.rows[row];
        seal(row, *commit, bytes)
    }

    fn assert_same(&self, expected: &Rows, repaired: &Rows, what: &str) {
        let strip = |rows: &Rows| {
            let mut rows = rows.clone();
            rows.rows.retain(|row, _| {
                !matches!(read_address(row), Some(Address::Fixed | Address::Restored { .. }))
            });
            rows
        };
        let (expected, repaired) = (strip(expected), strip(repaired));
        let addresses = |rows: &Rows| rows.rows.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(addresses(&expected), addresses(&repaired), "{what}");
        for (row, stored) in &expected.rows {
            let found = &repaired.rows[row];
            assert_eq!(stored.bytes, found.bytes, "{what}: {}", row.escape_ascii());
            // The commit of a record is its version. What was written anew has one of its own.
            if !is_derived(row) {
                assert_eq!(stored.commit, found.commit, "{what}: {}", row.escape_ascii());
            }
        }
        assert_eq!(expected.log, repaired.log, "{what}");
    }
}

fn is_derived(row: &Row) -> bool {
    match read_address(row) {
        Some(Address::Scoped { table, .. }) => {
            !matches!(table, ScopedTable::Key(_) | ScopedTable::Alias { .. } | ScopedTable::Outcome(_))
        }
        Some(Address::Claim { .. } | Address::Floor) => true,
        _ => false,
    }
}

fn read(path: &Path) -> Rows {
    if !path.exists() {
        return Rows::default();
    }
    let reader = TableReader::at(path, Pages::believed(1 << 20)).unwrap();
    let rows = reader.newest().unwrap();
    rows_of(&rows)
}

fn fill(store: &Store) -> Result<()> {
    let request = Request::new(&scope()).at(NOW);
    let alias = |name: &str| name.parse().unwrap();
    let keys = [
        new_key("orders", 1)
            .tag("env".parse()?, "prod".parse()?)
            .alias(alias("first"))
            .alias(alias("alias/second"))
            .alias(alias("gone")),
        new_key("spare", 2),
        new_key("imported", 3).origin(Origin::External),
        new_key("dying", 4).alias(alias("fourth")),
        new_key("frozen", 5),
        new_key("purged", 8),
    ];
    for key in &keys {
        store.write(&request, |txn| txn.create_key(key))?;
    }
    store.write(&request, |txn| {
        txn.ensure_default_key(&NewKey::default_of("obs")?.id(KeyId::from_bytes([6; 16])))?;
        txn.material_imported(KeyId::from_bytes([3; 16]), Some(NOW.plus_days(1)))?;
        txn.schedule_deletion(KeyId::from_bytes([4; 16]), PendingDays::new(7)?)?;
        txn.schedule_deletion(KeyId::from_bytes([8; 16]), PendingDays::new(7)?)?;
        txn.freeze(KeyId::from_bytes([5; 16]))
    })?;
    let later = request.clone().at(NOW.plus_days(7));
    store.write(&later, |txn| txn.purge(KeyId::from_bytes([8; 16])))?;
    store.write(&later, |txn| txn.delete_aliases(ORDERS, &[alias("gone")]))?;
    let neighbours = Request::new(&Scope::new("domain", "two")?).at(NOW);
    store.write(&neighbours, |txn| txn.create_key(&new_key("neighbour", 7).alias(alias("theirs"))))?;
    let id = "00000000-0000-0000-0000-000000000001".parse()?;
    store.write_once(&later, &id, b"body", |txn| {
        txn.associate_alias(&"alias/second".parse()?, KeyId::from_bytes([2; 16])).map(drop)
    })?;
    Ok(())
}

fn kinds() -> Vec<Rig> {
    let scopes = [AliasScope::Project, AliasScope::Domain];
    scopes.into_iter().flat_map(|scope| [true, false].map(|history| Rig::new(scope, history))).collect()
}

/// A value whose checksum is wrong.
fn flipped(mut sealed: Vec<u8>) -> Vec<u8> {
    *sealed.last_mut().unwrap() ^= 1;
    sealed
}

/// What is left of a store if an alias is lost.
fn without_alias(rows: &mut Rows, scope: &Scope, urn_name: &str) {
    let space = Space::of_scope(scope);
    let row = space.alias(urn_name);
    let stored = rows.rows.remove(&row).unwrap();
    let alias = decode_alias(&row, scope, urn_name, &stored).unwrap();
    rows.rows.remove(&Space::of_domain(scope.domain()).claim(urn_name));
    let row = space.aliases_of_key(alias.key_id);
    let mut names = decode_alias_names(&row, &rows.rows[&row].bytes).unwrap();
    names.retain(|name| *name != alias.alias);
    if names.is_empty() {
        rows.rows.remove(&row);
    } else {
        rows.rows.get_mut(&row).unwrap().bytes = encode_alias_names(&names);
    }
}

/// What is left of a store if a key is lost.
fn without_key(rows: &mut Rows, scope: &Scope, key_id: KeyId) {
    let space = Space::of_scope(scope);
    let row = space.aliases_of_key(key_id);
    let names = rows.rows.get(&row).map(|stored| decode_alias_names(&row, &stored.bytes).unwrap());
    names.iter().flatten().for_each(|name| without_alias(rows, scope, name.urn_name()));
    let row = space.key(key_id);
    let key = decode_key(&row, scope, key_id, &rows.rows.remove(&row).unwrap()).unwrap();
    space.index_rows(&key).iter().for_each(|(row, _)| drop(rows.rows.remove(row)));
    let row = space.counts();
    let mut counts = decode_counts(&row, &rows.rows[&row].bytes).unwrap();
    *(if key.default { &mut counts.default_keys } else { &mut counts.keys }) -= 1;
    if counts == Default::default() {
        rows.rows.remove(&row);
    } else {
        rows.rows.get_mut(&row).unwrap().bytes = encode_counts(counts);
    }
}

/// What a store must be if this row is damaged, and whether anything is lost then.
fn expected(rig: &Rig, row: &Row) -> Option<(Rows, bool)> {
    let mut rows = rig.rows.clone();
    let lost = match read_address(row).unwrap() {
        Address::Fixed => return None,
        Address::Scoped { scope, table: ScopedTable::Key(key_id) } if !rig.history => {
            without_key(&mut rows, &scope, key_id);
            true
        }
        Address::Scoped { scope, table: ScopedTable::Alias { urn_name } } if !rig.history => {
            without_alias(&mut rows, &scope, &urn_name);
            true
        }
        Address::Scoped { scope, table: ScopedTable::Outcome(request_id) } => {
            let outcome = decode_outcome(row, &rows.rows.remove(row).unwrap().bytes).unwrap();
            let time = Timestamp::from_millis(outcome.time);
            rows.rows.remove(&Space::of_scope(&scope).outcome_time(time, &request_id)).unwrap();
            true
        }
        _ => false,
    };
    Some((rows, lost))
}

#[test]
fn each_row_that_is_damaged_is_repaired_or_reported() {
    let mut tables = BTreeSet::new();
    for rig in kinds() {
        for row in rig.rows.rows.keys() {
            let what = row.escape_ascii().to_string();
            tables.insert(crate::format::table_of(row).last().copied());
            for value in [Some(flipped(rig.sealed(row))), None] {
                let removed = value.is_none();
                let repaired = rig.repair(&[(row.clone(), value)]);
                let Some((expected, loses)) = expected(&rig, row) else {
                    assert!(matches!(repaired, Err(Error::Corrupted(_) | Error::NotAStore(_))), "{what}");
                    continue;
                };
                let (repaired, report) = repaired.unwrap_or_else(|error| panic!("{what}: {error}"));
                rig.assert_same(&expected, &repaired, &what);
                assert!(!report.repaired.is_empty() || !report.lost.is_empty() || removed, "{what}");
                assert_eq!(!report.lost.is_empty(), loses, "{what}: {report:#?}");
                assert!(!loses || is_named(&report, row), "{what}: {report:#?}");
                let named = report.lost.iter().chain(&report.repaired).any(|finding| finding.row == what);
                assert!(named || removed, "{what}: {report:#?}");
            }
        }
    }
    let tables: Vec<_> = tables.into_iter().flatten().collect();
    assert_eq!(tables, [1, 2, 4, 5, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], "every table was damaged");
}

/// Whether a report says that this is lost.
fn is_named(report: &RepairReport, row: &Row) -> bool {
    let shown = row.escape_ascii().to_string();
    report.lost.iter().any(|finding| finding.row == shown)
}

/// The other rows that name a record: if nothing else is left, it is not missed.
fn rows_that_name(rig: &Rig, row: &Row) -> Vec<Row> {
    let Some(Address::Scoped { scope, table }) = read_address(row) else { return Vec::new() };
    let (space, stored) = (Space::of_scope(&scope), &rig.rows.rows[row]);
    let mut rows = match table {
        ScopedTable::Key(key_id) => {
            let key = decode_key(row, &scope, key_id, stored).unwrap();
            let index = space.index_rows(&key).into_iter().map(|(row, _)| row);
            index.chain([space.aliases_of_key(key_id)]).collect()
        }
        ScopedTable::Alias { urn_name } => {
            let alias = decode_alias(row, &scope, &urn_name, stored).unwrap();
            let claim = Space::of_domain(scope.domain()).claim(&urn_name);
            vec![space.aliases_of_key(alias.key_id), claim]
        }
        ScopedTable::Outcome(request_id) => {
            let time = Timestamp::from_millis(decode_outcome(row, &stored.bytes).unwrap().time);
            vec![space.outcome_time(time, &request_id)]
        }
        _ => Vec::new(),
    };
    rows.retain(|row| rig.rows.rows.contains_key(row));
    rows
}

#[test]
fn history_is_kept_from_where_it_is_whole() {
    let rig = Rig::new(AliasScope::Project, true);
    for (commit, entry) in &rig.rows.log {
        let row = Draft::log_row(*commit);
        for value in [Some(flipped(seal(&row, *commit, entry))), None] {
            let (repaired, report) = rig.repair(&[(row.clone(), value)]).unwrap();
            assert_eq!(report.lost.len(), 1, "{commit}");
            let floor_row = Space::of_store().floor();
            let floor = decode_floor(&floor_row, &repaired.rows[&floor_row].bytes).unwrap();
            assert_eq!(floor.commit, *commit);
            // The latest time of any change up to there.
            let purge = Commit::new(9);
            let latest = if *commit < purge { NOW } else { NOW.plus_days(7) };
            assert_eq!(floor.time, latest, "{commit}");
            let mut expected = rig.rows.clone().trimmed(*commit);
            expected.rows.insert(floor_row.clone(), repaired.rows[&floor_row].clone());
            rig.assert_same(&expected, &repaired, &commit.to_string());
        }
    }
}

/// Two things are damaged: what the history tells is not taken for sure any more.
#[test]
fn a_record_is_not_taken_from_a_history_that_is_not_whole() {
    let rig = Rig::new(AliasScope::Domain, true);
    let row = Space::of_scope(&scope()).key(ORDERS);
    let (&newest, _) = rig.rows.log.last_key_value().unwrap();
    let damage = [(row.clone(), Some(Vec::new())), (Draft::log_row(newest), Some(Vec::new()))];
    let (repaired, report) = rig.repair(&damage).unwrap();
    assert!(!repaired.rows.contains_key(&row));
    assert!(!repaired.rows.contains_key(&Space::of_scope(&scope()).alias("first")), "it named the key");
    let lost: Vec<_> = report.lost.iter().map(|finding| finding.row.clone()).collect();
    assert!(lost.contains(&row.escape_ascii().to_string()), "{lost:?}");
    assert!(repaired.log.is_empty());
}

#[test]
fn where_the_history_begins_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    let store = Store::open(&path).unwrap();
    fill(&store).unwrap();
    store.trim_history(Commit::new(9)).unwrap();
    drop(store);
    let rig = Rig { rows: read(&path), folder, history: true };
    let row = Space::of_store().floor();
    let was = decode_floor(&row, &rig.rows.rows[&row].bytes).unwrap();
    let (repaired, report) = rig.repair(&[(row.clone(), Some(Vec::new()))]).unwrap();
    assert_eq!(decode_floor(&row, &repaired.rows[&row].bytes).unwrap().commit, was.commit);
    assert!(report.lost.is_empty(), "{report:#?}");
    let mut repaired = repaired;
    repaired.rows.insert(row.clone(), rig.rows.rows[&row].clone());
    rig.assert_same(&rig.rows, &repaired, "floor");
}

/// Rows that name a record which is not there, and that record.
fn orphans(rig: &Rig) -> Vec<(&'static str, Row, Vec<u8>, Row)> {
    let (space, domain) = (Space::of_scope(&scope()), Space::of_domain(scope().domain()));
    let request_id = "0".repeat(36).parse().unwrap();
    let names = encode_alias_names(&["x".parse().unwrap()]);
    let name = space.key_alias(&"nobody".parse().unwrap());
    let mut cases = vec![
        ("aliases of no key", space.aliases_of_key(ABSENT), names.clone(), space.key(ABSENT)),
        ("no alias", space.aliases_of_key(KeyId::from_bytes([3; 16])), names, space.alias("x")),
        (
            "an outcome's time",
            space.outcome_time(NOW, &request_id),
            encode_nothing(),
            space.outcome(&request_id),
        ),
        ("a name of no key", name, encode_key_id(ABSENT), space.key(ABSENT)),
    ];
    if rig.rows.rows.contains_key(&domain.claim("first")) {
        let claim = encode_claim(scope().project());
        cases.push(("a claim", domain.claim("nobody"), claim, space.alias("nobody")));
    }
    cases
}

/// It may have been there, so the report does not call it repaired.
#[test]
fn what_names_a_record_that_is_not_there_tells_of_a_loss() {
    for rig in kinds() {
        for (what, row, value, record) in orphans(&rig) {
            assert!(!rig.rows.rows.contains_key(&row), "{what}");
            let sealed = seal(&row, Commit::new(3), &value);
            let (repaired, report) = rig.repair(&[(row.clone(), Some(sealed))]).unwrap();
            rig.assert_same(&rig.rows, &repaired, what);
            assert!(is_named(&report, &record), "{what}: {report:#?}");
        }
        // What lies at no address, and is not whole, was something else.
        let row = [Space::of_scope(&scope()).start(), vec![0x7f]].concat();
        let (repaired, report) = rig.repair(&[(row.clone(), Some(vec![1, 2, 3]))]).unwrap();
        rig.assert_same(&rig.rows, &repaired, "no such table");
        assert!(is_named(&report, &row), "{report:#?}");
    }
}

/// Of a key nothing is left, but that it was counted.
#[test]
fn a_key_that_was_counted_is_missed() {
    for rig in kinds().into_iter().filter(|rig| !rig.history) {
        let space = Space::of_scope(&scope());
        let (key, name) =
            (space.key(KeyId::from_bytes([5; 16])), space.key_alias(&"frozen".parse().unwrap()));
        let (repaired, report) = rig.repair(&[(key.clone(), None), (name, None)]).unwrap();
        assert!(!repaired.rows.contains_key(&key));
        assert!(is_named(&report, &space.counts()), "{report:#?}");
    }
}

/// A commit changed two keys, and is not in the log any more; the row of one of them is damaged. What it was
/// before that commit is not what it was last.
#[test]
fn a_record_is_not_taken_as_it_was_before_a_commit_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    let store = Store::open(&path).unwrap();
    let request = Request::new(&scope()).at(NOW);
    let other = KeyId::from_bytes([2; 16]);
    store.write(&request, |txn| txn.create_key(&new_key("orders", 1))).unwrap();
    store.write(&request, |txn| txn.create_key(&new_key("other", 2))).unwrap();
    let both = store.write(&request, |txn| txn.freeze(ORDERS).and(txn.freeze(other))).unwrap().commit;
    let last = store.write(&request, |txn| txn.create_key(&new_key("last", 3))).unwrap().commit;
    drop(store);
    let rig = Rig { rows: read(&path), folder, history: true };
    let (space, entry) = (Space::of_scope(&scope()), Draft::log_row(both));
    for value in [None, Some(Vec::new())] {
        let damage = [(space.key(ORDERS), value), (entry.clone(), None)];
        let (repaired, report) = rig.repair(&damage).unwrap();
        assert!(is_named(&report, &space.key(ORDERS)), "{report:#?}");
        let mut expected = rig.rows.clone();
        without_key(&mut expected, &scope(), ORDERS);
        let floor = Space::of_store().floor();
        expected.rows.insert(floor.clone(), repaired.rows[&floor].clone());
        rig.assert_same(&expected.trimmed(both), &repaired, "without the key");
    }
    // Neither is one of which another row tells something else; whatever commit that row is of.
    let name = space.key_alias(&"renamed".parse().unwrap());
    let renamed = seal(&name, last, &encode_key_id(ORDERS));
    let old_name = space.key_alias(&"orders".parse().unwrap());
    let damage = [(space.key(ORDERS), None), (name, Some(renamed)), (old_name, None)];
    let (repaired, report) = rig.repair(&damage).unwrap();
    assert!(is_named(&report, &space.key(ORDERS)), "{report:#?}");
    assert!(!repaired.rows.contains_key(&space.key(ORDERS)));
}

/// The row by which the rows of a scope are found is damaged or gone.
#[test]
fn a_scope_that_is_hidden_is_missed() {
    for rig in kinds() {
        let number = [&[0], &Space::of_scope(&scope()).start()[..]].concat();
        for value in [None, Some(&b"not sealed"[..])] {
            let damaged = rig.path("damaged");
            drop(std::fs::remove_file(rig.path("repaired")));
            std::fs::copy(rig.path("whole"), &damaged).unwrap();
            EmbeddedEngine::open_table(&damaged, Pages::believed(1 << 20))
                .unwrap()
                .damage_place(&number, value);
            let store = Options::new().open_read_only(&damaged).unwrap();
            assert!(!store.verify().unwrap().is_clean());
            let refused = store.backup(rig.path("copy"));
            assert!(matches!(refused, Err(Error::Corrupted(_))), "{refused:?}");
            let refused = crate::Restore::of(&damaged).into_file(rig.path("copy"));
            assert!(matches!(refused, Err(Error::Corrupted(_))), "{refused:?}");
            assert!(!rig.path("copy").exists());
            drop(store);
            let report = repair(&damaged, rig.path("repaired")).unwrap();
            let hidden = report.lost.iter().any(|finding| finding.what.contains("hidden"));
            assert!(hidden, "{report:#?}");
            let repaired = read(&rig.path("repaired"));
            let key = Space::of_scope(&scope()).key(ORDERS);
            assert_eq!(repaired.rows.contains_key(&key), rig.history, "it is taken from the history");
            assert!(!report.repaired.iter().any(|finding| finding.what.contains("no row has such")));
        }
    }
}

/// Rows that no store writes, and that are whole.
#[test]
fn what_can_not_be_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    let store = Store::open(&path).unwrap();
    fill(&store).unwrap();
    store.trim_history(Commit::new(4)).unwrap();
    drop(store);
    let rig = Rig { rows: read(&path), folder, history: true };
    let space = Space::of_store();
    let tombstone = Space::tombstone(&scope(), &RecordId::Key(ABSENT));
    let restored = |first| space.restored(Commit::new(first));
    let noted = |first, last| seal(&restored(first), Commit::new(first), &encode_restored(Commit::new(last)));
    let cases = [
        (
            "a tombstone that was trimmed",
            tombstone.clone(),
            seal(&tombstone, Commit::new(3), &encode_tombstone(NOW)),
        ),
        ("a restore before what was restored", restored(6), noted(6, 7)),
        (
            "a restore by another commit",
            restored(6),
            seal(&restored(6), Commit::new(7), &encode_restored(Commit::new(5))),
        ),
        ("a restore that lost what is there", restored(9), noted(9, 5)),
    ];
    for (what, row, value) in cases {
        let (repaired, report) = rig.repair(&[(row.clone(), Some(value))]).unwrap();
        rig.assert_same(&rig.rows, &repaired, what);
        assert!(!repaired.rows.contains_key(&row), "{what}");
        let shown = row.escape_ascii().to_string();
        let mut findings = report.lost.iter().chain(&report.repaired);
        assert!(findings.any(|finding| finding.row == shown), "{what}: {report:#?}");
    }
}

/// Rows that nothing calls for.
fn strangers(rig: &Rig) -> Vec<(&'static str, Row, Vec<u8>)> {
    let (space, domain) = (Space::of_scope(&scope()), Space::of_domain(scope().domain()));
    let key = space.key(ORDERS);
    let mut orders = decode_key(&key, &scope(), ORDERS, &rig.rows.rows[&key]).unwrap();
    let index = |key: &crate::KeyRecord, place: usize| space.index_rows(key).remove(place);
    let mut cases = vec![
        ("no such table", [space.start(), vec![0x7f]].concat(), encode_nothing()),
        ("no such space", vec![0x03, 1], encode_nothing()),
        (
            "counts of no keys",
            Space::of_scope(&Scope::new("domain", "none").unwrap()).counts(),
            encode_counts(Default::default()),
        ),
        ("a tombstone", Space::tombstone(&scope(), &RecordId::Key(ORDERS)), encode_tombstone(NOW)),
        ("another name of a key", space.key_alias(&"nobody".parse().unwrap()), encode_key_id(ORDERS)),
    ];
    if !rig.rows.rows.contains_key(&domain.claim("first")) {
        cases.push(("a claim", domain.claim("nobody"), encode_claim(scope().project())));
    }
    orders.tags.insert("other".parse().unwrap(), "tag".parse().unwrap());
    orders.scheduled_deletion_at = Some(NOW);
    cases.extend(
        [2, 3]
            .map(|place| ("an index row of a key", index(&orders, place)))
            .map(|(what, (row, value))| (what, row, value)),
    );
    cases
}

#[test]
fn what_nothing_calls_for_is_left_out() {
    for rig in kinds() {
        for (what, row, value) in strangers(&rig) {
            assert!(!rig.rows.rows.contains_key(&row), "{what}");
            let (repaired, report) =
                rig.repair(&[(row.clone(), Some(seal(&row, Commit::new(3), &value)))]).unwrap();
            rig.assert_same(&rig.rows, &repaired, what);
            assert!(report.lost.is_empty(), "{what}: {report:#?}");
            let shown = row.escape_ascii().to_string();
            assert!(report.repaired.iter().any(|finding| finding.row == shown), "{what}");
        }
    }
}

/// Rows that say something else than those that they follow from.
#[test]
fn what_follows_from_others_is_written_anew() {
    for rig in kinds() {
        let (space, domain) = (Space::of_scope(&scope()), Space::of_domain(scope().domain()));
        let names = |names: &[&str]| {
            encode_alias_names(&names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>())
        };
        let mut cases = vec![
            (space.key_alias(&"orders".parse().unwrap()), encode_key_id(ABSENT)),
            (space.key_alias(&"orders".parse().unwrap()), encode_key_id(KeyId::from_bytes([2; 16]))),
            (space.aliases_of_key(ORDERS), names(&["fourth"])),
            (space.counts(), encode_counts(crate::format::Counts { keys: 1, default_keys: 0 })),
        ];
        let claim = domain.claim("first");
        if let Some(stored) = rig.rows.rows.get(&claim) {
            assert_eq!(decode_claim(&claim, &stored.bytes).unwrap(), *scope().project());
            cases.push((claim, encode_claim(&"two".parse().unwrap())));
        }
        for (row, value) in cases {
            let what = row.escape_ascii().to_string();
            let (repaired, report) =
                rig.repair(&[(row.clone(), Some(seal(&row, Commit::new(3), &value)))]).unwrap();
            rig.assert_same(&rig.rows, &repaired, &what);
            // The other project may have had the alias that is claimed for it.
            let tells_of_a_loss = matches!(read_address(&row), Some(Address::Claim { .. }));
            assert_eq!(report.lost.is_empty(), !tells_of_a_loss, "{what}: {report:#?}");
            assert!(!report.repaired.is_empty(), "{what}: {report:#?}");
        }
    }
}

/// Two keys of one name: nothing tells whose it is.
#[test]
fn nothing_is_guessed() {
    for rig in kinds() {
        let space = Space::of_scope(&scope());
        let row = space.key(KeyId::from_bytes([2; 16]));
        let stored = &rig.rows.rows[&row];
        let mut spare = decode_key(&row, &scope(), KeyId::from_bytes([2; 16]), stored).unwrap();
        spare.key_alias = "orders".parse().unwrap();
        let refused = rig.repair(&[(row.clone(), Some(seal(&row, stored.commit, &encode_key(&spare))))]);
        let Err(Error::Unsound(findings)) = refused else { panic!("{refused:?}") };
        assert!(findings.iter().any(|finding| finding.contains("index")), "{findings:?}");
    }
}

#[test]
fn a_whole_store_is_left_as_it_is_and_nothing_is_overwritten() {
    for rig in kinds() {
        let (repaired, report) = rig.repair(&[]).unwrap();
        rig.assert_same(&rig.rows, &repaired, "nothing");
        assert!(report.repaired.is_empty() && report.complete(), "{report:#?}");
        let refused = repair(rig.path("whole"), rig.path("damaged"));
        assert!(matches!(refused, Err(Error::FileExists(_))));
        let store = Store::open(rig.path("repaired")).unwrap();
        assert_eq!(store.position().unwrap(), report.position);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is damaged, no record comes to be that was not there, and the report is not silent.
    #[test]
    fn nothing_is_made_up(
        in_domain: bool,
        history: bool,
        places in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 1..8),
    ) {
        let rig = Rig::new(if in_domain { AliasScope::Domain } else { AliasScope::Project }, history);
        let fixed = Space::of_store().fixed();
        let mut all: Vec<(Row, Vec<u8>)> =
            rig.rows.rows.keys().filter(|row| **row != fixed).map(|row| (row.clone(), rig.sealed(row))).collect();
        all.extend(rig.rows.log.iter().map(|(commit, entry)| {
            let row = Draft::log_row(*commit);
            let sealed = seal(&row, *commit, entry);
            (row, sealed)
        }));
        let damage: Vec<_> = places.iter().map(|(place, kind)| {
            let (row, sealed) = place.get(&all).clone();
            (row, match kind { 0 => None, 1 => Some(Vec::new()), _ => Some(flipped(sealed)) })
        }).collect();
        let (repaired, report) = rig.repair(&damage).unwrap();
        for (row, stored) in &repaired.rows {
            if let Some(Address::Scoped { table: ScopedTable::Key(_) | ScopedTable::Alias { .. } | ScopedTable::Outcome(_), .. }) = read_address(row) {
                prop_assert_eq!(rig.rows.rows.get(row), Some(stored));
            }
        }
        for (commit, entry) in &repaired.log {
            prop_assert_eq!(rig.rows.log.get(commit), Some(entry));
        }
        let is_damaged = |row: &Row| damage.iter().any(|(damaged, _)| damaged == row);
        for row in rig.rows.rows.keys().filter(|row| !repaired.rows.contains_key(*row)) {
            let names = rows_that_name(&rig, row);
            let can_be_missed = names.is_empty() || names.iter().all(is_damaged);
            prop_assert!(can_be_missed || is_named(&report, row), "{}: {report:#?}", row.escape_ascii());
        }
    }
}

/// Of a key nothing is left, and the history still has a change of the alias that named it.
#[test]
fn an_alias_of_a_lost_key_goes_with_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    let store = Store::open(&path).unwrap();
    fill(&store).unwrap();
    let newest = store.position().unwrap().commit();
    store.trim_history(Commit::new(newest.number() - 1)).unwrap();
    drop(store);
    let rig = Rig { rows: read(&path), folder, history: true };
    assert_eq!(rig.rows.log.keys().collect::<Vec<_>>(), [&newest], "that moved an alias to the key");
    let (space, spare) = (Space::of_scope(&scope()), KeyId::from_bytes([2; 16]));
    let (repaired, report) = rig.repair(&[(space.key(spare), Some(Vec::new()))]).unwrap();
    let lost: Vec<_> = report.lost.iter().map(|finding| finding.row.clone()).collect();
    let name = space.key_alias(&"spare".parse().unwrap());
    let expected = [space.key(spare), name, space.alias("second"), space.aliases_of_key(spare)];
    assert_eq!(lost, expected.map(|row| row.escape_ascii().to_string()));
    let mut left = rig.rows.clone();
    without_key(&mut left, &scope(), spare);
    let floor = Space::of_store().floor();
    left.rows.insert(floor.clone(), repaired.rows[&floor].clone());
    rig.assert_same(&left.trimmed(newest), &repaired, "without the key");
}

/// An entry whose place was damaged, and one of a number that no commit can have: the history is whole without.
#[test]
fn an_entry_at_a_place_of_no_commit_does_not_take_the_history_with_it() {
    let rig = Rig::new(AliasScope::Project, true);
    for number in [1 << 40, 1 << 63, u64::MAX] {
        let row = Draft::log_row(Commit::new(number));
        let (repaired, report) = rig.repair(&[(row, Some(b"not sealed".to_vec()))]).unwrap();
        rig.assert_same(&rig.rows, &repaired, &number.to_string());
        assert_eq!(report.lost.len(), 1, "{report:#?}");
    }
}

/// Whoever chooses texts that are long enough can put pages into the file. What can't be read in a state that they make
/// does not keep the store from being repaired.
#[test]
fn a_newer_state_that_can_not_be_read_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other, repaired] = ["store", "other", "repaired"].map(|name| folder.path().join(name));
    let request = Request::new(&scope()).at(NOW);
    for (path, commits) in [(&path, 1), (&other, 9)] {
        let store = Options::new().history(false).open(path).unwrap();
        store.write(&request, |txn| txn.create_key(&new_key("orders", 1))).unwrap();
        for _ in 0..commits {
            store.write(&request, |txn| txn.disable(ORDERS)).unwrap();
            store.write(&request, |txn| txn.enable(ORDERS)).unwrap();
        }
    }
    let row = Space::of_store().fixed();
    Draft::open(&other).unwrap().damage(&row, Some(&seal(&row, Commit::new(1), b"?")));
    let (mut bytes, others) = (std::fs::read(&path).unwrap(), std::fs::read(&other).unwrap());
    let number = |bytes: &[u8]| usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let page = |number: usize| others[4096 * (1 + number)..][..4096].to_vec();
    let slot = if others[9] & 1 == 0 { 64 } else { 192 };
    let mut tables = page(number(&others[slot + 8..]));
    // The only table: 12 bytes, its name, and at the tenth of its definition the page of its root.
    assert_eq!(&tables[12..20], b"keystead");
    let rows = page(number(&tables[30..]));
    let place = bytes.len() as u64 / 4096 - 1;
    tables[30..38].copy_from_slice(&place.to_le_bytes());
    bytes.extend(rows);
    bytes.extend(tables);
    std::fs::write(&path, &bytes).unwrap();
    let report = repair(&path, &repaired).unwrap();
    assert!(!report.complete(), "{report:#?}");
    let store = Options::new().open_read_only(&repaired).unwrap();
    store.read(&scope(), |snap| snap.key(ORDERS)).unwrap();
}
