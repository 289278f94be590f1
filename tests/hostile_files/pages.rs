//! [`Pages`]: where a redb file refers to its pages, as redb's design document draws it, and how its checksums are
//! mended after a change, so that a hostile file fits as well as a sound one.

use std::collections::BTreeSet;

use twox_hash::XxHash3_128;

pub(crate) const PAGE: usize = 4096;
/// Where the two commit slots begin, and what of each the checksum behind it covers.
const SLOTS: [usize; 2] = [64, 192];
const SLOT_COVERED: usize = 112;
/// The roots of the tables and of the system's tables in a slot: where it says that there is one, and where it is.
const ROOTS: [(usize, usize); 2] = [(1, 8), (2, 40)];
const NUMBER: usize = 8;
const CHECKSUM: usize = 16;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// What a page number stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A commit slot of the header.
    Slot,
    /// The definition of a table.
    Definition,
    /// A branch page.
    Branch,
    /// A list of pages that are to be freed.
    List,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reference {
    /// Where the page number lies in the file.
    pub(crate) at: usize,
    pub(crate) holder: Holder,
    /// The page that has it; none for the header.
    from: Option<usize>,
    /// The page that it is the number of, if that is known.
    to: Option<usize>,
}

/// The fixed lengths of keys and values in a tree.
type Widths = (Option<usize>, Option<usize>);

#[derive(Debug, Clone, Copy)]
struct Node {
    start: usize,
    length: usize,
    widths: Widths,
    /// Trees of table definitions, of the user's tables and of the system's.
    tree: Tree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Definitions { system: bool },
    Rows { system: bool },
}

/// All pages that the header leads to, and whose checksums fit.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) references: Vec<Reference>,
    nodes: Vec<Node>,
    /// Of the tree of rows, from its root to a leaf.
    pub(crate) depth: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + NUMBER)?.try_into().ok()?))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    XxHash3_128::oneshot(bytes).to_le_bytes()
}

/// Where a page of the first region lies, and how long it is.
fn place(number: u64) -> Option<(usize, usize)> {
    let order = u32::try_from(number >> 59).ok()?;
    let (index, region) = (number & (0xf_ffff >> order), (number >> 20) & 0xf_ffff);
    let length = PAGE << order;
    (region == 0).then(|| Some((PAGE + usize::try_from(index).ok()? * length, length)))?
}

/// The keys and values of a leaf page.
fn entries(
    page: &[u8],
    (key_width, value_width): Widths,
) -> Option<Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>> {
    let count = u16_at(page, 2)?;
    let ends = |width: Option<usize>| if width.is_some() { 0 } else { 4 * count };
    let keys = 4 + ends(key_width) + ends(value_width);
    let key_end = |item: usize| {
        key_width.map_or_else(|| u32_at(page, 4 + 4 * item), |width| Some(keys + width * (item + 1)))
    };
    let values = count.checked_sub(1).map_or(Some(keys), key_end)?;
    let value_end = |item: usize| {
        value_width.map_or_else(
            || u32_at(page, 4 + ends(key_width) + 4 * item),
            |width| Some(values + width * (item + 1)),
        )
    };
    let (mut key, mut value, mut entries) = (keys, values, Vec::new());
    for item in 0..count {
        let (next_key, next_value) = (key_end(item)?, value_end(item)?);
        if key > next_key || value > next_value || next_key > page.len() || next_value > page.len() {
            return None;
        }
        entries.push((key..next_key, value..next_value));
        (key, value) = (next_key, next_value);
    }
    Some(entries)
}

/// How much of a page its checksum covers.
fn covered(page: &[u8], widths: Widths) -> Option<usize> {
    let count = u16_at(page, 2)?;
    let end = match *page.first()? {
        LEAF => entries(page, widths)?.last()?.1.end,
        BRANCH => {
            let numbers = 8 + (CHECKSUM + NUMBER) * (count + 1);
            widths.0.map_or_else(
                || u32_at(page, numbers + 4 * count.checked_sub(1)?),
                |width| Some(numbers + width * count),
            )?
        }
        _ => return None,
    };
    (end <= page.len()).then_some(end)
}

/// The first key of a page of rows, or that behind its first child: it tells which part of the tree a page is.
pub(crate) fn first_key(page: &[u8]) -> Option<&[u8]> {
    if *page.first()? == LEAF {
        return Some(&page[entries(page, (None, None))?.first()?.0.clone()]);
    }
    let children = u16_at(page, 2)? + 1;
    let ends = 8 + (CHECKSUM + NUMBER) * children;
    let keys = ends + 4 * (children - 1);
    (page[0] == BRANCH).then(|| page.get(keys..u32_at(page, ends)?))?
}

