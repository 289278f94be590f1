//! One page of a tree: whether it is well-formed, whether it fits its checksum, and what it names.
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

use super::header::{Layout, Named, PageNumber, u32_at, u64_at, u128_at};
use super::{Reference, Tree};

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Where the checksums of a branch begin.
const CHECKSUMS: usize = 8;
/// Where the ends of a leaf begin.
const ENDS: usize = 4;

/// The type of a table without several values for one key: no store has another.
const TABLE: u8 = 3;
/// The tables in which redb keeps lists of freed pages.
const FREED: [&[u8]; 2] = [b"data_pages_unreachable", b"system_pages_unreachable"];

/// A page whose content lies where it says.
pub(in crate::engine::redb) struct Node<'a> {
    page: &'a [u8],
    tree: Tree,
    is_leaf: bool,
    /// Entries of a leaf, keys of a branch.
    count: usize,
    /// Where the content ends.
    end: usize,
}

/// A table, as its definition says it.
pub(in crate::engine::redb) struct Table {
    pub(in crate::engine::redb) root: Option<Named>,
    pub(in crate::engine::redb) tree: Tree,
    rows: u64,
}

impl<'a> Node<'a> {
    /// Reads a page.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::engine::redb) fn read(page: &'a [u8], tree: Tree) -> Result<Self, &'static str> {
        let is_leaf = match page.first() {
            Some(&LEAF) => true,
            Some(&BRANCH) => false,
            _ => return Err("it is no page of a tree"),
        };
        let count = page.get(2..4).map_or(0, |count| usize::from(u16::from_le_bytes([count[0], count[1]])));
        let node = Self { page, tree, is_leaf, count, end: 0 };
        let end = node.well_formed_end().ok_or("what it says of its own content is impossible")?;
        Ok(Self { end, ..node })
    }

    /// The checksum of a page that was read before: if it is the one of then, the page is as well-formed as then.
    pub(super) fn checksum_again(page: &[u8], tree: Tree) -> Option<u128> {
        let is_leaf = *page.first()? == LEAF;
        let count = usize::from(u16::from_le_bytes([*page.get(2)?, *page.get(3)?]));
        let node = Node { page, tree, is_leaf, count, end: 0 };
        let last = count.checked_sub(1)?;
        let end = if is_leaf { node.value_end(last)? } else { node.key_end(last)? };
        Some(XxHash3_128::oneshot(page.get(..end)?))
    }

    pub(in crate::engine::redb) fn checksum(&self) -> u128 {
        XxHash3_128::oneshot(&self.page[..self.end])
    }

    /// How many bytes the content has, which are those that its checksum covers.
    pub(in crate::engine::redb) fn length(&self) -> usize {
        self.end
    }

    pub(in crate::engine::redb) fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    pub(super) fn entries(&self) -> usize {
        if self.is_leaf { self.count } else { 0 }
    }

    /// The key of an entry, or the one behind a child of a branch.
    pub(in crate::engine::redb) fn key(&self, n: usize) -> Option<&'a [u8]> {
        self.page.get(self.key_range(n)?)
    }

    fn value(&self, n: usize) -> Option<&'a [u8]> {
        self.page.get(self.value_range(n)?)
    }

    /// The entries of a leaf.
    pub(in crate::engine::redb) fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        (0..self.entries()).filter_map(|n| Some((self.key(n)?, self.value(n)?)))
    }

    /// The tables that a leaf of definitions names.
    pub(in crate::engine::redb) fn tables(&self) -> impl Iterator<Item = (&'a [u8], Table)> {
        self.pairs().filter_map(|(name, definition)| Some((name, Table::read(name, definition)?)))
    }

    /// What a branch says of its children.
    pub(in crate::engine::redb) fn named(&self) -> impl Iterator<Item = Named> {
        let children = if self.is_leaf { 0 } else { self.count + 1 };
        (0..children).filter_map(|n| self.child(n))
    }

    /// The pages that it names: the children of a branch, the roots of tables in a leaf of definitions.
    pub(super) fn children(&self, layout: Layout) -> impl Iterator<Item = Reference> + '_ {
        let roots = if self.tree == Tree::Definitions { self.entries() } else { 0 };
        let children = self.named().filter_map(move |named| named.place(self.tree, layout));
        children.chain((0..roots).filter_map(move |n| self.root(n, layout)?))
    }

    fn child(&self, n: usize) -> Option<Named> {
        let number = PageNumber(u64_at(self.page, CHECKSUMS + 16 * (self.count + 1) + 8 * n)?);
        Some(Named { number, checksum: u128_at(self.page, CHECKSUMS + 16 * n)? })
    }

    /// The root of the table that an entry defines; `None` inside if it is empty, and outside if that can't be.
    fn root(&self, n: usize, layout: Layout) -> Option<Option<Reference>> {
        let definition = self.value(n)?;
        let table = Table::read(self.key(n)?, definition)?;
        if u32_at(definition, 60)? as usize > definition.get(64..)?.len() {
            return None;
        }
        let Some(root) = table.root else { return Some(None) };
        Some(Some(Reference { rows: Some(table.rows), ..root.place(table.tree, layout)? }))
    }

    /// Whether all that it names can be: redb asks for the memory of a page before it looks whether there is one.
    pub(super) fn names_only_pages(&self, layout: Layout) -> bool {
        self.check_references(layout).is_some()
    }

    fn check_references(&self, layout: Layout) -> Option<()> {
        if !self.is_leaf {
            return (0..=self.count).try_for_each(|n| layout.place(self.child(n)?.number).map(drop));
        }
        match self.tree {
            Tree::Definitions => (0..self.count).try_for_each(|n| self.root(n, layout).map(drop)),
            Tree::Table { freed: true, .. } => (0..self.count).try_for_each(|n| self.check_freed(n, layout)),
            Tree::Table { .. } => Some(()),
        }
    }

    /// A list of freed pages: how many, and their numbers.
    fn check_freed(&self, n: usize, layout: Layout) -> Option<()> {
        let list = self.value(n)?;
        let count = usize::from(u16::from_le_bytes(list.get(..2)?.try_into().ok()?));
        (0..count).try_for_each(|n| {
            let number = PageNumber(u64_at(list, 2 + 8 * n)?);
            layout.place(number).map(drop)
        })
    }

    /// Where its content ends, if all its ends lie in it, in order.
    fn well_formed_end(&self) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let mut end = self.keys_start();
        for n in 0..self.count {
            let range = self.key_range(n)?;
            (range.start == end && range.end >= end).then_some(())?;
            end = range.end;
        }
        if self.is_leaf {
            for n in 0..self.count {
                let range = self.value_range(n)?;
                (range.start == end && range.end >= end).then_some(())?;
                end = range.end;
            }
        }
        (end <= self.page.len()).then_some(end)
    }

    fn widths(&self) -> (Option<usize>, Option<usize>) {
        match self.tree {
            Tree::Definitions => (None, None),
            Tree::Table { key, value, .. } => {
                let width = |width: Option<u32>| width.map(|width| width as usize);
                (width(key), width(value))
            }
        }
    }

    fn key_ends(&self) -> usize {
        if self.is_leaf { ENDS } else { CHECKSUMS + 24 * (self.count + 1) }
    }

    fn keys_start(&self) -> usize {
        let (key, value) = self.widths();
        let of_keys = if key.is_none() { 4 * self.count } else { 0 };
        let of_values = if self.is_leaf && value.is_none() { 4 * self.count } else { 0 };
        self.key_ends() + of_keys + of_values
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.widths().0 {
            Some(width) => self.keys_start().checked_add(width.checked_mul(n + 1)?),
            None => Some(u32_at(self.page, self.key_ends() + 4 * n)? as usize),
        }
    }

    fn key_range(&self, n: usize) -> Option<Range<usize>> {
        let start = if n == 0 { self.keys_start() } else { self.key_end(n - 1)? };
        (n < self.count).then_some(start..self.key_end(n)?)
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        let (key, value) = self.widths();
        match value {
            Some(width) => self.key_end(self.count - 1)?.checked_add(width.checked_mul(n + 1)?),
            None => {
                let of_keys = if key.is_none() { 4 * self.count } else { 0 };
                Some(u32_at(self.page, ENDS + of_keys + 4 * n)? as usize)
            }
        }
    }

    fn value_range(&self, n: usize) -> Option<Range<usize>> {
        let start = if n == 0 { self.key_end(self.count - 1)? } else { self.value_end(n - 1)? };
        (n < self.count && self.is_leaf).then_some(start..self.value_end(n)?)
    }
}

