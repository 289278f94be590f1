//! The redo log: what an older use of its place left is never taken for damage.

use super::redo::{LOG_BYTES_MIN, LogId, MARK_BYTES, Recovered, RedoLog, encode_commit, mark, segment_bytes};
use crate::error::Result;
use crate::id::Commit;
use crate::tests::disk::{Disk, LOG};

const ID: LogId = [7; 16];

fn commit(number: u64, value: &[u8]) -> Vec<u8> {
    let rows = [(&b"ab"[..], Some(value))];
    encode_commit(Commit::new(number), rows.into_iter(), segment_bytes(LOG_BYTES_MIN)).unwrap()
}

fn open(disk: &Disk, durable: u64) -> Result<(RedoLog, Recovered)> {
    RedoLog::open(Box::new(disk.file(LOG)), Commit::new(durable), false)
}

/// Frames of an older use of the segment lie behind the newest: with what looks like their beginnings
/// inside, at each sector.
fn log_with_old_text(text: [u8; MARK_BYTES]) -> Disk {
    let disk = Disk::default();
    RedoLog::create(&disk.file(LOG), ID, LOG_BYTES_MIN).unwrap();
    let (log, _) = open(&disk, 0).unwrap();
    // The head of a frame, of a commit, and of its row come to a multiple of four.
    let full = text.repeat(64 * 1024 / MARK_BYTES);
    for (sequence, frames) in [(0, [&b"small"[..], &full]), (1, [b"other", b"other"])] {
        for (frame, value) in (0..).zip(frames) {
            log.append(sequence, &commit(1 + 2 * sequence + frame, value)).unwrap();
        }
    }
    log.append(2, &commit(5, b"small")).unwrap();
    disk
}

#[test]
fn no_text_of_an_older_use_keeps_a_log_from_being_opened() {
    for text in [*b"ksf1", mark(&ID)] {
        let (_, recovered) = open(&log_with_old_text(text), 4).unwrap();
        assert_eq!((recovered.frames.len(), recovered.newest), (1, Some(Commit::new(5))));
    }
}

#[test]
fn each_log_has_a_mark_of_its_own_that_is_not_zeros() {
    let marks: std::collections::BTreeSet<_> = (0..=255).map(|byte| mark(&[byte; 16])).collect();
    assert_eq!(marks.len(), 256);
    assert!(!marks.contains(&[0; MARK_BYTES]));
}
