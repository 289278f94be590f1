//! [`Load`]: many commits that an engine writes at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use crate::id::Commit;

/// Commits in their order, each with its rows and its entry in the log, to be written all together.
///
/// Rows lie behind one another in one piece of memory, because there may be millions.
#[derive(Debug)]
pub(crate) struct Load {
    /// The commit before the first.
    base: Commit,
    /// Addresses and values.
    bytes: Vec<u8>,
    /// In the order in which they came.
    rows: Vec<Placed>,
    /// The newest row at each address, by the address's hash.
    places: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    seed: u64,
    /// Of each commit that was ended.
    entries: Vec<Option<Vec<u8>>>,
}

/// A row of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadedRow<'a> {
    pub(crate) row: &'a [u8],
    /// `None` for a row to be deleted.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) commit: Commit,
}

#[derive(Debug)]
struct Placed {
    start: usize,
    row_length: u32,
    value_length: Option<u32>,
    /// Its commit, counted from the first.
    commit: u32,
    /// Another address with the same hash.
    same_hash: Option<u32>,
    /// Whether a later commit of the load writes the same address.
    replaced: bool,
}

/// Hashes are not hashed again.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        // The keys of the only map with this hasher are of the type `u64`, which calls `write_u64`.
        unreachable!("only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A batch of an import has at most 2 GiB, of which each row, or a few together, count 256 bytes.
const TOO_MANY: &str = "a load is ended long before it has so many rows";

/// How much of an address is compared at once.
const PIECE: usize = 8;
/// So few rows are compared whole.
const FEW: usize = 16;

impl Load {
    /// Nothing yet; the first commit will be the one after this.
    pub(crate) fn after(base: Commit) -> Self {
        // At random, so that nobody can choose names that collide.
        Self::with(RandomState::new().hash_one(base), base)
    }

    /// Nothing yet; to be written after this load.
    pub(crate) fn after_load(load: &Self) -> Self {
        Self::with(load.seed, load.last_commit())
    }

    fn with(seed: u64, base: Commit) -> Self {
        Self {
            base,
            bytes: Vec::new(),
            rows: Vec::new(),
            places: HashMap::default(),
            seed,
            entries: Vec::new(),
        }
    }

    /// Makes room for so many rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.rows.reserve(rows);
        self.places.reserve(rows);
    }

    /// The commit upon which the first is to be made.
    pub(crate) fn base(&self) -> Commit {
        self.base
    }

    /// The last commit; the base if there is none.
    pub(crate) fn last_commit(&self) -> Commit {
        Commit::new(self.base.number() + self.entries.len() as u64)
    }

    /// Whether it has no commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The commit to which rows are added now.
    pub(crate) fn open_commit(&self) -> Commit {
        Commit::new(self.last_commit().number() + 1)
    }

    /// Ends the open commit, with its entry in the log if it has one.
    pub(crate) fn end_commit(&mut self, entry: Option<Vec<u8>>) {
        self.entries.push(entry);
    }

    /// Adds a row to the open commit, or replaces one that it has already.
    pub(crate) fn put(&mut self, row: &[u8], value: Option<&[u8]>) {
        let hash = hash(self.seed, row);
        let commit = u32::try_from(self.entries.len()).expect(TOO_MANY);
        let former = self.find(hash, row);
        if let (Some(former), Some(value)) = (former, value) {
            let placed = &self.rows[former as usize];
            if placed.commit == commit && placed.value_length == u32::try_from(value.len()).ok() {
                let start = placed.start + placed.row_length as usize;
                self.bytes[start..start + value.len()].copy_from_slice(value);
                return;
            }
        }
        let index = u32::try_from(self.rows.len()).expect(TOO_MANY);
        let mut placed = Placed {
            start: self.bytes.len(),
            row_length: u32::try_from(row.len()).expect("an address is short"),
            value_length: value.map(|value| u32::try_from(value.len()).expect("a value is short")),
            commit,
            same_hash: None,
            replaced: false,
        };
        self.bytes.extend_from_slice(row);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        // A row that is replaced stays in its place among those of the same hash: it is passed over.
        if let Some(former) = former {
            self.rows[former as usize].replaced = true;
        }
        placed.same_hash = self.places.insert(hash, index);
        self.rows.push(placed);
    }

    fn find(&self, hash: u64, row: &[u8]) -> Option<u32> {
        let mut place = self.places.get(&hash).copied();
        while let Some(index) = place {
            if self.row(index).row == row {
                return Some(index);
            }
            place = self.rows[index as usize].same_hash;
        }
        None
    }

    fn row(&self, index: u32) -> LoadedRow<'_> {
        let placed = &self.rows[index as usize];
        let value = placed.start + placed.row_length as usize;
        LoadedRow {
            row: &self.bytes[placed.start..value],
            value: placed.value_length.map(|length| &self.bytes[value..value + length as usize]),
            commit: Commit::new(self.base.number() + 1 + u64::from(placed.commit)),
        }
    }

    /// The row at an address as the last commit leaves it, if any commit writes it; else as the load before
    /// this one, [`after`](Self::after_load) which it is, leaves it.
    pub(crate) fn get<'a>(&'a self, before: Option<&'a Self>, row: &[u8]) -> Option<LoadedRow<'a>> {
        let hash = hash(self.seed, row);
        [Some(self), before]
            .into_iter()
            .flatten()
            .find_map(|load| load.find(hash, row).map(|index| load.row(index)))
    }

    /// The rows as the last commit leaves them, in the order of their addresses.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = LoadedRow<'_>> {
        let all = 0..u32::try_from(self.rows.len()).expect(TOO_MANY);
        let mut order: Vec<u32> = all.filter(|index| !self.rows[*index as usize].replaced).collect();
        self.sort(&mut order, 0);
        order.into_iter().map(|index| self.row(index))
    }

    /// The addresses of all rows, some more than once.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.iter().map(|placed| &self.bytes[placed.start..placed.start + placed.row_length as usize])
    }

    /// The entries of the log.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Commit, &[u8])> {
        let numbered = (self.base.number() + 1..).zip(&self.entries);
        numbered.filter_map(|(number, entry)| Some((Commit::new(number), entry.as_deref()?)))
    }

    /// Sorts rows that are alike in their first bytes. Addresses begin alike and lie apart in memory, so
    /// they are sorted by the few bytes behind that, and again where these are equal too.
    fn sort(&self, order: &mut [u32], alike: usize) {
        let shortest = order.iter().map(|index| self.rows[*index as usize].row_length as usize).min();
        let shortest = shortest.unwrap_or_default();
        if order.len() <= FEW || shortest < alike {
            order.sort_unstable_by_key(|index| self.row(*index).row);
            return;
        }
        let first = self.row(order[0]).row;
        let alike = order.iter().fold(shortest, |alike, index| {
            let row = self.row(*index).row;
            if row[..alike] == first[..alike] { alike } else { common(&row[..alike], &first[..alike]) }
        });
        let piece = |index: u32| {
            let rest = &self.row(index).row[alike..];
            let mut piece = [0; PIECE];
            let length = rest.len().min(PIECE);
            piece[..length].copy_from_slice(&rest[..length]);
            u64::from_be_bytes(piece)
        };
        let mut keyed: Vec<(u64, u32)> = order.iter().map(|index| (piece(*index), *index)).collect();
        keyed.sort_unstable();
        for (place, (_, index)) in order.iter_mut().zip(&keyed) {
            *place = *index;
        }
        let mut rest = order;
        for equal in keyed.chunk_by(|one, other| one.0 == other.0) {
            let (run, behind) = rest.split_at_mut(equal.len());
            if run.len() > 1 {
                self.sort(run, alike + PIECE);
            }
            rest = behind;
        }
    }
}

/// Multiplies eight bytes at a time into the seed: several times faster than the hash of the standard
/// library, and there are ten for each key.
fn hash(seed: u64, row: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let factor = FACTOR ^ seed.rotate_left(32);
    let fold = |hash: u64, piece: u64| {
        let hash = hash ^ piece;
        let high = (u128::from(hash) * u128::from(factor)) >> 64;
        hash.wrapping_mul(factor) ^ high as u64
    };
    let (pieces, rest) = row.as_chunks::<PIECE>();
    let mut last = [0; PIECE];
    last[..rest.len()].copy_from_slice(rest);
    let hash = pieces.iter().fold(seed, |hash, piece| fold(hash, u64::from_le_bytes(*piece)));
    fold(fold(hash, u64::from_le_bytes(last)), row.len() as u64)
}

/// How many bytes two texts begin with alike.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
