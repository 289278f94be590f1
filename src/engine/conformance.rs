//! What every engine must do: one suite, run on each of them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::embedded::EmbeddedEngine;
use super::embedded::wal::RedoLog;
use super::redb::{Pages, TableFile, builder};
use super::scripted::{Random, Scripted};
use super::{Batch, Engine, Log, Range, ReadTransaction, Reading, RowHash};
use crate::error::Error;
use crate::format::{Row, Stored, after_all};
use crate::id::Commit;
use crate::tests::disk::{Disk, LOG, TABLE};
use changelog::logged;

mod changelog;

/// Runs the suite. `make` gives a fresh, empty engine at each call.
pub(crate) fn suite(make: impl Fn() -> Box<dyn Engine>) {
    let checks: [fn(&dyn Engine); 19] = [
        an_empty_engine_has_no_rows,
        a_commit_is_seen_by_later_reads_only,
        rows_carry_the_commit_that_changed_them,
        several_rows_come_in_the_order_asked_for,
        a_batch_is_written_whole,
        a_dropped_transaction_leaves_nothing,
        scans_keep_order_bounds_and_limit,
        ranges_that_hold_nothing_are_empty,
        the_empty_address_never_shows,
        a_writer_waits_for_the_one_before,
        a_writer_that_met_another_is_refused,
        changes_of_many_threads_all_count,
        reads_go_on_during_a_write,
        changelog::the_log_keeps_the_order_of_commits,
        changelog::the_log_is_trimmed_from_its_beginning,
        changelog::a_load_is_as_its_commits_one_by_one,
        changelog::a_load_is_made_out_upon_the_newest_commit,
        changelog::waiting_ends_with_a_commit_or_the_time_or_for_good,
        spaces_that_are_empty_again_hold_nothing,
    ];
    for check in checks {
        check(&*make());
    }
    for seed in 0..6 {
        it_is_as_a_map(&*make(), seed);
    }
}

#[test]
fn redb_in_memory() {
    suite(|| Box::new(EmbeddedEngine::in_memory()));
}

#[test]
fn redb_in_a_file() {
    suite(|| {
        Box::new(
            EmbeddedEngine::create_table(tempfile::tempfile().unwrap(), Pages::believed(1 << 20)).unwrap(),
        )
    });
}

/// The rows are found in the active memtable, in the frozen one, or in the table file.
#[test]
fn redb_with_a_log() {
    for checkpoint_bytes in [1, 300, 5000, usize::MAX] {
        suite(|| {
            let disk = Disk::default();
            drop(TableFile::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap());
            RedoLog::create(&disk.file(LOG), [7; 16], 2 << 20).unwrap();
            let table = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
            Box::new(EmbeddedEngine::on(table, Box::new(disk.file(LOG)), checkpoint_bytes).unwrap())
        });
    }
}

#[test]
fn the_engine_of_scripts_lets_everything_pass() {
    suite(|| Box::new(Scripted::new(EmbeddedEngine::in_memory())));
}

#[cfg(feature = "etcd")]
#[test]
fn etcd_on_three_members() {
    use std::cell::Cell;

    use super::etcd::{Access, Etcd, EtcdEngine};
    use crate::tests::cluster::Cluster;

    let (cluster, made) = (Cluster::start(), Cell::new(0));
    for cache_bytes in [0, 1 << 20] {
        suite(|| {
            made.set(made.get() + 1);
            let settings = Etcd::new(cluster.endpoints()).prefix(format!("store-{}", made.get()));
            Box::new(EtcdEngine::open(&settings, cache_bytes, Access::Begin).unwrap())
        });
    }
}

type Change<'a> = (&'a [u8], Option<&'a [u8]>);
type Entry = (Row, Vec<u8>, Commit);

