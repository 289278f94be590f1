//! What the redb engine puts around each value: checksum and commit.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::engine::redb::{seal, unseal};
use crate::error::Error;
use crate::format::COMMIT_MAX;
use crate::id::Commit;

/// These bytes behind the checksum that they should have.
fn with_checksum(row: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(row.len() as u64).to_be_bytes());
    hasher.update(row);
    hasher.update(rest);
    [&hasher.finalize().to_be_bytes()[..], rest].concat()
}

fn refused(row: &[u8], sealed: &[u8], why: &str) {
    match unseal(row, sealed) {
        Err(Error::Corrupted(what)) => assert!(what.contains(why), "{what}"),
        other => panic!("{sealed:02x?}: {other:?}"),
    }
}

#[test]
fn sealed_bytes_are_pinned() {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&seal(b"row", Commit::new(5), b"value")), "5711c3c50576616c7565");
    assert_eq!(hex(&seal(b"row", Commit::new(300), b"")), "d4b58ccaac02");
    assert_eq!(hex(&seal(b"", Commit::new(u64::MAX), b"")), "d170cb7cffffffffffffffffff01");
}

#[test]
fn every_flipped_bit_is_refused() {
    for commit in [0, 1, 127, 128, 300, 1 << 40, u64::MAX] {
        let sealed = seal(b"row", Commit::new(commit), b"the value");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(b"row", &flipped, "the checksum is wrong");
        }
    }
}

#[test]
fn another_address_is_refused() {
    let sealed = seal(b"row", Commit::new(5), b"value");
    for row in [&b""[..], b"ro", b"rox", b"row\0", b"\0row"] {
        refused(row, &sealed, "the checksum is wrong");
    }
    // Bytes can't wander between the address and the value.
    let moved = [&sealed[..4], b"w", &sealed[4..]].concat();
    refused(b"ro", &moved, "the checksum is wrong");
}

#[test]
fn what_is_short_is_refused() {
    let sealed = seal(b"row", Commit::new(300), b"value");
    for length in 0..4 {
        refused(b"row", &sealed[..length], "the value is too short");
    }
    for length in 4..sealed.len() {
        refused(b"row", &sealed[..length], "the checksum is wrong");
    }
    refused(b"row", &with_checksum(b"row", &[]), "the commit is malformed");
    refused(b"row", &with_checksum(b"row", &[0x80, 0x80]), "the commit is malformed");
}

#[test]
fn a_commit_has_one_form() {
    let with_commit = |digits: &[u8]| with_checksum(b"row", digits);
    let nine = [0xff; 9];
    let last = [&nine[..8], &[0x7f]].concat();
    assert_eq!(unseal(b"row", &with_commit(&last)).unwrap().commit, COMMIT_MAX);
    refused(b"row", &with_commit(&[&nine[..], &[1]].concat()), "the commit is too large");
    refused(b"row", &with_commit(&[&nine[..], &[2]].concat()), "the commit is too large");
    refused(b"row", &with_commit(&[&nine[..], &[0x7f]].concat()), "the commit is too large");
    refused(b"row", &with_commit(&[&nine[..], &[0x81, 0]].concat()), "the commit is malformed");
    refused(b"row", &with_commit(&[0x80, 0]), "the commit is longer than needed");
    refused(b"row", &with_commit(&[0xff, 0x80, 0]), "the commit is longer than needed");
    refused(b"row", &with_commit(&[&nine[..], &[0]].concat()), "the commit is longer than needed");
    assert_eq!(unseal(b"row", &with_commit(&[0])).unwrap().commit, Commit::new(0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sealed_values_come_back(row in vec(any::<u8>(), 0..40), commit in 0..=COMMIT_MAX.number(), bytes in vec(any::<u8>(), 0..300)) {
        let sealed = seal(&row, Commit::new(commit), &bytes);
        let stored = unseal(&row, &sealed).unwrap();
        prop_assert_eq!((stored.bytes, stored.commit), (bytes.as_slice(), Commit::new(commit)));
    }

    #[test]
    fn arbitrary_bytes_come_back_as_they_are_or_not_at_all(row in vec(any::<u8>(), 0..9), rest in vec(any::<u8>(), 0..20)) {
        let sealed = with_checksum(&row, &rest);
        if let Ok(stored) = unseal(&row, &sealed) {
            prop_assert_eq!(seal(&row, stored.commit, stored.bytes), sealed);
        }
        prop_assert!(unseal(&row, &rest).is_err() || with_checksum(&row, &rest[4..]) == rest);
    }
}
