//! The first page of redb's file: the geometry, and the two commit slots that name the roots of all trees.
//!
//! ```text
//! first page = magic (9)  flags (1)  -  page size (4)  pages before and in a region (4, 4)  full regions (4)
//!              pages in the last (4)  -  slot 0 at 64, slot 1 at 192
//! slot       = version (1)  has rows (1)  has lists (1)  -  root of tables (32)  root of lists (32)  -  transaction (8)
//!              -  checksum (16)
//! root       = page (8)  checksum (16)  length (8)
//! ```

use twox_hash::XxHash3_128;

use super::{PAGE, Reference, Tree};

/// How much of the first page redb uses.
pub(in crate::engine::redb) const HEADER_BYTES: usize = 320;

/// How each file of redb begins.
pub(in crate::engine::redb) const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const FLAGS: usize = 9;
const PRIMARY: u8 = 1;
const UNCLEAN: u8 = 2;
const TWO_PHASES: u8 = 4;
const UNFLUSHED: u8 = 8;
const PAGE_SIZE: usize = 12;
const REGION_HEADER_PAGES: usize = 16;
const REGION_PAGES: usize = 20;
const FULL_REGIONS: usize = 24;
const LAST_REGION_PAGES: usize = 28;
const SLOTS: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;
const SLOT_CHECKSUM: usize = 112;
const SLOT_TRANSACTION: usize = 104;
/// Where a slot says whether it has a root, and where that is named: of the store's tables, and of redb's own.
const SLOT_ROOTS: [(usize, usize); 2] = [(1, 8), (2, 40)];

/// No region has more pages than this: a page's index has 20 bits.
const REGION_PAGES_MAX: u64 = 1 << 20;
/// The largest page is 2 to this times the smallest.
const ORDER_MAX: u8 = 20;

/// How the pages lie in the file, which is fixed when it is created; and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::redb) struct Layout {
    pub(super) region_header_pages: u64,
    pub(super) region_pages: u64,
    pub(in crate::engine::redb) length: u64,
}

/// A page number as redb stores it: 20 bits of index, 20 of region, and the order in the highest five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::redb) struct PageNumber(pub(super) u64);

/// A page with its checksum, as its parent names them: there may be no such page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::redb) struct Named {
    pub(in crate::engine::redb) number: PageNumber,
    pub(in crate::engine::redb) checksum: u128,
}

/// One of the two commit slots of the first page, as it is there.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::redb) struct Slot {
    pub(in crate::engine::redb) version: u8,
    pub(in crate::engine::redb) transaction: u64,
    /// The roots of the trees that name the store's tables, and redb's own.
    pub(in crate::engine::redb) roots: [Option<Named>; 2],
    /// Whether it fits its checksum.
    pub(in crate::engine::redb) fits: bool,
}

/// A commit whose slot fits its checksum, and whose roots lie in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) transaction: u64,
    pub(super) roots: [Option<Reference>; 2],
}

/// What the first page says.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::redb) struct Header {
    pub(in crate::engine::redb) layout: Layout,
    /// Whether the last writer did not close the file, or is still there. redb takes this back in the midst of a recovery,
    /// which may be cut off as well.
    pub(in crate::engine::redb) unclean: bool,
    /// Whether the newest commit was synced before it was named the newest: always, if the file was closed. Otherwise a
    /// crash may have cut it off, and redb compares all pages when it opens the file, and takes the commit before it if they
    /// do not fit.
    pub(in crate::engine::redb) two_phases: bool,
    /// How long the file was when it was closed; says nothing of one that was not.
    pub(super) length_closed: u64,
    /// Which slot is said to be the newest.
    pub(in crate::engine::redb) primary: usize,
    pub(in crate::engine::redb) slots: [Slot; 2],
}

impl Header {
    /// Whether the file does not end where it should: a closed one where it ended when it was closed, every one with a
    /// page.
    pub(in crate::engine::redb) fn has_other_length(&self) -> bool {
        let length = self.layout.length;
        !length.is_multiple_of(PAGE) || !self.unclean && length != self.length_closed
    }

    /// Reads the first page of a file of this length; `None` if it is no such page.
    pub(in crate::engine::redb) fn read(bytes: &[u8], length: u64) -> Option<Self> {
        if bytes.len() < HEADER_BYTES
            || !bytes.starts_with(MAGIC)
            || u64::from(u32_at(bytes, PAGE_SIZE)?) != PAGE
        {
            return None;
        }
        let region_header_pages = u64::from(u32_at(bytes, REGION_HEADER_PAGES)?);
        let region_pages = u64::from(u32_at(bytes, REGION_PAGES)?);
        if region_pages == 0 || region_pages > REGION_PAGES_MAX || region_header_pages > REGION_PAGES_MAX {
            return None;
        }
        let layout = Layout { region_header_pages, region_pages, length };
        let slots = [Slot::read(bytes, SLOTS[0])?, Slot::read(bytes, SLOTS[1])?];
        let last_region = u64::from(u32_at(bytes, LAST_REGION_PAGES)?);
        let last_region = if last_region == 0 { 0 } else { region_header_pages + last_region };
        let full_regions = u64::from(u32_at(bytes, FULL_REGIONS)?) * (region_header_pages + region_pages);
        let length_closed = (1 + full_regions + last_region).saturating_mul(PAGE);
        let flag = |flag: u8| bytes[FLAGS] & flag != 0;
        let (unclean, two_phases, primary) = (flag(UNCLEAN), flag(TWO_PHASES), usize::from(flag(PRIMARY)));
        Some(Self { layout, unclean, two_phases, length_closed, primary, slots })
    }

