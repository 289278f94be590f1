//! Where rows lie in the table. The space that an address begins with, 34 bytes as a rule and the same for
//! all rows of a scope, is a short number there.
//!
//! ```text
//! (nothing)       the newest commit
//! 00              how many spaces have a number
//! 00 space        the space's number
//! 01 address      a row whose address begins with no whole space
//! number rest     a row of a space: what is behind the space in its address
//! ff commit (8)   an entry of the log
//!
//! number = (02 to bf)                  0 to 189
//!        | (c0 to df) (1 byte)         190 and up
//!        | (e0 to ef) (2 bytes)        8,382 and up
//!        | (f0 to f7) (3 bytes)        1,056,958 and up
//!        | f8 (8 bytes)                135,274,686 and up
//! ```
//!
//! A number is given by the commit that writes the first row of the space, in turn, and is never given
//! again: the row that says so stays when the space is empty. So whoever knows the number of a space knows
//! it for good. Within a space rows have the order of their addresses, from space to space that of the
//! numbers. Each row's checksum is taken over its whole address: with a wrong number nothing is found, or
//! it is refused.

use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use foldhash::quality::RandomState;
use redb::TableDefinition;

use crate::error::Result;
use crate::format::{Row, corrupted, split_space};
use crate::id::Commit;

/// The one table of the file.
pub(super) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("keystead");

/// The place of the row that holds the newest commit.
pub(super) const NEWEST: &[u8] = &[];

/// The place of the row that says how many spaces have a number; with a space behind it, of that space's
/// number.
pub(super) const NUMBERS: u8 = 0x00;

/// Where rows lie that are in no space.
const UNNUMBERED: u8 = 0x01;

/// What the places of the log begin with.
pub(super) const LOG: u8 = 0xff;

/// The forms of a number: its first byte is one of so many from this on, and so many follow. Each goes on
/// counting where the one before it ends.
const FORMS: [(u8, u8, usize); 5] =
    [(0x02, 190, 0), (0xc0, 32, 1), (0xe0, 16, 2), (0xf0, 8, 3), (0xf8, 1, 8)];

const NUMBER_LENGTH_MAX: usize = 9;

/// Addresses that are shorter are put together without asking for memory.
const SHORT: usize = 96;

/// How many numbers are kept in memory: of a thousand scopes that are used much, most have a slot of their
/// own. Half a mebibyte when all are full.
#[cfg(not(test))]
const SLOTS: usize = 1 << 12;
/// Tests open a store thousands of times, and spaces shall take each other's slots.
#[cfg(test)]
const SLOTS: usize = 1 << 6;

/// What a place in the table begins with: the number of a space, or what there is instead of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    bytes: [u8; NUMBER_LENGTH_MAX],
    length: u8,
}

/// What an address begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    /// It is the engine's own, and is its own place.
    Engine,
    Space(&'a [u8]),
    NoSpace,
}

/// The numbers that were met, in memory. All of them are durable, so they hold for good.
pub(super) struct KnownNumbers {
    /// A slot is made when it is used first: to drop one takes a tenth of a microsecond, and most stores use few.
    slots: Box<[OnceLock<ArcSwapOption<Known>>]>,
    keys: RandomState,
}

struct Known {
    space: Box<[u8]>,
    number: Start,
}

impl<'a> Beginning<'a> {
    /// The beginning of an address and what is behind it.
    pub(super) fn split(row: &'a [u8]) -> (Self, &'a [u8]) {
        if row.is_empty() || row[0] == LOG {
            return (Self::Engine, row);
        }
        split_space(row).map_or((Self::NoSpace, row), |(space, rest)| (Self::Space(space), rest))
    }
}

impl Start {
    /// Of what is its own place.
    pub(super) const ENGINE: Self = Self { bytes: [0; NUMBER_LENGTH_MAX], length: 0 };

    /// Of rows that are in no space.
    pub(super) const NO_SPACE: Self = Self { bytes: [UNNUMBERED, 0, 0, 0, 0, 0, 0, 0, 0], length: 1 };

    /// Of the rows of the space with this number.
    pub(super) fn of_number(number: u64) -> Self {
        let mut left = number;
        for (first, count, more) in FORMS {
            let many = capacity(count, more);
            if many.is_none_or(|many| left < many) {
                let digits = left.to_be_bytes();
                let (high, low) = digits.split_at(digits.len() - more);
                let mut bytes = [0; NUMBER_LENGTH_MAX];
                // Below the count: the other bytes of the high part are 0.
                bytes[0] = first + high.last().copied().unwrap_or_default();
                bytes[1..=more].copy_from_slice(low);
                let length = u8::try_from(1 + more).expect("a number has at most nine bytes");
                return Self { bytes, length };
            }
            left -= many.unwrap_or_default();
        }
        unreachable!("the last form has all that are left")
    }

    /// The number that a place begins with, as it stands there and as what it counts.
    pub(super) fn number_in(place: &[u8]) -> Option<(Self, u64)> {
        let mut before = 0_u64;
        for (first, count, more) in FORMS {
            let high = place.first()?.checked_sub(first)?;
            if high >= count {
                before += capacity(count, more)?;
                continue;
            }
            let low = place.get(1..=more)?;
            let left = low.iter().fold(u64::from(high), |left, byte| left << 8 | u64::from(*byte));
            let number = before.checked_add(left)?;
            return Some((Self::of_number(number), number));
        }
        None
    }

    /// The place of what begins so.
    pub(super) fn with<T>(&self, rest: &[u8], run: impl FnOnce(&[u8]) -> T) -> T {
        let length = self.len() + rest.len();
        if length > SHORT {
            return run(&[self, rest].concat());
        }
        let mut place = [0; SHORT];
        place[..self.len()].copy_from_slice(self);
        place[self.len()..length].copy_from_slice(rest);
        run(&place[..length])
    }
}