impl Pages {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut pages = Self::default();
        let mut seen = BTreeSet::new();
        for slot in SLOTS {
            let (slot_checksum, covered) = (slot + SLOT_COVERED, &bytes[slot..slot + SLOT_COVERED]);
            if bytes[slot_checksum..slot_checksum + CHECKSUM] != checksum(covered) {
                continue;
            }
            for (system, (is_there, root)) in [false, true].into_iter().zip(ROOTS) {
                if bytes[slot + is_there] != 0 {
                    let reference = Reference { at: slot + root, holder: Holder::Slot, from: None, to: None };
                    let tree = Tree::Definitions { system };
                    pages.follow(bytes, &mut seen, reference, slot + root + NUMBER, (None, None), tree, 1);
                }
            }
        }
        pages
    }

    /// All pages that are in use, each by its first byte and its length.
    pub(crate) fn used(&self) -> Vec<(usize, usize)> {
        self.nodes.iter().map(|node| (node.start, node.length)).collect()
    }

    #[allow(clippy::too_many_arguments, reason = "what is known of a page is told by whoever refers to it")]
    fn follow(
        &mut self,
        bytes: &[u8],
        seen: &mut BTreeSet<usize>,
        mut reference: Reference,
        checksum_at: usize,
        widths: Widths,
        tree: Tree,
        depth: usize,
    ) {
        let found = u64_at(bytes, reference.at)
            .and_then(place)
            .filter(|(start, length)| start + length <= bytes.len());
        let sound = found.filter(|(start, length)| {
            let page = &bytes[*start..start + length];
            covered(page, widths)
                .is_some_and(|end| checksum(&page[..end]) == bytes[checksum_at..checksum_at + CHECKSUM])
        });
        if let Some((start, length)) = sound {
            let known = self.nodes.iter().position(|node| node.start == start);
            let node = known.unwrap_or(self.nodes.len());
            reference.to = Some(node);
            if seen.insert(start) {
                self.nodes.push(Node { start, length, widths, tree });
                self.look_into(bytes, seen, node, depth);
            }
        }
        self.references.push(reference);
    }

    fn look_into(&mut self, bytes: &[u8], seen: &mut BTreeSet<usize>, number: usize, depth: usize) {
        let Node { start, length, widths, tree } = self.nodes[number];
        let page = &bytes[start..start + length];
        if tree == (Tree::Rows { system: false }) {
            self.depth = self.depth.max(depth);
        }
        if page[0] == BRANCH {
            let children = u16_at(page, 2).unwrap_or_default() + 1;
            for child in 0..children {
                let (at, checksum_at) =
                    (start + 8 + CHECKSUM * children + NUMBER * child, start + 8 + CHECKSUM * child);
                let reference = Reference { at, holder: Holder::Branch, from: Some(number), to: None };
                self.follow(bytes, seen, reference, checksum_at, widths, tree, depth + 1);
            }
            return;
        }
        for (_, value) in entries(page, widths).unwrap_or_default() {
            let at = start + value.start;
            let value = &page[value];
            match tree {
                Tree::Definitions { system } => {
                    // Kind, length, whether there is a root, the root; then the widths.
                    if value.get(9).is_none_or(|is_there| *is_there == 0) {
                        continue;
                    }
                    let reference =
                        Reference { at: at + 10, holder: Holder::Definition, from: Some(number), to: None };
                    let width = |flag: usize| (value[flag] != 0).then(|| u32_at(value, flag + 1)).flatten();
                    let tree = Tree::Rows { system };
                    self.follow(bytes, seen, reference, at + 10 + NUMBER, (width(42), width(47)), tree, 1);
                }
                Tree::Rows { system: true } => {
                    let count =
                        u16_at(value, 0).filter(|count| *count > 0 && 2 + NUMBER * count <= value.len());
                    let numbers = (0..count.unwrap_or_default()).map(|item| at + 2 + NUMBER * item);
                    let reference = |at| Reference { at, holder: Holder::List, from: Some(number), to: None };
                    self.references.extend(numbers.map(reference));
                }
                Tree::Rows { system: false } => {}
            }
        }
    }

    /// Makes all checksums fit again above a byte that was changed.
    pub(crate) fn mend(&self, bytes: &mut [u8], changed: usize) {
        if let Some(node) =
            self.nodes.iter().position(|node| (node.start..node.start + node.length).contains(&changed))
        {
            self.mend_above(bytes, node);
        }
        for slot in SLOTS {
            let fits = checksum(&bytes[slot..slot + SLOT_COVERED]);
            bytes[slot + SLOT_COVERED..slot + SLOT_COVERED + CHECKSUM].copy_from_slice(&fits);
        }
    }

    fn mend_above(&self, bytes: &mut [u8], number: usize) {
        let node = self.nodes[number];
        let page = &bytes[node.start..node.start + node.length];
        let Some(end) = covered(page, node.widths) else { return };
        let fits = checksum(&page[..end]);
        for reference in self.references.iter().filter(|reference| reference.to == Some(number)) {
            let checksum_at = match (reference.holder, reference.from.map(|from| self.nodes[from].start)) {
                (Holder::Branch, Some(start)) => {
                    let children = u16_at(bytes, start + 2).unwrap_or_default() + 1;
                    let child = reference.at.wrapping_sub(start + 8 + CHECKSUM * children) / NUMBER;
                    start + 8 + CHECKSUM * child
                }
                _ => reference.at + NUMBER,
            };
            let Some(place) = bytes.get_mut(checksum_at..checksum_at + CHECKSUM) else { continue };
            place.copy_from_slice(&fits);
            if let Some(from) = reference.from {
                self.mend_above(bytes, from);
            }
        }
    }
}
