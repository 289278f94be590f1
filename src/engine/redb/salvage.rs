//! [`Salvage`]: a table file read page by page, without redb, for a repair.
//!
//! Each page of redb's trees is named by its parent, together with its checksum; the two commit slots in the first
//! page name the roots. A page that does not fit its checksum is damaged, or it is the right page of an earlier
//! moment (a write that was lost), or another page (a write that went astray). Which of these it is nobody can tell,
//! so nothing in it is read as good, and what lies below it is not looked for.
//!
//! ```text
//! first page = magic (9)  flags (1)  -  page size (4)  pages before and in a region (4, 4)  -  slot 0 at 64, slot 1 at 192
//! slot       = version (1)  has rows (1)  has lists (1)  -  root of tables (32)  root of lists (32)  -  transaction (8)
//!              -  checksum (16)
//! root       = page (8)  checksum (16)  length (8)
//! ```
//!
//! What is in the other pages, `page` says.

mod page;
mod rows;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

use twox_hash::XxHash3_128;

pub(crate) use rows::{Places, Salvaged};

use super::spaces::{LOG, NEWEST};
use crate::engine::disk::StorageBackend;
use crate::engine::seal::unseal;
use crate::error::{Error, Result};
use crate::id::Commit;
use page::{
    Branch, CHECKSUM_BYTES, FoundTable, LEAF, Named, ROOT_BYTES, ROWS, Widths, fits, fixed, read_leaf,
    read_table, roots_in, used,
};

const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
const PAGE: u64 = 4096;
const HEADER_BYTES: usize = 320;
const FLAGS_AT: usize = 9;
const SLOTS_AT: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;
const VERSION: u8 = 3;

/// Flags of the first page: which slot is the newest, that the file was not closed, that slots are written in two
/// phases.
const SECOND_IS_NEWEST: u8 = 1;
const NOT_CLOSED: u8 = 2;
const TWO_PHASES: u8 = 4;

/// No tree is deeper: with two children for each page, it would fill more than any disk.
const DEPTH_MAX: usize = 64;
/// How many pages a search may read, for each page of the file, and how many roots it may try: a file that somebody
/// made may have as many roots as pages.
const SEARCHED_PER_PAGE: u64 = 16;
const ROOTS_MAX: usize = 4096;
/// The most pages of a region, and before one.
const REGION_PAGES_MAX: u64 = 1 << 20;

/// A table file, and which of its two commit slots is read.
pub(crate) struct Salvage<'a> {
    file: &'a dyn StorageBackend,
    length: u64,
    regions: Regions,
    /// Where the tree of tables begins; or that of the rows, if that was found without it.
    rows: RowsAt,
    /// Where the lists of free pages begin.
    lists: Option<Named>,
    /// Where each page lies, by its checksum, if that was asked for.
    pages: OnceCell<HashMap<u128, u64>>,
    /// How many pages did not fit that are not looked at any more: those of a commit that is left out.
    given_up: u64,
    /// Why the slot may not be the newest, or that the header is damaged.
    doubts: Vec<&'static str>,
}

/// What is told of the pages, in the order of the rows that are in them.
pub(crate) trait Salvaging {
    /// A row, in a page that fits its checksum.
    fn row(&mut self, place: &[u8], value: &[u8]) -> Result<()>;

    /// A page that does not.
    fn damaged(&mut self, page: DamagedPage) -> Result<()>;

    /// What looks like a row, in a page that does not.
    fn doubtful(&mut self, place: &[u8], value: &[u8]) -> Result<()>;
}

/// A page that is not what its parent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DamagedPage {
    /// Where in the file it lies.
    pub(crate) offset: u64,
    pub(crate) why: &'static str,
    /// Between which places, the first excluded and the last included, rows lay in it or below it; `None` if none
    /// did: it is of the lists of free pages.
    pub(crate) places: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// Where else in the file the right page lies, if it was found: nothing in it is missing.
    pub(crate) found_at: Option<u64>,
}

impl DamagedPage {
    /// Whether a row at this place could be in the page.
    pub(crate) fn covers(&self, place: &[u8]) -> bool {
        self.places.as_ref().is_some_and(|(from, to)| {
            (from.is_empty() || **from < *place) && to.as_ref().is_none_or(|to| *place <= **to)
        })
    }

