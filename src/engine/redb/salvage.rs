//! [`Salvage`]: a table file read page by page, without redb, for a repair.
//!
//! Each page of redb's trees is named by its parent, together with its checksum; the two commit slots in the first
//! page name the roots. A page that does not fit its checksum is damaged, or it is the right page of an earlier
//! moment (a write that was lost), or another page (a write that went astray). Which of these it is nobody can tell,
//! so nothing in it is read as good, and what lies below it is not looked for. Unless its checksum tells what it was:
//! the right page lies elsewhere, or differs in a single bit (`heal`).
//!
//! What the first page says, and the others, `pages::header` and `pages::node` read.

mod heal;
mod rows;
#[cfg(test)]
mod tests;
mod walk;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

pub(crate) use rows::{Places, Salvaged};

use heal::{Healing, heal_slots};
use walk::Walk;

use super::pages::header::{HEADER_BYTES, Header, Layout, MAGIC, Named, Slot};
use super::pages::node::{Node, Table};
use super::pages::{PAGE, Tree};
use super::spaces::{LOG, NEWEST};
use crate::engine::disk::StorageBackend;
use crate::engine::seal::unseal;
use crate::error::{Error, Result};
use crate::id::Commit;

/// The table that has the store's rows, by its name.
const ROWS: &[u8] = b"keystead";
/// The format of redb's files.
const VERSION: u8 = 3;

/// Where the first page leads to nothing.
const NO_STATE: &str = "no complete state of a store was found in the file";

/// How many pages a search may read, for each page of the file, and how many roots it may try: a file that somebody
/// made may have as many roots as pages. A large page counts as the smallest ones that it is as long as.
const SEARCHED_PER_PAGE: u64 = 16;
const ROOTS_MAX: usize = 4096;

/// A table file, and which of its two commit slots is read.
pub(crate) struct Salvage<'a> {
    file: &'a dyn StorageBackend,
    layout: Layout,
    /// Where the tree of tables begins; or that of the rows, if that was found without it.
    rows: RowsAt,
    /// Where the lists of free pages begin.
    lists: Option<Named>,
    /// Where each page lies, by its checksum, if that was asked for.
    pages: OnceCell<HashMap<u128, u64>>,
    healing: Healing,
    /// Which bits of the commit slots were flipped back.
    healed_slots: Vec<u64>,
    /// How many pages did not fit that are not looked at any more: those of a commit that is left out.
    given_up: u64,
    /// Whether the commit that the first page names was committed, and is none that a process was writing when it ended.
    last_was_committed: bool,
    left_out: NewerCommit,
    /// Why the slot may not be the newest, or that the header is damaged.
    doubts: Vec<Cow<'static, str>>,
}

/// Whether a state of the file was left out that is newer than the one that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewerCommit {
    No,
    /// There may be one, or a commit that was being written when the process ended.
    Perhaps,
    /// It was committed: it was synced before the first page named it.
    Committed,
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
    /// What is read in its place: nothing in it is missing then.
    pub(crate) instead: Option<Instead>,
}

/// How the page was found that should be where another is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instead {
    /// It lies at another offset of the file.
    FoundAt(u64),
    /// This bit of the file was flipped.
    Healed(u64),
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
enum RowsAt {
    Tables(Option<Named>),
    Root(Named, Tree),
}