impl Deref for Start {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// How many numbers a form has; `None` if it has all that are left.
fn capacity(count: u8, more: usize) -> Option<u64> {
    (more < size_of::<u64>()).then(|| u64::from(count) << (8 * more))
}

/// The place of a space's number.
pub(super) fn place_of_number(space: &[u8]) -> Row {
    [&[NUMBERS], space].concat()
}

/// The address and the place of a commit's entry in the log.
pub(crate) fn log_row(commit: Commit) -> Row {
    [&[LOG][..], &commit.number().to_be_bytes()].concat()
}

/// Reads a space's number, as its row says it.
pub(super) fn read_number(place: &[u8], bytes: &[u8]) -> Result<(Start, u64)> {
    let number = Start::number_in(bytes).filter(|(start, _)| **start == *bytes);
    number.ok_or_else(|| corrupted(place, "the number of the space is malformed"))
}

/// Reads how many spaces have a number, as the row says it.
pub(super) fn read_count(bytes: &[u8]) -> Result<u64> {
    let count = bytes.try_into().map(u64::from_be_bytes);
    count.map_err(|_| corrupted(&[NUMBERS], "how many spaces have a number is malformed"))
}

impl KnownNumbers {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| OnceLock::new()).collect(), keys: RandomState::default() }
    }

    pub(super) fn get(&self, space: &[u8]) -> Option<Start> {
        let known = self.slot(space).get()?.load();
        known.as_ref().filter(|known| *known.space == *space).map(|known| known.number)
    }

    /// Keeps a number that was found in a commit which is durable.
    pub(super) fn keep(&self, space: &[u8], number: Start) {
        let slot = self.slot(space).get_or_init(ArcSwapOption::empty);
        slot.store(Some(Arc::new(Known { space: space.into(), number })));
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.slots.iter().filter_map(OnceLock::get).for_each(|slot| slot.store(None));
    }

    fn slot(&self, space: &[u8]) -> &OnceLock<ArcSwapOption<Known>> {
        let hash = self.keys.hash_one(space);
        let place = hash % SLOTS as u64;
        &self.slots[usize::try_from(place).expect("it is less than the number of slots")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pinned_at_the_ends_of_each_form() {
        let cases: [(u64, &[u8]); 11] = [
            (0, &[0x02]),
            (189, &[0xbf]),
            (190, &[0xc0, 0]),
            (8_381, &[0xdf, 0xff]),
            (8_382, &[0xe0, 0, 0]),
            (1_056_957, &[0xef, 0xff, 0xff]),
            (1_056_958, &[0xf0, 0, 0, 0]),
            (135_274_685, &[0xf7, 0xff, 0xff, 0xff]),
            (135_274_686, &[0xf8, 0, 0, 0, 0, 0, 0, 0, 0]),
            (135_274_687, &[0xf8, 0, 0, 0, 0, 0, 0, 0, 1]),
            (u64::MAX, &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xf7, 0xef, 0xdf, 0x41]),
        ];
        for (number, bytes) in cases {
            assert_eq!(&*Start::of_number(number), bytes, "{number}");
            let behind = [bytes, b"rest"].concat();
            let (start, found) = Start::number_in(&behind).unwrap();
            assert_eq!((&*start, found), (bytes, number));
        }
    }

    #[test]
    fn numbers_have_one_form_each_in_their_order_and_none_begins_another() {
        let mut before = Start::of_number(0);
        for number in (1..20_000).chain(1_056_000..1_058_000).chain(135_274_000..135_275_000) {
            let start = Start::of_number(number);
            assert!(*before < *start && !start.starts_with(&before), "{number}");
            assert_eq!(Start::number_in(&start), Some((start, number)));
            before = start;
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let too_large = &[&[0xf8][..], &[0xff; 8]].concat()[..];
        let none = [&[][..], &[0], &[1, 2], &[0xc0], &[0xe0, 1], &[0xf8, 1, 2, 3], &[0xf9; 9], &[0xff; 9]];
        for bytes in none.into_iter().chain([too_large]) {
            assert_eq!(Start::number_in(bytes), None, "{bytes:x?}");
            assert!(read_number(b"place", bytes).is_err(), "{bytes:x?}");
        }
        assert!(read_number(b"place", &[2, 0]).is_err());
        assert_eq!(read_number(b"place", &[2]).unwrap().1, 0);
        for bytes in [&[][..], &[0; 7], &[0; 9]] {
            assert!(read_count(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_kept_is_found_until_another_takes_its_slot() {
        let known = KnownNumbers::new();
        let spaces: Vec<_> = (0..3 * SLOTS as u64).map(|number| (number, number.to_be_bytes())).collect();
        let mut found = 0;
        for (number, space) in &spaces {
            assert_eq!(known.get(space), None);
            known.keep(space, Start::of_number(*number));
            assert_eq!(known.get(space), Some(Start::of_number(*number)));
        }
        for (number, space) in &spaces {
            if let Some(start) = known.get(space) {
                assert_eq!(start, Start::of_number(*number));
                found += 1;
            }
        }
        assert!(found > SLOTS / 2 && found <= SLOTS, "{found}");
    }

    #[test]
    fn places_are_short_or_long() {
        for length in [0, 1, SHORT - 3, SHORT - 2, SHORT - 1, SHORT, 1024] {
            let rest = vec![7; length];
            let place = Start::of_number(200).with(&rest, <[u8]>::to_vec);
            assert_eq!(place, [&[0xc0, 10][..], &rest].concat());
        }
    }
}