fn write(engine: &dyn Engine, changes: &[Change<'_>]) -> Commit {
    let batch: Batch = changes.iter().map(|(row, value)| (row.to_vec(), value.map(<[u8]>::to_vec))).collect();
    let transaction = engine.begin_write().unwrap();
    let read = transaction.commit_read();
    let commit = transaction.commit(&batch, Log::default()).unwrap();
    assert!(commit > read, "commits grow");
    assert!(commit.number() == read.number() + 1 || !engine.knows_next_commit());
    assert!(engine.begin_read().unwrap().commit() >= commit, "a commit is durable when it returns");
    commit
}

fn row(row: &[u8], value: &[u8], commit: Commit) -> Entry {
    (row.to_vec(), value.to_vec(), commit)
}

fn scan(read: &dyn ReadTransaction, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Vec<Entry> {
    let rows = read.scan((from, to), limit).unwrap().into_iter();
    rows.map(|(row, stored)| {
        let Stored { bytes, commit } = stored.unwrap();
        (row, bytes, commit)
    })
    .collect()
}

fn rows(read: &dyn ReadTransaction) -> Vec<Entry> {
    scan(read, Bound::Unbounded, Bound::Unbounded, usize::MAX)
}

fn an_empty_engine_has_no_rows(engine: &dyn Engine) {
    let read = engine.begin_read().unwrap();
    assert!(read.commit() == Commit::new(0) || !engine.knows_next_commit());
    assert_eq!(rows(&*read), []);
    assert_eq!(read.get(&[]).unwrap(), []);
    assert_eq!(read.get(&[b"a", b"b"]).unwrap(), [None, None]);
}

fn a_commit_is_seen_by_later_reads_only(engine: &dyn Engine) {
    let empty = engine.begin_read().unwrap();
    let first = write(engine, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    let one = engine.begin_read().unwrap();
    let second = write(engine, &[(b"a", Some(b"2")), (b"b", None), (b"c", Some(b"2"))]);
    let two = engine.begin_read().unwrap();
    assert_eq!(rows(&*empty), []);
    assert_eq!(rows(&*one), [row(b"a", b"1", first), row(b"b", b"1", first)]);
    assert_eq!(rows(&*two), [row(b"a", b"2", second), row(b"c", b"2", second)]);
    assert_eq!(empty.get(&[b"a"]).unwrap(), [None]);
    assert_eq!(one.get(&[b"b"]).unwrap(), [Some(Stored { bytes: b"1".to_vec(), commit: first })]);
    assert_eq!(two.get(&[b"b"]).unwrap(), [None]);
    assert!(
        empty.commit() < first && first <= one.commit() && one.commit() < second && second <= two.commit()
    );
    if engine.knows_next_commit() {
        assert_eq!(
            (empty.commit(), one.commit(), two.commit()),
            (Commit::new(0), first, second),
            "without gaps"
        );
    }
    let transaction = engine.begin_write().unwrap();
    assert!(transaction.commit_read() >= second);
    assert_eq!(transaction.get(&[b"b", b"c"]).unwrap(), two.get(&[b"b", b"c"]).unwrap());
}

fn rows_carry_the_commit_that_changed_them(engine: &dyn Engine) {
    let first = write(engine, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    let second = write(engine, &[(b"b", Some(b"1"))]);
    let third = write(engine, &[(b"c", Some(b""))]);
    assert!(first < second && second < third);
    let read = engine.begin_read().unwrap();
    assert_eq!(rows(&*read), [row(b"a", b"1", first), row(b"b", b"1", second), row(b"c", b"", third)]);
    // Deleted and made again, a row is of the later commit.
    write(engine, &[(b"a", None)]);
    let again = write(engine, &[(b"a", Some(b"1"))]);
    assert_eq!(rows(&*engine.begin_read().unwrap())[0], row(b"a", b"1", again));
}

fn several_rows_come_in_the_order_asked_for(engine: &dyn Engine) {
    let commit = write(engine, &[(b"a", Some(b"1")), (b"ab", Some(b"2")), (b"b", Some(b"3"))]);
    let stored = |bytes: &[u8]| Some(Stored { bytes: bytes.to_vec(), commit });
    let asked: [&[u8]; 6] = [b"b", b"a", b"none", b"ab", b"a", b"abc"];
    let expected = [stored(b"3"), stored(b"1"), None, stored(b"2"), stored(b"1"), None];
    assert_eq!(engine.begin_read().unwrap().get(&asked).unwrap(), expected);
    assert_eq!(engine.begin_write().unwrap().get(&asked).unwrap(), expected);
}

fn a_batch_is_written_whole(engine: &dyn Engine) {
    let long = vec![7; 64 * 1024];
    let addresses: Vec<Row> =
        (0..200_u8).map(|n| [vec![1, n], vec![n; usize::from(n) * 5]].concat()).collect();
    let changes: Vec<Change<'_>> = addresses.iter().map(|row| (&row[..], Some(&long[..5000]))).collect();
    let first = write(engine, &changes);
    assert_eq!(rows(&*engine.begin_read().unwrap()).len(), 200);
    let mut changes: Vec<Change<'_>> = addresses.iter().map(|row| (&row[..], None)).collect();
    // What is not there can be deleted too.
    changes.extend([(&b"none"[..], None), (b"\x01\x00long", Some(&long[..]))]);
    let second = write(engine, &changes);
    assert!(second > first);
    assert_eq!(rows(&*engine.begin_read().unwrap()), [row(b"\x01\x00long", &long, second)]);
}

fn a_dropped_transaction_leaves_nothing(engine: &dyn Engine) {
    let commit = write(engine, &[(b"a", Some(b"1"))]);
    let transaction = engine.begin_write().unwrap();
    transaction.get(&[b"a"]).unwrap();
    drop(transaction);
    assert_eq!(rows(&*engine.begin_read().unwrap()), [row(b"a", b"1", commit)]);
    let next = write(engine, &[(b"b", Some(b"2"))]);
    let expected = [row(b"a", b"1", commit), row(b"b", b"2", next)];
    assert_eq!(rows(&*engine.begin_read().unwrap()), expected);
}

fn scans_keep_order_bounds_and_limit(engine: &dyn Engine) {
    let addresses: [&[u8]; 6] = [b"\x00", b"a", b"a\x00", b"a\xff", b"b", b"\xfe\xff"];
    let changes = [5, 2, 0, 4, 1, 3].map(|n: usize| (addresses[n], Some(addresses[n])));
    let commit = write(engine, &changes);
    let read = engine.begin_read().unwrap();
    let expect = |from, to, limit, expected: std::ops::Range<usize>| {
        let expected: Vec<_> = addresses[expected].iter().map(|a| row(a, a, commit)).collect();
        assert_eq!(scan(&*read, from, to, limit), expected, "{from:?} {to:?} {limit}");
    };
    use Bound::{Excluded, Included, Unbounded};
    expect(Unbounded, Unbounded, usize::MAX, 0..6);
    expect(Unbounded, Unbounded, 2, 0..2);
    expect(Unbounded, Unbounded, 0, 0..0);
    expect(Included(b"a"), Unbounded, 100, 1..6);
    expect(Excluded(b"a"), Unbounded, 100, 2..6);
    expect(Unbounded, Included(b"b"), 100, 0..5);
    expect(Unbounded, Excluded(b"b"), 100, 0..4);
    expect(Included(b"a"), Excluded(b"a\xff"), 100, 1..3);
    expect(Excluded(b"a\x00"), Included(b"b"), 100, 3..5);
    expect(Included(b"a\x01"), Excluded(b"\xfe"), 100, 3..5);
    expect(Included(b"a"), Included(b"a"), 100, 1..2);
    expect(Included(b""), Unbounded, 100, 0..6);
    expect(Excluded(b""), Unbounded, 1, 0..1);
}

fn ranges_that_hold_nothing_are_empty(engine: &dyn Engine) {
    write(engine, &[(b"a", Some(b"1")), (b"b", Some(b"2"))]);
    let read = engine.begin_read().unwrap();
    use Bound::{Excluded, Included, Unbounded};
    let ranges: [Range<'_>; 9] = [
        (Excluded(b"a"), Excluded(b"b")),
        (Excluded(b"a"), Excluded(b"a")),
        (Included(b"a"), Excluded(b"a")),
        (Excluded(b"a"), Included(b"a")),
        (Included(b"b"), Included(b"a")),
        (Excluded(b"b"), Excluded(b"a")),
        (Excluded(b"b"), Unbounded),
        (Unbounded, Excluded(b"a")),
        (Included(b"c"), Included(b"d")),
    ];
    for (from, to) in ranges {
        assert_eq!(scan(&*read, from, to, 10), [], "{from:?} {to:?}");
    }
}

fn the_empty_address_never_shows(engine: &dyn Engine) {
    let commit = write(engine, &[(b"a", Some(b"1"))]);
    let read = engine.begin_read().unwrap();
    use Bound::{Excluded, Included, Unbounded};
    for from in [Unbounded, Included(&b""[..]), Excluded(b"")] {
        assert_eq!(scan(&*read, from, Unbounded, 1), [row(b"a", b"1", commit)]);
        for to in [Included(&b""[..]), Excluded(b"")] {
            assert_eq!(scan(&*read, from, to, 10), [], "{from:?} {to:?}");
        }
    }
}

/// On engines with one writer at a time.
fn a_writer_waits_for_the_one_before(engine: &dyn Engine) {
    if !engine.knows_next_commit() {
        return;
    }
    let patience = Duration::from_secs(20);
    let (begins, begun) = mpsc::channel();
    let (has, had) = mpsc::channel();
    thread::scope(|threads| {
        let first = engine.begin_write().unwrap();
        threads.spawn(move || {
            begins.send(()).unwrap();
            let second = engine.begin_write().unwrap();
            has.send(second.commit_read()).unwrap();
            second.commit(&Batch::from([(b"b".to_vec(), Some(b"2".to_vec()))]), Log::default()).unwrap();
        });
        begun.recv_timeout(patience).unwrap();
        assert!(had.try_recv().is_err(), "the second came in before the first ended");
        let commit =
            first.commit(&Batch::from([(b"a".to_vec(), Some(b"1".to_vec()))]), Log::default()).unwrap();
        assert_eq!(had.recv_timeout(patience).unwrap(), commit, "the second builds on the first");
    });
    assert_eq!(rows(&*engine.begin_read().unwrap()).len(), 2);
}

/// On engines with many: who read what has changed since can't commit, nor end as if that were still so.
fn a_writer_that_met_another_is_refused(engine: &dyn Engine) {
    if engine.knows_next_commit() {
        return;
    }
    let put = |row: &[u8]| Batch::from([(row.to_vec(), Some(b"2".to_vec()))]);
    write(engine, &[(b"a", Some(b"1"))]);
    let met: [(&[u8], Option<&[u8]>); 4] =
        [(b"a", Some(b"3")), (b"a", Some(b"3")), (b"gone", None), (b"came", Some(b"3"))];
    for (row, value) in met {
        let meets = || {
            if value.is_none() {
                write(engine, &[(row, Some(b"1"))]);
            }
            let (writes, ends) = (engine.begin_write().unwrap(), engine.begin_write().unwrap());
            writes.get(&[row, b"other"]).unwrap();
            ends.get(&[row]).unwrap();
            write(engine, &[(row, value)]);
            let refused = writes.commit(&put(b"b"), Log { append: Some(b"entry"), trim: None });
            assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
            matches!(ends.end(), Err(Error::Conflict))
        };
        // One that asked what is the newest when it began may end: so it was then. On a busy machine it does.
        assert!((0..20).any(|_| meets()), "{row:?}");
    }
    let read = engine.begin_read().unwrap();
    assert_eq!(read.get(&[b"b"]).unwrap(), [None]);
    assert_eq!(logged(&*read, Commit::default(), 10), []);
    // Who read something else can.
    let first = engine.begin_write().unwrap();
    first.get(&[b"other"]).unwrap();
    write(engine, &[(b"a", Some(b"4"))]);
    first.commit(&put(b"b"), Log::default()).unwrap();
}

fn changes_of_many_threads_all_count(engine: &dyn Engine) {
    let increment = || {
        let transaction = engine.begin_write()?;
        let found = transaction.get(&[b"counter"])?.remove(0);
        let count = found.map_or(0, |stored| stored.bytes[0]);
        transaction.commit(&Batch::from([(b"counter".to_vec(), Some(vec![count + 1]))]), Log::default())
    };
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..10 {
                    while let Err(error) = increment() {
                        assert!(matches!(error, Error::Conflict), "{error}");
                    }
                }
            });
        }
    });
    let read = engine.begin_read().unwrap();
    let counter = read.get(&[b"counter"]).unwrap().pop().flatten().unwrap();
    assert_eq!(counter.bytes, [40]);
    assert!(counter.commit == Commit::new(40) || !engine.knows_next_commit());
}