impl Table {
    /// Reads a definition: type, rows, root, two widths, two alignments, the names of two types.
    fn read(name: &[u8], definition: &[u8]) -> Option<Self> {
        let is_set = |at: usize| definition.get(at).is_some_and(|flag| *flag != 0);
        let width = |at: usize| Some(is_set(at).then_some(u32_at(definition, at + 1)?));
        let tree = Tree::Table { key: width(42)?, value: width(47)?, freed: FREED.contains(&name) };
        let root = Named::read(definition, 10).filter(|_| is_set(9));
        let table = Self { root, tree, rows: u64_at(definition, 1)? };
        (*definition.first()? == TABLE).then_some(table)
    }
}

/// Writes a page that redb refuses with an error, wherever it meets it: a branch whose children can't be.
/// Bytes that are no page at all would make it panic, and an error of the file itself would end all reading.
pub(super) fn write_impossible(page: &mut [u8], tree: Tree) {
    page.fill(0);
    page[0] = BRANCH;
    page[2] = 1;
    let numbers = CHECKSUMS + 2 * 16;
    for n in 0..2 {
        page[numbers + 8 * n..][..8].copy_from_slice(&PageNumber::IMPOSSIBLE.0.to_le_bytes());
    }
    let key_end = numbers + 2 * 8;
    if !matches!(tree, Tree::Table { key: Some(_), .. }) {
        // An empty key, which begins behind its own end.
        page[key_end] = u8::try_from(key_end + 4).unwrap_or(u8::MAX);
    }
}
