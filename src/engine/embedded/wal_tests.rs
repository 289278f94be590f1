//! The write-ahead log: what an older use of its place left is never taken for damage, and damage never for a crash.

use super::wal::{LogId, MAGIC_BYTES, Recovered, RedoLog, Segment, encode_commit, magic};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::tests::disk::{Disk, Fails, LOG};

const ID: LogId = [7; 16];
const SECTOR: usize = 512;
/// Where the segments begin.
const SEGMENTS: usize = 8192;
/// Of a short log, which holds a few frames.
const LENGTH: u64 = 16 * 1024;

fn commit(number: u64, value: &[u8]) -> Vec<u8> {
    let rows = [(&b"ab"[..], Some(value))];
    encode_commit(Commit::new(number), rows.into_iter()).unwrap()
}

fn segment(log: &RedoLog, sequence: u64) -> Segment {
    Segment { sequence, length: log.segment_bytes() }
}

fn open(disk: &Disk, durable: u64) -> Result<(RedoLog, Recovered)> {
    RedoLog::open(Box::new(disk.file(LOG)), Commit::new(durable), false)
}

/// Frames of an older use of the segment lie behind the newest: with what looks like their beginnings
/// inside, at each sector.
fn log_with_old_text(text: [u8; MAGIC_BYTES]) -> Disk {
    let disk = Disk::default();
    RedoLog::create(&disk.file(LOG), ID, 256 * 1024).unwrap();
    let (log, _) = open(&disk, 0).unwrap();
    // The head of a frame, of a commit, and of its row come to a multiple of four.
    let full = text.repeat(64 * 1024 / MAGIC_BYTES);
    for (sequence, frames) in [(0, [&b"small"[..], &full]), (1, [b"other", b"other"])] {
        for (frame, value) in (0..).zip(frames) {
            log.append(segment(&log, sequence), &commit(1 + 2 * sequence + frame, value)).unwrap();
        }
    }
    log.append(segment(&log, 2), &commit(5, b"small")).unwrap();
    disk
}

#[test]
fn no_text_of_an_older_use_keeps_a_log_from_being_opened() {
    for text in [*b"ksf1", magic(&ID)] {
        let (_, recovered) = open(&log_with_old_text(text), 4).unwrap();
        assert_eq!((recovered.frames.len(), recovered.newest), (1, Some(Commit::new(5))));
    }
}

#[test]
fn each_log_has_a_magic_of_its_own_that_is_not_zeros() {
    let magics: std::collections::BTreeSet<_> = (0..=255).map(|byte| magic(&[byte; 16])).collect();
    assert_eq!(magics.len(), 256);
    assert!(!magics.contains(&[0; MAGIC_BYTES]));
}

/// A log with these commits, each in a frame of one sector, all in one segment.
fn log_with(commits: &[(u64, &[u8])]) -> Disk {
    let disk = Disk::default();
    RedoLog::create(&disk.file(LOG), ID, LENGTH).unwrap();
    let (log, _) = open(&disk, 0).unwrap();
    for (number, value) in commits {
        log.append(segment(&log, 0), &commit(*number, value)).unwrap();
    }
    disk
}

fn is_damaged(opened: Result<(RedoLog, Recovered)>) -> bool {
    matches!(opened, Err(Error::Corrupted(_)))
}

/// Each frame alone is whole, and follows upon the one before by its number; but the first is of another history.
#[test]
fn a_frame_that_goes_on_from_another_is_damage() {
    let [[table, mut log], [_, other]] =
        [b"this", b"that"].map(|first| log_with(&[(1, first), (2, b"next")]).bytes());
    let first = SEGMENTS..SEGMENTS + SECTOR;
    assert_ne!(log[first.clone()], other[first.clone()]);
    assert_eq!(open(&Disk::of([table.clone(), log.clone()]), 0).unwrap().1.frames.len(), 2);
    log[first.clone()].copy_from_slice(&other[first]);
    assert!(is_damaged(open(&Disk::of([table, log]), 0)));
}

#[test]
fn a_commit_that_is_missing_is_damage() {
    for commits in [&[1, 3][..], &[2], &[2, 3], &[1, 2, 2]] {
        let commits: Vec<_> = commits.iter().map(|number| (*number, &b"value"[..])).collect();
        assert!(is_damaged(open(&log_with(&commits), 0)), "{commits:?}");
    }
}