fn reads_go_on_during_a_write(engine: &dyn Engine) {
    let first = write(engine, &[(b"a", Some(b"1"))]);
    let open = engine.begin_write().unwrap();
    // On the same thread: a read that waited for the writer would wait for ever.
    assert_eq!(rows(&*engine.begin_read().unwrap()), [row(b"a", b"1", first)]);
    drop(open);
    let (stops, stopped) = mpsc::channel::<()>();
    thread::scope(|threads| {
        threads.spawn(move || {
            for n in 0..30_u8 {
                write(engine, &[(b"a", Some(&[n])), (b"b", Some(&[n]))]);
            }
            drop(stops);
        });
        let mut last = first;
        while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            let read = engine.begin_read().unwrap();
            assert!(read.commit() >= last, "what was seen stays seen");
            last = read.commit();
            let both = read.get(&[b"a", b"b"]).unwrap();
            assert!(last == first || both[0] == both[1], "a commit is seen whole: {both:?}");
        }
    });
}

/// Random batches and scans, compared with a map; old snapshots with what the map was then.
fn it_is_as_a_map(engine: &dyn Engine, seed: u64) {
    type Map = BTreeMap<Row, (Vec<u8>, Commit)>;
    let mut random = Random::new(seed);
    let mut map = Map::new();
    let mut kept: Vec<(Reading, Map)> = Vec::new();
    for _ in 0..60 {
        let mut batch = Batch::new();
        for _ in 0..random.below(12) {
            let value = (random.below(3) > 0)
                .then(|| vec![u8::try_from(random.below(256)).unwrap(); random.index(40)]);
            batch.insert(some_row(&mut random), value);
        }
        let commit = engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
        for (row, value) in batch {
            match value {
                Some(bytes) => map.insert(row, (bytes, commit)),
                None => map.remove(&row),
            };
        }
        kept.push((engine.begin_read().unwrap(), map.clone()));
        let (read, map) = &kept[random.index(kept.len())];
        let (from, to) = (some_bound(&mut random), some_bound(&mut random));
        let limit = random.index(30);
        let within = |row: &Row| {
            (match &from {
                Bound::Included(from) => row >= from,
                Bound::Excluded(from) => row > from,
                Bound::Unbounded => true,
            }) && (match &to {
                Bound::Included(to) => row <= to,
                Bound::Excluded(to) => row < to,
                Bound::Unbounded => true,
            })
        };
        let expected = map.iter().filter(|(row, _)| within(row)).take(limit);
        let expected: Vec<_> =
            expected.map(|(row, (bytes, commit))| (row.clone(), bytes.clone(), *commit)).collect();
        let found = scan(&**read, from.as_ref().map(|row| &row[..]), to.as_ref().map(|row| &row[..]), limit);
        assert_eq!(found, expected, "seed {seed}, {from:?} {to:?} {limit}");
        let one = some_row(&mut random);
        let expected = map.get(&one).map(|(bytes, commit)| Stored { bytes: bytes.clone(), commit: *commit });
        assert_eq!(read.get(&[&one]).unwrap(), [expected], "seed {seed}");
        for (other, then) in &kept {
            if read.unchanged_since(RowHash::of(&one), other.commit()) {
                assert_eq!(map.get(&one), then.get(&one), "seed {seed}: it did change");
            }
        }
    }
    engine.begin_read().unwrap().audit().unwrap();
}

