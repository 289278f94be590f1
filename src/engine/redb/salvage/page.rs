//! What a page says, and whether it fits its checksum.
//!
//! ```text
//! branch = 02 -  number of keys (2)  -  checksums (16 each)  pages (8 each)  ends of keys (4 each)  keys
//! leaf   = 01 -  number of pairs (2)  ends of keys (4 each)  ends of values (4 each)  keys  values
//! ```
//!
//! The ends are left out where keys or values have a fixed width. A page has `4096 << order` bytes; its checksum covers
//! what is in use of them. Nothing here is believed: whatever the bytes are, they lead to nothing outside of the page.

use std::ops::Range;

use twox_hash::XxHash3_128;

pub(super) const ROOT_BYTES: usize = 32;
pub(super) const CHECKSUM_BYTES: usize = 16;
pub(super) const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// The kind of a table whose keys have one value each.
const ONE_VALUE: u8 = 3;
/// The table that has the store's rows, by its name.
pub(super) const ROWS: &[u8] = b"keystead";

/// A page with its checksum, as its parent has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Named {
    pub(super) page: u64,
    pub(super) checksum: u128,
}

/// The widths of keys and values of a tree, where they are fixed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Widths {
    pub(super) key: Option<usize>,
    pub(super) value: Option<usize>,
}

impl Named {
    /// The root at the beginning of these bytes.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self { page: u64::from_le_bytes(fixed(bytes, 0)), checksum: u128::from_le_bytes(fixed(bytes, 8)) }
    }
}

/// A table: its name, where its tree begins, and the widths in it.
pub(super) type FoundTable = (Vec<u8>, Option<Named>, Widths);

/// A branch page, as it says it.
pub(super) struct Branch<'a> {
    used: &'a [u8],
    pub(super) children: Vec<Named>,
    pub(super) keys: Vec<&'a [u8]>,
}

/// Whether the part of a page that is in use has this checksum.
pub(super) fn fits(page: &[u8], widths: Widths, checksum: u128) -> bool {
    used(page, widths).is_some_and(|used| XxHash3_128::oneshot(used) == checksum)
}

/// The part of a page that is in use; `None` if it is none of a tree.
pub(super) fn used(page: &[u8], widths: Widths) -> Option<&[u8]> {
    match page[0] {
        LEAF => read_leaf(page, widths).and_then(|(_, end)| page.get(..end)),
        BRANCH => Branch::read(page, widths.key).map(|branch| branch.used),
        _ => None,
    }
}

impl<'a> Branch<'a> {
    pub(super) fn read(page: &'a [u8], key_width: Option<usize>) -> Option<Self> {
        let count = usize::from(u16::from_le_bytes(page.get(2..4)?.try_into().ok()?));
        let checksums = 8;
        let pages = checksums + (count + 1) * CHECKSUM_BYTES;
        let ends = pages + (count + 1) * 8;
        let mut at = ends + if key_width.is_none() { 4 * count } else { 0 };
        let mut keys = Vec::with_capacity(count);
        for number in 0..count {
            let end = match key_width {
                Some(width) => at.checked_add(width)?,
                None => end_at(page, ends + 4 * number)?,
            };
            keys.push(page.get(at..end)?);
            at = end;
        }
        let child = |number: usize| {
            let checksum = page.get(checksums + number * CHECKSUM_BYTES..)?.first_chunk()?;
            let page = page.get(pages + number * 8..)?.first_chunk()?;
            Some(Named { page: u64::from_le_bytes(*page), checksum: u128::from_le_bytes(*checksum) })
        };
        let children = (0..=count).map(child).collect::<Option<_>>()?;
        (count > 0).then_some(Self { used: page.get(..at)?, children, keys })
    }
}

/// Where the keys and values of a leaf are, each with its own, and where the last one ends.
type Leaf = (Vec<(Range<usize>, Range<usize>)>, usize);

/// Where the keys and values of a leaf are, and where the last one ends; `None` if that can't be.
pub(super) fn read_leaf(page: &[u8], widths: Widths) -> Option<Leaf> {
    let count = usize::from(u16::from_le_bytes(page.get(2..4)?.try_into().ok()?));
    let key_ends = 4;
    let value_ends = key_ends + if widths.key.is_none() { 4 * count } else { 0 };
    let keys = value_ends + if widths.value.is_none() { 4 * count } else { 0 };
    let ranges = |mut at: usize, ends: usize, width: Option<usize>| {
        let mut ranges = Vec::with_capacity(count);
        for number in 0..count {
            let end = match width {
                Some(width) => at.checked_add(width)?,
                None => end_at(page, ends + 4 * number)?,
            };
            page.get(at..end)?;
            ranges.push(at..end);
            at = end;
        }
        Some((ranges, at))
    };
    let (keys, values_at) = ranges(keys, key_ends, widths.key)?;
    let (values, end) = ranges(values_at, value_ends, widths.value)?;
    (count > 0).then(|| (keys.into_iter().zip(values).collect(), end))
}

/// Where the rows begin, if a page is one of tables, as it says it.
pub(super) fn roots_in(page: &[u8]) -> Vec<(Named, Widths)> {
    let leaf = if page[0] == LEAF { read_leaf(page, Widths::default()) } else { None };
    let pairs = leaf.map(|(pairs, _)| pairs).unwrap_or_default().into_iter();
    let tables = pairs.filter(|(name, _)| page[name.clone()] == *ROWS);
    let tables = tables.filter_map(|(name, value)| read_table(page[name].to_vec(), &page[value]));
    tables.filter_map(|(_, root, widths)| Some((root?, widths))).collect()
}

fn end_at(page: &[u8], at: usize) -> Option<usize> {
    let end = u32::from_le_bytes(*page.get(at..)?.first_chunk()?);
    usize::try_from(end).ok()
}

/// What the tree of tables says of one of them; `None` for a kind that a store has not.
pub(super) fn read_table(name: Vec<u8>, bytes: &[u8]) -> Option<FoundTable> {
    let (kind, has_root) = (*bytes.first()?, *bytes.get(9)?);
    let root = Named::read(bytes.get(10..10 + ROOT_BYTES)?);
    let width = |at: usize| {
        let width = bytes.get(at + 1..)?.first_chunk()?;
        Some((*bytes.get(at)? != 0).then(|| u32::from_le_bytes(*width) as usize))
    };
    let widths = Widths { key: width(42)?, value: width(47)? };
    (kind == ONE_VALUE).then_some((name, (has_root != 0).then_some(root), widths))
}

/// So many bytes at a place, of bytes that are surely long enough.
pub(super) fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}