    /// Whether the last writer did not close the file, or is still there.
    pub(super) fn was_not_closed(&self) -> bool {
        self.unclean || !self.two_phases
    }

    /// The commit that is said to be the newest, and the one in the other slot.
    pub(super) fn newest_first(&self) -> [Option<Placed>; 2] {
        [self.primary, 1 - self.primary].map(|slot| self.slots[slot].place(self.layout))
    }

    /// Makes redb refuse the slots that name a page which can't be: it would ask for the memory first.
    pub(super) fn hide_impossible(&self, bytes: &mut [u8]) {
        for (start, slot) in SLOTS.into_iter().zip(self.slots) {
            if slot.fits && slot.place(self.layout).is_none() {
                bytes[start + SLOT_CHECKSUM] ^= 0xFF;
            }
        }
    }
}

/// Whether the newest commit may not be on the disk: its writer has named it the newest, and has not synced that.
pub(in crate::engine::redb) fn is_unflushed(bytes: &[u8]) -> bool {
    bytes.get(FLAGS).is_some_and(|flags| flags & UNFLUSHED != 0)
}

/// Which slot has the newest commit; `None` as long as it is not said to be on the disk.
pub(super) fn newest_slot(bytes: &[u8]) -> Option<usize> {
    let flags = bytes.get(FLAGS).filter(|flags| **flags & UNFLUSHED == 0)?;
    Some(usize::from(flags & PRIMARY))
}

/// Says that the newest commit is on the disk.
pub(super) fn set_flushed(bytes: &mut [u8]) {
    if let Some(flags) = bytes.get_mut(FLAGS) {
        *flags &= !UNFLUSHED;
    }
}

/// Flips the bit with which a commit slot fits its checksum, and returns its number in the first page; `None` if the slot
/// fits, or if no single bit makes it fit.
pub(in crate::engine::redb) fn heal_slot(bytes: &mut [u8; HEADER_BYTES], slot: usize) -> Option<usize> {
    let start = SLOTS[slot];
    let fits = |bytes: &[u8]| Slot::read(bytes, start).is_some_and(|slot| slot.fits);
    if fits(bytes) {
        return None;
    }
    (8 * start..8 * (start + SLOT_BYTES)).find(|bit| {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let healed = fits(bytes);
        if !healed {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        healed
    })
}

impl Slot {
    fn read(header: &[u8], start: usize) -> Option<Self> {
        let bytes = header.get(start..start + SLOT_BYTES)?;
        let root = |(flag, at): (usize, usize)| Named::read(bytes, at).filter(|_| bytes[flag] != 0);
        Some(Self {
            version: bytes[0],
            transaction: u64_at(bytes, SLOT_TRANSACTION)?,
            roots: SLOT_ROOTS.map(root),
            fits: XxHash3_128::oneshot(&bytes[..SLOT_CHECKSUM]) == u128_at(bytes, SLOT_CHECKSUM)?,
        })
    }

    fn place(self, layout: Layout) -> Option<Placed> {
        let mut roots = [None; 2];
        for (named, root) in self.roots.into_iter().zip(&mut roots) {
            if let Some(named) = named {
                *root = Some(named.place(Tree::Definitions, layout)?);
            }
        }
        self.fits.then_some(Placed { transaction: self.transaction, roots })
    }
}

impl Named {
    /// What a commit slot, or the definition of a table, says of a root.
    pub(super) fn read(bytes: &[u8], at: usize) -> Option<Self> {
        Some(Self { number: PageNumber(u64_at(bytes, at)?), checksum: u128_at(bytes, at.checked_add(8)?)? })
    }

    pub(super) fn place(self, tree: Tree, layout: Layout) -> Option<Reference> {
        let (offset, order) = layout.place(self.number)?;
        Some(Reference { offset, order, checksum: self.checksum, tree, rows: None })
    }
}

impl Layout {
    /// The layout of each file that a store is in, so that pages are found where the first page does not tell it.
    pub(in crate::engine::redb) fn usual(length: u64) -> Self {
        Self { region_header_pages: 0, region_pages: REGION_PAGES_MAX, length }
    }

    /// Where a page lies, and its order; `None` if no page of this file has such a number.
    pub(in crate::engine::redb) fn place(self, number: PageNumber) -> Option<(u64, u8)> {
        let order = u8::try_from(number.0 >> 59).ok()?;
        if order > ORDER_MAX {
            return None;
        }
        let (index, region) = (number.0 & (0xF_FFFF >> order), (number.0 >> 20) & 0xF_FFFF);
        let last = (index + 1) << order;
        if last > self.region_pages {
            return None;
        }
        let region_bytes = (self.region_header_pages + self.region_pages) * PAGE;
        let in_region = (self.region_header_pages + (index << order)) * PAGE;
        let offset = PAGE + region * region_bytes + in_region;
        (offset + (PAGE << order) <= self.length).then_some((offset, order))
    }
}

impl PageNumber {
    /// A number that no page has, so that redb refuses to follow it.
    pub(super) const IMPOSSIBLE: Self = Self(31 << 59);
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(bytes.get(at..at.checked_add(16)?)?.try_into().ok()?))
}
