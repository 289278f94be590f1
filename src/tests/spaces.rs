//! The numbers of spaces in the redb engine: where rows lie, and what becomes of a damaged number.

use std::ops::Bound;

use crate::engine::embedded::EmbeddedEngine;
use crate::engine::redb::seal;
use crate::engine::{Batch, Engine, Log};
use crate::error::{Error, Result};
use crate::format::{Row, Stored};
use crate::id::Commit;

/// A space of the domain with these digits.
fn space(domain: u8) -> Row {
    [&[1][..], &[domain; 16], &[0]].concat()
}

fn row(domain: u8) -> Row {
    [&space(domain), &b"\x02row"[..]].concat()
}

fn write(engine: &EmbeddedEngine, rows: &[(Row, Option<u8>)]) -> Result<Commit> {
    let batch: Batch = rows.iter().map(|(row, value)| (row.clone(), value.map(|byte| vec![byte]))).collect();
    engine.begin_write()?.commit(&batch, Log::default())
}

/// A store with a row in each of four spaces, which have the numbers 0 to 3, and one in none.
fn engine() -> EmbeddedEngine {
    let engine = EmbeddedEngine::in_memory();
    for domain in [20, 10, 40, 30] {
        write(&engine, &[(row(domain), Some(domain))]).unwrap();
    }
    write(&engine, &[(b"\0\x01".to_vec(), Some(0))]).unwrap();
    engine
}

fn get(engine: &EmbeddedEngine, row: &[u8]) -> Result<Option<Stored>> {
    Ok(engine.begin_read()?.get(&[row])?.remove(0))
}

/// All rows, a few at a time, as a walk reads them; what can't be read as an error.
fn walk(engine: &EmbeddedEngine, at_once: usize) -> Result<Vec<(Row, Option<u8>)>> {
    let read = engine.begin_read()?;
    let mut found: Vec<(Row, Option<u8>)> = Vec::new();
    loop {
        let from = found.last().map_or(Bound::Unbounded, |(row, _)| Bound::Excluded(row.as_slice()));
        let chunk = read.scan((from, Bound::Unbounded), at_once)?;
        if chunk.is_empty() {
            return Ok(found);
        }
        found.extend(chunk.into_iter().map(|(row, stored)| (row, stored.ok().map(|stored| stored.bytes[0]))));
        assert!(found.len() < 20, "it goes in a circle: {found:?}");
    }
}

fn is_corrupted<T: std::fmt::Debug>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Corrupted(_)))
}