/// An address of a few bytes, which is in no space, or one in some space.
fn some_row(random: &mut Random) -> Row {
    if random.below(3) > 0 {
        return some_row_in_a_space(random);
    }
    let length = 1 + random.index(3);
    // No address begins with ff.
    let byte = |n| if n == 0 { [0, 1, b'a', 0xfe] } else { [0, 1, b'a', 0xff] };
    (0..length).map(|n| byte(n)[random.index(4)]).collect()
}

/// In the space of a scope or a domain, whose ids are digits or text; sometimes cut off in the middle.
fn some_row_in_a_space(random: &mut Random) -> Row {
    let [low, high] = [0, 0xff].map(|digit| [&[1][..], &[digit; 16]].concat());
    let ids = [low, high, b"\x02\x01\0".to_vec(), b"\x02a\0".to_vec(), b"\x02ab\0".to_vec()];
    let mut row = ids[random.index(ids.len())].clone();
    match random.index(ids.len() + 1) {
        project if project < ids.len() => row.extend(&ids[project]),
        _ => row.push(0),
    }
    let behind = [&b""[..], b"\0", b"\x10", b"\x10\0", b"\x10a", b"\x11", b"\xff", b"\xff\xff"];
    row.extend(behind[random.index(behind.len())]);
    if random.below(8) == 0 {
        row.truncate(1 + random.index(row.len()));
    }
    row
}