/// What is in a tree, as the reader of the pages reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
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
        let mut first_page = [0; HEADER_BYTES];
        file.read(0, &mut first_page)?;
        let healed_slots = heal_slots(&mut first_page);
        match Self::of_first_page(file, &first_page, length) {
            Ok(salvage) => Ok(Self { healed_slots, ..salvage }),
            Err(error @ (Error::NotAStore(_) | Error::Corrupted(_))) => {
                Self::without_first_page(file, length)?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn of_first_page(
        file: &'a dyn StorageBackend,
        first_page: &[u8; HEADER_BYTES],
        length: u64,
    ) -> Result<Self> {
        if !first_page.starts_with(MAGIC) {
            let what = "it is no file of redb, or its first page is destroyed";
            return Err(Error::NotAStore(format!("{what}, and {NO_STATE}").into()));
        }
        let header = Header::read(first_page, length);
        let mut header = header.ok_or_else(|| {
            let what = "the first page says nothing sensible of the others";
            Error::Corrupted(format!("{what}, and {NO_STATE}").into())
        })?;
        if let Some(Slot { version, .. }) =
            header.slots.iter().find(|slot| slot.fits && slot.version < VERSION)
        {
            return Err(Error::NotAStore(format!("it is a redb file of the old format {version}").into()));
        }
        header.slots.iter_mut().for_each(|slot| slot.fits &= slot.version <= VERSION);
        let layout = Layout::usual(length);
        let mut salvage = Self::new(file, layout, RowsAt::Tables(None));
        if header.layout != layout {
            salvage.given_up += 1;
            let what = "the first page says that the pages lie in the file as in that of no store: it is damaged, \
                        and may be in other places too";
            salvage.doubts.push(what.into());
        }
        if header.has_other_length() {
            let what =
                "the file does not end where it ended when it was closed: what was behind is not there";
            salvage.doubts.push(what.into());
        }
        // In a file that was closed it was; and in one with commits of two phases the first page names no other.
        salvage.last_was_committed = header.two_phases || !header.unclean;
        salvage.choose(&header)?;
        Ok(salvage)
    }

    fn new(file: &'a dyn StorageBackend, layout: Layout, rows: RowsAt) -> Self {
        let (pages, healing) = (OnceCell::new(), Healing::new());
        let (healed_slots, doubts, left_out) = (Vec::new(), Vec::new(), NewerCommit::No);
        let (lists, given_up, last_was_committed) = (None, 0, false);
        Self {
            file,
            layout,
            rows,
            lists,
            pages,
            healing,
            healed_slots,
            given_up,
            last_was_committed,
            left_out,
            doubts,
        }
    }

    /// The newest complete state in a file whose first page leads to none.
    fn without_first_page(file: &'a dyn StorageBackend, length: u64) -> Result<Option<Self>> {
        let found = Self::new(file, Layout::usual(length), RowsAt::Tables(None)).search()?.0;
        Ok(found.map(|mut found| {
            found.given_up += 1;
            let what = "the first page of the file is damaged, and does not tell which state of the store is the \
                        newest: the newest complete one that is in the file is used. What was committed later may be \
                        missing, unless the write-ahead log has it";
            found.doubts.push(what.into());
            found
        }))
    }

    /// Looks in the whole file, whatever the first page says, for the newest state of the rows of which every page
    /// fits. Pages are never overwritten in place, so those of former commits, or of one that a stale first page does
    /// not know, stay until their room is used again; and a state that is whole is as some commit left it.
    ///
    /// It returns the newest commit too of which a page is in the file, whether that state is complete or not.
    pub(crate) fn search(&self) -> Result<(Option<Self>, Commit)> {
        let (mut found, mut tried): (Option<(Commit, Self)>, Vec<Named>) = (None, Vec::new());
        let mut seen = Commit::default();
        let mut left = (self.layout.length / PAGE).saturating_mul(SEARCHED_PER_PAGE);
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        for number in 1..self.layout.length / PAGE {
            self.file.read(number * PAGE, &mut page)?;
            seen = seen.max(newest_in(&page).unwrap_or_default());
            // Whatever the page is: what it says of a tree is tried.
            let Ok(node) = Node::read(&page, Tree::Definitions) else { continue };
            for (_, Table { root, tree, .. }) in node.tables().filter(|(name, _)| *name == ROWS) {
                let Some(root) = root else { continue };
                if tried.contains(&root) || left == 0 || tried.len() == ROOTS_MAX {
                    continue;
                }
                tried.push(root);
                let rows = RowsAt::Root(root, tree);
                let mut candidate = Self::new(self.file, self.layout, rows);
                let left_out = [NewerCommit::Perhaps, NewerCommit::Committed];
                candidate.left_out = left_out[usize::from(self.last_was_committed)];
                let mut checked = Checked::default();
                let mut walk = Walk::new(&candidate, &mut checked);
                walk.left = left;
                walk.page(root, Part::Rows, tree, (Vec::new(), None), 0)?;
                left = walk.left;
                if let (0, Some(newest)) = (checked.damaged, checked.newest)
                    && found.as_ref().is_none_or(|(other, _)| *other <= newest)
                {
                    found = Some((newest, candidate));
                }
            }
        }
        Ok((found.map(|(_, salvage)| salvage), seen))
    }

    /// Where each page of the rows' kind lies, by its checksum.
    fn all_pages(&self) -> Result<HashMap<u128, u64>> {
        let mut pages = HashMap::new();
        self.each_page_of_rows(&mut |offset, node| {
            pages.insert(node.checksum(), offset);
            Ok(())
        })?;
        Ok(pages)
    }

    /// Shows all that looks like a page of rows, whether anything leads to it or not.
    fn each_page_of_rows(&self, see: &mut dyn FnMut(u64, &Node<'_>) -> Result<()>) -> Result<()> {
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        for number in 1..self.layout.length / PAGE {
            self.file.read(number * PAGE, &mut page)?;
            if let Ok(node) = Node::read(&page, Tree::ROWS) {
                see(number * PAGE, &node)?;
            }
        }
        Ok(())
    }

    /// Why something may be missing whatever the pages say.
    pub(crate) fn doubts(&self) -> &[Cow<'static, str>] {
        &self.doubts
    }

    pub(crate) fn left_out(&self) -> NewerCommit {
        self.left_out
    }

    /// Which bits of the commit slots in the first page were flipped, and are read as they were.
    pub(crate) fn healed_slots(&self) -> &[u64] {
        &self.healed_slots
    }

    /// How many pages do not fit to which nothing that is read leads any more.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Takes the slot that redb would take; or the other, where that is damaged, or leads to nothing, or was being
    /// written when the process ended.
    fn choose(&mut self, header: &Header) -> Result<()> {
        let Header { two_phases, unclean, primary, slots, .. } = *header;
        let [mut first, mut other] = [slots[primary], slots[1 - primary]];
        if !two_phases && other.fits && other.transaction > first.transaction {
            (first, other) = (other, first);
        }
        if !first.fits {
            self.doubts.push(
                "the slot of the last commit in the first page does not fit its checksum: that commit is left out"
                    .into(),
            );
            self.given_up += 1;
            self.left_out = if two_phases { NewerCommit::Committed } else { NewerCommit::Perhaps };
            (first, other) = (other, first);
        }
        if !first.fits {
            let what = "neither commit slot in the first page fits its checksum";
            return Err(Error::Corrupted(format!("{what}, and {NO_STATE}").into()));
        }
        self.take(first);
        if !other.fits {
            return Ok(());
        }
        if other.transaction > first.transaction {
            // Written in the first of two phases, by a process that ended then; or the flag is not what it was.
            if two_phases && !unclean {
                let what = "the first page has a newer commit than the one that it says is the last";
                self.doubts.push(what.into());
            }
            return Ok(());
        }
        let was_being_written = !two_phases;
        let found = self.checked()?;
        if found.damaged > 0 && (was_being_written || !found.reads_rows) {
            self.take(other);
            let others = self.checked()?;
            if others.reads_rows && (others.damaged == 0 || !found.reads_rows) {
                self.given_up += found.damaged;
                self.left_out = if was_being_written { NewerCommit::Perhaps } else { NewerCommit::Committed };
                let what = match was_being_written {
                    true => {
                        "the pages of the last commit do not fit: a crash while it was written leaves them so, and \
                         nobody was told that it was done; damage looks the same. The commit before it is used"
                    }
                    false => "the pages of the last commit lead to no rows: the commit before it is used",
                };
                self.doubts.push(what.into());
                return Ok(());
            }
            self.take(first);
        }
        Ok(())
    }

    fn take(&mut self, slot: Slot) {
        (self.rows, self.lists) = (RowsAt::Tables(slot.roots[0]), slot.roots[1]);
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
    /// `Io`, and the errors of `salvaging`.
    pub(crate) fn read(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        self.read_rows(salvaging)?;
        self.read_lists(salvaging)
    }

    /// Reads the pages of the rows.
    pub(crate) fn read_rows(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        let mut walk = Walk::new(self, salvaging);
        let tables = match self.rows {
            RowsAt::Root(root, tree) => vec![(Some(root), tree)],
            RowsAt::Tables(root) => walk.tables(Part::Tables, root)?,
        };
        for (root, tree) in tables {
            walk.has_rows = true;
            if let Some(root) = root {
                walk.page(root, Part::Rows, tree, (Vec::new(), None), 0)?;
            }
        }
        match walk.has_rows || walk.damaged > 0 {
            true => Ok(()),
            false => Err(Error::NotAStore("it is a redb file without the table of a keystead store".into())),
        }
    }

    fn read_lists(&self, salvaging: &mut dyn Salvaging) -> Result<()> {
        let mut walk = Walk::new(self, salvaging);
        for (root, tree) in walk.tables(Part::Lists, self.lists)? {
            if let Some(root) = root {
                walk.page(root, Part::Lists, tree, (Vec::new(), None), 0)?;
            }
        }
        Ok(())
    }
}

/// The newest commit, as a page that has the row of it says: the first page of the rows of some state.
fn newest_in(page: &[u8]) -> Option<Commit> {
    let leaf = Node::read(page, Tree::ROWS).ok()?;
    let (place, value) = leaf.pairs().next()?;
    (place == NEWEST).then(|| unseal(NEWEST, value).ok().map(|value| value.commit))?
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
        self.damaged += u64::from(page.instead.is_none());
        Ok(())
    }

    fn doubtful(&mut self, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }
}