#[test]
fn places_are_pinned() {
    let engine = engine();
    let place = |number: u8| [&[2 + number][..], b"\x02row"].concat();
    let number = |domain| [&[0][..], &space(domain)].concat();
    let mut expected = vec![vec![], vec![0], number(10), number(20), number(30), number(40), vec![1, 0, 1]];
    expected.extend((0..4).map(place));
    assert_eq!(engine.places(), expected);
    // A space that is empty keeps its number, and a new one gets the next.
    write(&engine, &[(row(10), None), (row(50), Some(5)), (row(60), None)]).unwrap();
    let log = Log { append: Some(b"entry"), trim: None };
    engine.begin_write().unwrap().commit(&Batch::from([(row(10), Some(vec![1]))]), log).unwrap();
    expected.insert(6, number(50));
    expected.push(place(4));
    expected.push(vec![0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(engine.places(), expected);
}

#[test]
fn a_walk_has_the_order_of_addresses() {
    let engine = engine();
    for at_once in [1, 2, 3, 100] {
        let expected: Vec<_> = [10, 20, 30, 40].map(|domain| (row(domain), Some(domain))).into();
        let expected = [vec![(b"\0\x01".to_vec(), Some(0))], expected].concat();
        assert_eq!(walk(&engine, at_once).unwrap(), expected);
    }
    engine.begin_read().unwrap().audit().unwrap();
}

#[test]
fn a_number_that_can_not_be_read_is_an_error_in_the_place_of_its_space() {
    let place = [&[0][..], &space(20)].concat();
    let bad = [
        vec![],
        seal(b"another", Commit::new(1), &[2]),
        seal(&place, Commit::new(1), &[]),
        seal(&place, Commit::new(1), &[0]),
        seal(&place, Commit::new(1), &[2, 2]),
        seal(&place, Commit::new(1), &[0xff; 9]),
    ];
    for bytes in bad {
        let engine = engine();
        engine.damage_place(&place, Some(&bytes));
        assert!(is_corrupted(&get(&engine, &row(20))));
        assert_eq!(get(&engine, &row(10)).unwrap().unwrap().bytes, [10]);
        for at_once in [1, 2, 3, 100] {
            let found = walk(&engine, at_once).unwrap();
            let domains: Vec<_> = found.iter().map(|(_, value)| *value).collect();
            assert_eq!(domains, [Some(0), Some(10), None, Some(30), Some(40)]);
            assert_eq!(found[2].0, space(20), "it stands for all that is in there");
        }
        let read = engine.begin_read().unwrap();
        let (inside, behind) = (row(20), row(30));
        for to in [Bound::Unbounded, Bound::Included(&inside[..]), Bound::Included(&behind)] {
            assert!(
                is_corrupted(&read.scan((Bound::Included(&inside), to), 9)),
                "to begin inside is impossible"
            );
            assert!(is_corrupted(&read.scan((Bound::Excluded(&inside[..18]), Bound::Included(&inside)), 9)));
        }
        assert!(is_corrupted(&read.audit()));
        // Nothing is written over it, and no number given again.
        assert!(is_corrupted(&write(&engine, &[(row(20), Some(1))])));
    }
}

#[test]
fn rows_under_the_number_of_another_space_are_refused() {
    let engine = engine();
    let place = [&[0][..], &space(20)].concat();
    engine.damage_place(&place, Some(&seal(&place, Commit::new(1), &[3])));
    assert!(is_corrupted(&get(&engine, &row(20))), "the row of another space is there");
    let nowhere = [&space(20), &b"\x02other"[..]].concat();
    assert_eq!(get(&engine, &nowhere).unwrap(), None);
    let found: Vec<_> = walk(&engine, 2).unwrap().into_iter().map(|(_, value)| value).collect();
    assert_eq!(found, [Some(0), Some(10), None, Some(30), Some(40)]);
    assert!(is_corrupted(&engine.begin_read().unwrap().audit()));
}

#[test]
fn what_hides_rows_is_seen_by_an_audit() {
    let number_of_20 = [&[0][..], &space(20)].concat();
    let count = |count: u64| seal(&[0], Commit::new(1), &count.to_be_bytes());
    let changes: [(&[u8], Option<Vec<u8>>); 7] = [
        (&number_of_20, None),
        (&[0], None),
        (&[0], Some(count(3))),
        (&[0], Some(count(5))),
        (&[0], Some(b"not sealed".to_vec())),
        (&[6, b'x'], Some(vec![])),
        (&[0xfe, b'x'], Some(vec![])),
    ];
    for (place, value) in changes {
        let engine = engine();
        engine.begin_read().unwrap().audit().unwrap();
        engine.damage_place(place, value.as_deref());
        let audited = engine.begin_read().unwrap().audit();
        assert!(is_corrupted(&audited), "{place:x?} {value:x?}: {audited:?}");
    }
}

#[test]
fn without_the_count_no_number_is_given() {
    for count in [None, Some(&b"not sealed"[..])] {
        let engine = engine();
        engine.damage_place(&[0], count);
        write(&engine, &[(row(20), Some(1))]).unwrap();
        assert!(is_corrupted(&write(&engine, &[(row(50), Some(1))])));
    }
}

#[test]
fn what_is_no_space_ends_a_walk_that_comes_there() {
    // As it would stand between the rows of a space, none of which it begins.
    for place in [&[0, 1][..], &[0, 9], &[&[0][..], &space(20), &[7]].concat()] {
        let engine = engine();
        engine.damage_place(place, Some(&seal(place, Commit::new(1), &[9])));
        for at_once in [1, 2, 100] {
            let walked = walk(&engine, at_once);
            assert!(is_corrupted(&walked), "{place:x?}: {walked:?}");
        }
        assert_eq!(get(&engine, &row(20)).unwrap().unwrap().bytes, [20]);
    }
}