    /// Up to which commit entries of the changelog could be in it: `Some(None)` for the newest.
    pub(crate) fn changelog_up_to(&self) -> Option<Option<u64>> {
        match &self.places.as_ref()?.1 {
            None => Some(None),
            Some(to) => {
                // Keys in branches may be cut off.
                let digits = to.strip_prefix(&[LOG])?;
                let mut number = [u8::MAX; 8];
                number.iter_mut().zip(digits).for_each(|(byte, digit)| *byte = *digit);
                Some(Some(u64::from_be_bytes(number)))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Regions {
    header_pages: u64,
    pages: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    tables: Option<Named>,
    lists: Option<Named>,
    transaction: u64,
    fits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum RowsAt {
    Tables(Option<Named>),
    Root(Named, Widths),
}

/// Which rows a tree has, for what is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// The tables; the store's rows are behind it.
    Tables,
    Rows,
    Lists,
}

impl<'a> Salvage<'a> {
    /// Reads the first page.
    ///
    /// # Errors
    ///
    /// `NotAStore` if it is none of redb's; `Corrupted` if it names no trees.
    pub(crate) fn of(file: &'a dyn StorageBackend) -> Result<Self> {
        let length = file.len()?;
        if length == 0 {
            return Err(Error::NotAStore("the file is empty".into()));
        }
        if length < PAGE {
            return Err(Error::NotAStore("the file is shorter than its first page".into()));
        }
        let mut header = [0; HEADER_BYTES];
        file.read(0, &mut header)?;
        if !header.starts_with(MAGIC) {
            return Err(Error::NotAStore("it is no file of redb".into()));
        }
        let number = |at: usize| u64::from(u32::from_le_bytes(fixed(&header, at)));
        let (page_size, regions) = (number(12), Regions { header_pages: number(16), pages: number(20) });
        if page_size != PAGE
            || regions.pages == 0
            || regions.pages.max(regions.header_pages) > REGION_PAGES_MAX
        {
            return Err(Error::Corrupted("the first page says nothing sensible of the others".into()));
        }
        let slots = SLOTS_AT.map(|at| Slot::read(&header[at..at + SLOT_BYTES]));
        if let Some(version) = slots
            .iter()
            .zip(SLOTS_AT)
            .find_map(|(slot, at)| (slot.fits && header[at] < VERSION).then_some(header[at]))
        {
            return Err(Error::NotAStore(format!("it is a redb file of the old format {version}").into()));
        }
        let rows = RowsAt::Tables(None);
        let mut salvage = Self {
            file,
            length,
            regions,
            rows,
            lists: None,
            pages: OnceCell::new(),
            given_up: 0,
            doubts: Vec::new(),
        };
        salvage.choose(slots, header[FLAGS_AT])?;
        Ok(salvage)
    }

    /// Looks in the whole file, whatever the first page says, for the newest state of the rows of which every page
    /// fits. Pages are never overwritten in place, so those of former commits, or of one that a stale first page does
    /// not know, stay until their room is used again; and a state that is whole is as some commit left it.
    pub(crate) fn search(&self) -> Result<Option<Self>> {
        let (mut found, mut tried): (Option<(Commit, Self)>, Vec<Named>) = (None, Vec::new());
        let mut left = (self.length / PAGE).saturating_mul(SEARCHED_PER_PAGE);
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        for number in 1..self.length / PAGE {
            self.file.read(number * PAGE, &mut page)?;
            for (root, widths) in roots_in(&page) {
                if tried.contains(&root) || left == 0 || tried.len() == ROOTS_MAX {
                    continue;
                }
                tried.push(root);
                let rows = RowsAt::Root(root, widths);
                let (file, length, regions, pages) = (self.file, self.length, self.regions, OnceCell::new());
                let candidate =
                    Self { file, length, regions, rows, lists: None, pages, given_up: 0, doubts: Vec::new() };
                let mut checked = Checked::default();
                let mut walk = Walk::new(&candidate, &mut checked);
                walk.left = left;
                walk.page(root, Tree::Rows, widths, (Vec::new(), None), 0)?;
                left = walk.left;
                if let (0, Some(newest)) = (checked.damaged, checked.newest)
                    && found.as_ref().is_none_or(|(other, _)| *other <= newest)
                {
                    found = Some((newest, candidate));
                }
            }
        }
        Ok(found.map(|(_, salvage)| salvage))
    }

    /// Where each page of the rows' kind lies, by its checksum.
    fn all_pages(&self) -> Result<HashMap<u128, u64>> {
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        let mut pages = HashMap::new();
        for number in 1..self.length / PAGE {
            self.file.read(number * PAGE, &mut page)?;
            if let Some(used) = used(&page, Widths::default()) {
                pages.insert(XxHash3_128::oneshot(used), number * PAGE);
            }
        }
        Ok(pages)
    }

    /// Why something may be missing whatever the pages say.
    pub(crate) fn doubts(&self) -> &[&'static str] {
        &self.doubts
    }

    /// How many pages do not fit to which nothing that is read leads any more.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Takes the slot that redb would take; or the other, where that is damaged, or leads to nothing, or was being
    /// written when the process ended.
    fn choose(&mut self, slots: [Slot; 2], flags: u8) -> Result<()> {
        let newest = usize::from(flags & SECOND_IS_NEWEST != 0);
        let [mut first, mut other] = [slots[newest], slots[1 - newest]];
        let two_phases = flags & TWO_PHASES != 0;
        if !two_phases && other.fits && other.transaction > first.transaction {
            (first, other) = (other, first);
        }
        if !first.fits {
            self.doubts.push(
                "the slot of the last commit in the first page does not fit its checksum: that commit is left out",
            );
            self.given_up += 1;
            (first, other) = (other, first);
        }
        if !first.fits {
            return Err(Error::Corrupted("neither commit slot in the first page fits its checksum".into()));
        }
        self.take(first);
        if !other.fits {
            return Ok(());
        }
        if other.transaction > first.transaction {
            // Written in the first of two phases, by a process that ended then; or the flag is not what it was.
            if two_phases && flags & NOT_CLOSED == 0 {
                self.doubts.push("the first page has a newer commit than the one that it says is the last");
            }
            return Ok(());
        }
        let was_being_written = flags & NOT_CLOSED != 0 && !two_phases;
        let found = self.checked()?;
        if found.damaged > 0 && (was_being_written || !found.reads_rows) {
            self.take(other);
            let others = self.checked()?;
            if others.reads_rows && (others.damaged == 0 || !found.reads_rows) {
                self.given_up += found.damaged;
                self.doubts.push(match was_being_written {
                    true => {
                        "the pages of the last commit do not fit: a crash while it was written leaves them so, and \
                         nobody was told that it was done; damage looks the same. The commit before it is used"
                    }
                    false => "the pages of the last commit lead to no rows: the commit before it is used",
                });
                return Ok(());
            }
            self.take(first);
        }
        Ok(())
    }

    fn take(&mut self, slot: Slot) {
        (self.rows, self.lists) = (RowsAt::Tables(slot.tables), slot.lists);
    }

    fn checked(&self) -> Result<Checked> {
        let mut checked = Checked::default();
        self.read_rows(&mut checked)?;
        Ok(checked)
    }

    /// Reads all pages.
    ///
    /// # Errors
    ///
    /// `Io`, and those of whom it is told.
    pub(crate) fn read(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        self.read_rows(salvaging)?;
        self.read_lists(salvaging)
    }

    /// Reads the pages of the rows.
    pub(crate) fn read_rows(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        let mut walk = Walk::new(self, salvaging);
        let tables = match self.rows {
            RowsAt::Root(root, widths) => vec![(ROWS.to_vec(), Some(root), widths)],
            RowsAt::Tables(root) => walk.tables(Tree::Tables, root)?,
        };
        for (name, table, widths) in tables {
            if name != ROWS {
                continue;
            }
            walk.has_rows = true;
            if let Some(root) = table {
                walk.page(root, Tree::Rows, widths, (Vec::new(), None), 0)?;
            }
        }
        match walk.has_rows || walk.damaged > 0 {
            true => Ok(()),
            false => Err(Error::NotAStore("it is a redb file without the table of a keystead store".into())),
        }
    }

    fn read_lists(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        let mut walk = Walk::new(self, salvaging);
        for (_, table, widths) in walk.tables(Tree::Lists, self.lists)? {
            if let Some(root) = table {
                walk.page(root, Tree::Lists, widths, (Vec::new(), None), 0)?;
            }
        }
        Ok(())
    }
}

/// How many pages are damaged, whether any rows can be read, and which commit is the newest in them.
#[derive(Default)]
struct Checked {
    damaged: u64,
    reads_rows: bool,
    newest: Option<Commit>,
}

impl Salvaging for Checked {
    fn row(&mut self, place: &[u8], value: &[u8]) -> Result<()> {
        self.reads_rows = true;
        if place == NEWEST {
            self.newest = unseal(NEWEST, value).ok().map(|value| value.commit);
        }
        Ok(())
    }

    fn damaged(&mut self, page: DamagedPage) -> Result<()> {
        self.damaged += u64::from(page.found_at.is_none());
        Ok(())
    }

    fn doubtful(&mut self, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Slot {
    fn read(bytes: &[u8]) -> Self {
        let checksum_at = SLOT_BYTES - CHECKSUM_BYTES;
        let fits =
            XxHash3_128::oneshot(&bytes[..checksum_at]) == u128::from_le_bytes(fixed(bytes, checksum_at));
        let root = |is_there: usize, at: usize| (bytes[is_there] != 0).then(|| Named::read(&bytes[at..]));
        let transaction = u64::from_le_bytes(fixed(bytes, 8 + 3 * ROOT_BYTES));
        Self {
            tables: root(1, 8),
            lists: root(2, 8 + ROOT_BYTES),
            transaction,
            fits: fits && bytes[0] <= VERSION,
        }
    }
}

impl Regions {
    /// Where in the file a page lies, if such a page can be.
    fn place(self, page: u64, length: u64) -> Option<Range<u64>> {
        let order = page >> 59;
        let index = page & (0x000f_ffff >> order);
        let region = (page >> 20) & 0x000f_ffff;
        let bytes = PAGE << order;
        let in_region = self.header_pages * PAGE + index * bytes;
        let start = PAGE + region * (self.header_pages + self.pages) * PAGE + in_region;
        // A page lies in one region and in the file, so no number in a file makes for more than the file's length.
        let fits = in_region + bytes <= (self.header_pages + self.pages) * PAGE && start + bytes <= length;
        fits.then(|| start..start + bytes)
    }
}

/// A way through the pages of one commit: to each page at most once.
struct Walk<'a, 'b> {
    salvage: &'a Salvage<'b>,
    salvaging: &'a mut dyn Salvaging,
    /// A bit for each page of the file.
    seen: Vec<u64>,
    damaged: u64,
    /// How many pages may be read; and the first that is damaged ends it, if that is few.
    left: u64,
    has_rows: bool,
    /// Where the tables are collected while the tree of them is walked.
    tables: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl<'a, 'b> Walk<'a, 'b> {
    fn new(salvage: &'a Salvage<'b>, salvaging: &'a mut dyn Salvaging) -> Self {
        let pages = usize::try_from(salvage.length / PAGE).unwrap_or(usize::MAX);
        let seen = vec![0; pages / 64 + 1];
        Self { salvage, salvaging, seen, damaged: 0, left: u64::MAX, has_rows: false, tables: None }
    }

    /// The tables of a tree of tables.
    fn tables(&mut self, tree: Tree, root: Option<Named>) -> Result<Vec<FoundTable>> {
        self.tables = Some(Vec::new());
        if let Some(root) = root {
            self.page(root, tree, Widths::default(), (Vec::new(), None), 0)?;
        }
        let found = self.tables.take().unwrap_or_default();
        Ok(found.into_iter().filter_map(|(name, bytes)| read_table(name, &bytes)).collect())
    }

    fn page(
        &mut self,
        named: Named,
        tree: Tree,
        widths: Widths,
        places: (Vec<u8>, Option<Vec<u8>>),
        depth: usize,
    ) -> Result<()> {
        if self.left == 0 || self.left < u64::MAX && self.damaged > 0 {
            // It was only asked whether all fit.
            return self.damaged(0, "it is not looked for", tree, places);
        }
        if self.left < u64::MAX {
            self.left -= 1;
        }
        let Some(range) = self.salvage.regions.place(named.page, self.salvage.length) else {
            return self.damaged(0, "its parent names no page of the file", tree, places);
        };
        let number = range.start / PAGE;
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64));
        if self.seen.get(word).is_none_or(|seen| seen & bit != 0) {
            return self.damaged(range.start, "two pages name it", tree, places);
        }
        self.seen[word] |= bit;
        if depth > DEPTH_MAX {
            return self.damaged(range.start, "no tree is so deep", tree, places);
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut page = vec![0; length];
        self.salvage.file.read(range.start, &mut page)?;
        if !fits(&page, widths, named.checksum) {
            let elsewhere =
                if tree == Tree::Lists || self.left < u64::MAX { None } else { self.elsewhere(named)? };
            let Some((offset, found)) = elsewhere else {
                self.damaged(range.start, "it does not fit its checksum", tree, places)?;
                return self.doubtful(&page, tree, widths);
            };
            page = found;
            self.salvaging.damaged(DamagedPage {
                offset: range.start,
                why: "it does not fit its checksum",
                places: None,
                found_at: Some(offset),
            })?;
        }
        if page[0] == LEAF {
            return self.leaf(&page, tree, widths);
        }
        match Branch::read(&page, widths.key) {
            Some(branch) => self.children(&branch, tree, widths, places, depth),
            None => self.damaged(range.start, "it is no page of a tree", tree, places),
        }
    }

    /// The page that is meant, where it lies at another place of the file: a write went astray. Nothing else has its
    /// checksum.
    fn elsewhere(&self, named: Named) -> Result<Option<(u64, Vec<u8>)>> {
        let pages = match self.salvage.pages.get() {
            Some(pages) => pages,
            None => {
                let found = self.salvage.all_pages()?;
                self.salvage.pages.get_or_init(|| found)
            }
        };
        let Some(offset) = pages.get(&named.checksum) else { return Ok(None) };
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        self.salvage.file.read(*offset, &mut page)?;
        Ok(Some((*offset, page)))
    }

    fn children(
        &mut self,
        branch: &Branch<'_>,
        tree: Tree,
        widths: Widths,
        (from, to): (Vec<u8>, Option<Vec<u8>>),
        depth: usize,
    ) -> Result<()> {
        for (number, child) in branch.children.iter().enumerate() {
            let before = number.checked_sub(1).and_then(|before| branch.keys.get(before));
            let from = before.map_or_else(|| from.clone(), |key| key.to_vec());
            let to = branch.keys.get(number).map(|key| key.to_vec()).or_else(|| to.clone());
            self.page(*child, tree, widths, (from, to), depth + 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, page: &[u8], tree: Tree, widths: Widths) -> Result<()> {
        let pairs = read_leaf(page, widths).map(|(pairs, _)| pairs).unwrap_or_default();
        for (key, value) in pairs {
            let (key, value) = (&page[key], &page[value]);
            match (&mut self.tables, tree) {
                (Some(tables), _) => tables.push((key.to_vec(), value.to_vec())),
                (None, Tree::Rows) => self.salvaging.row(key, value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells of what looks like rows in a page that does not fit.
    fn doubtful(&mut self, page: &[u8], tree: Tree, widths: Widths) -> Result<()> {
        let leaf = if page[0] == LEAF && tree == Tree::Rows { read_leaf(page, widths) } else { None };
        let pairs = leaf.map(|(pairs, _)| pairs).unwrap_or_default();
        pairs.into_iter().try_for_each(|(key, value)| self.salvaging.doubtful(&page[key], &page[value]))
    }

    fn damaged(
        &mut self,
        offset: u64,
        why: &'static str,
        tree: Tree,
        places: (Vec<u8>, Option<Vec<u8>>),
    ) -> Result<()> {
        self.damaged += 1;
        let places = match tree {
            // All rows are behind it.
            Tree::Tables => Some((Vec::new(), None)),
            Tree::Rows => Some(places),
            Tree::Lists => None,
        };
        self.salvaging.damaged(DamagedPage { offset, why, places, found_at: None })
    }
}