/// Nothing is counted on from the end of all numbers.
#[test]
fn numbers_that_leave_no_room_to_count_on_are_damage() {
    let max = u64::MAX >> 1;
    for (sequence, number, sound) in
        [(0, 1, true), (max, 1, true), (max + 1, 1, false), (0, max, true), (0, max + 1, false)]
    {
        let disk = log_with(&[]);
        let (log, _) = open(&disk, 0).unwrap();
        log.append(segment(&log, sequence), &commit(number, b"value")).unwrap();
        let opened = open(&disk, number - 1);
        assert_eq!(opened.is_ok(), sound, "segment {sequence}, commit {number}: {:?}", opened.err());
        assert!(sound || is_damaged(opened));
    }
    // No commit follows upon the last number of all.
    let disk = log_with(&[(u64::MAX, b"value")]);
    assert!(is_damaged(open(&disk, u64::MAX - 1)));
}

/// A crash while a log is made leaves none, or all of it: never one that looks damaged.
#[test]
fn a_log_is_made_to_its_end_or_is_none() {
    let former = log_with(&[(1, b"former")]).bytes();
    let make = |disk: &Disk| RedoLog::create(&disk.file(LOG), [8; 16], LENGTH);
    for base in [Disk::default().bytes(), former.clone()] {
        let mut from = 0;
        loop {
            from += 1;
            let disk = Disk::of(base.clone());
            disk.fail(Some(Fails { from, ever_after: true }));
            if make(&disk).is_ok() {
                break;
            }
            for [table, log] in disk.survivors(from) {
                if log.first().is_none_or(|first| *first == 0) || log == former[LOG] {
                    continue;
                }
                let opened = open(&Disk::of([table, log]), 0);
                let (log, recovered) = opened.unwrap_or_else(|error| panic!("call {from}: {error:?}"));
                assert_eq!((log.id(), recovered.frames.len()), ([8; 16], 0), "call {from}");
            }
        }
        assert!(from > 6, "{from}");
    }
}

/// A log that grew, at any time of the use of its segments: what is in them is found, and goes on. Each is full, so none
/// may lie where another does.
#[test]
fn a_log_that_grew_is_read_from_where_its_segments_are() {
    for (begun, grown_at) in [(0_u64, 0_u64), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 3)] {
        let disk = log_with(&[]);
        let (log, _) = open(&disk, 0).unwrap();
        let mut at = segment(&log, begun);
        let (mut number, mut durable) = (0, 0);
        let half = vec![b'v'; usize::try_from(LENGTH).unwrap() / 2 - 100];
        for sequence in begun..begun + 5 {
            assert_eq!(at.sequence, sequence);
            if sequence == grown_at {
                log.grow().unwrap();
            }
            let before = number;
            loop {
                number += 1;
                if log.append(at, &commit(number, &half)).unwrap().offset == at.length {
                    break;
                }
            }
            // The table has what is in all but the last two.
            let (again, recovered) = open(&Disk::of(disk.bytes()), durable).unwrap();
            assert_eq!(recovered.newest, Some(Commit::new(number)), "{begun}, {grown_at}, {sequence}");
            assert_eq!(recovered.frames.len() as u64, number - durable);
            assert_eq!(again.end().segment, log.next(at), "{begun}, {grown_at}, {sequence}");
            (at, durable) = (log.next(at), before);
        }
        assert_eq!(at.length, 2 * LENGTH);
    }
}

/// A crash while a log grows leaves it as it was, or larger; its frames stay.
#[test]
fn a_crash_while_a_log_grows_takes_nothing() {
    let base = log_with(&[(1, b"first"), (2, b"second")]).bytes();
    let (mut larger, mut from) = (0, 0);
    loop {
        from += 1;
        let disk = Disk::of(base.clone());
        let (log, _) = open(&disk, 0).unwrap();
        disk.fail(Some(Fails { from, ever_after: true }));
        let is_done = log.grow().is_ok();
        for [table, log] in disk.survivors(from) {
            let opened = open(&Disk::of([table, log]), 0);
            let (log, recovered) = opened.unwrap_or_else(|error| panic!("call {from}: {error:?}"));
            assert_eq!(recovered.frames.len(), 2, "call {from}");
            larger += u64::from(log.segment_bytes() == 2 * LENGTH);
        }
        if is_done {
            break;
        }
    }
    assert!(from > 3 && larger > 0, "{from}, {larger}");
}