fn some_bound(random: &mut Random) -> Bound<Row> {
    let row = some_row(random);
    match random.below(6) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(row),
        3 => Bound::Excluded(after_all(row)),
        _ => Bound::Excluded(row),
    }
}

/// The spaces that others had before are passed over when their rows are gone.
fn spaces_that_are_empty_again_hold_nothing(engine: &dyn Engine) {
    let row_in = |domain: u8, rest: &[u8]| [&[1][..], &[domain; 16], &[0], rest].concat();
    let put = |domain: u8, value: Option<&[u8]>| write(engine, &[(&row_in(domain, b"\x02a"), value)]);
    for domain in 0..100 {
        put(domain, Some(b"1"));
    }
    for domain in (0..100).filter(|domain| *domain != 50) {
        put(domain, None);
    }
    let read = engine.begin_read().unwrap();
    let found = rows(&*read);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, row_in(50, b"\x02a"));
    let after = after_all(row_in(50, b""));
    assert_eq!(scan(&*read, Bound::Included(&after), Bound::Unbounded, 10), []);
    let commit = put(7, Some(b"2"));
    let read = engine.begin_read().unwrap();
    let expected = [row(&row_in(7, b"\x02a"), b"2", commit), found[0].clone()];
    assert_eq!(rows(&*read), expected);
    read.audit().unwrap();
}
