//! [`Walk`]: a way through the pages of one commit, with what is found in place of those that do not fit.

use super::super::pages::header::Named;
use super::super::pages::node::Node;
use super::super::pages::{PAGE, Tree};
use super::{DamagedPage, Instead, Part, ROWS, Salvage, Salvaging};
use crate::error::Result;

/// No tree is deeper: with two children for each page, it would fill more than any disk.
const DEPTH_MAX: usize = 64;

/// A way through the pages of one commit: to each page at most once.
pub(super) struct Walk<'a, 'b> {
    salvage: &'a Salvage<'b>,
    salvaging: &'a mut dyn Salvaging,
    /// A bit for each page of the file.
    seen: Vec<u64>,
    pub(super) damaged: u64,
    /// How many smallest pages may be read; and the first that is damaged ends it, if that is few.
    pub(super) left: u64,
    pub(super) has_rows: bool,
    /// Where the tables are collected, by their roots, while the tree of them is walked.
    tables: Option<Vec<(Option<Named>, Tree)>>,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(salvage: &'a Salvage<'b>, salvaging: &'a mut dyn Salvaging) -> Self {
        let pages = usize::try_from(salvage.layout.length / PAGE).unwrap_or(usize::MAX);
        let seen = vec![0; pages / 64 + 1];
        Self { salvage, salvaging, seen, damaged: 0, left: u64::MAX, has_rows: false, tables: None }
    }

    /// The tables of a tree of tables: of the store's, only those of the rows.
    pub(super) fn tables(&mut self, part: Part, root: Option<Named>) -> Result<Vec<(Option<Named>, Tree)>> {
        self.tables = Some(Vec::new());
        if let Some(root) = root {
            self.page(root, part, Tree::Definitions, (Vec::new(), None), 0)?;
        }
        Ok(self.tables.take().unwrap_or_default())
    }

    pub(super) fn page(
        &mut self,
        named: Named,
        part: Part,
        tree: Tree,
        places: (Vec<u8>, Option<Vec<u8>>),
        depth: usize,
    ) -> Result<()> {
        if self.left == 0 || self.left < u64::MAX && self.damaged > 0 {
            // It was only asked whether all fit.
            return self.damaged(0, "it is not looked for", part, places);
        }
        let Some((offset, order)) = self.salvage.layout.place(named.number) else {
            return self.damaged(0, "its parent names no page of the file", part, places);
        };
        if self.left < u64::MAX {
            self.left = self.left.saturating_sub(1 << order);
            if self.left == 0 {
                return self.damaged(offset, "it is not looked for", part, places);
            }
        }
        let number = offset / PAGE;
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64));
        if self.seen.get(word).is_none_or(|seen| seen & bit != 0) {
            return self.damaged(offset, "two pages name it", part, places);
        }
        self.seen[word] |= bit;
        if depth > DEPTH_MAX {
            return self.damaged(offset, "no tree is so deep", part, places);
        }
        let mut page = vec![0; usize::try_from(PAGE << order).unwrap_or(usize::MAX)];
        self.salvage.file.read(offset, &mut page)?;
        if !Node::read(&page, tree).is_ok_and(|node| node.checksum() == named.checksum) {
            let Some((instead, found)) = self.instead(offset, &page, named, part, tree)? else {
                self.damaged(offset, "it does not fit its checksum", part, places)?;
                return self.doubtful(&page, part, tree);
            };
            page = found;
            self.salvaging.damaged(DamagedPage {
                offset,
                why: "it does not fit its checksum",
                places: None,
                instead: Some(instead),
            })?;
        }
        match Node::read(&page, tree) {
            Ok(node) if node.is_leaf() => self.leaf(&node, part),
            Ok(node) => self.children(&node, part, tree, places, depth),
            Err(_) => self.damaged(offset, "it is no page of a tree", part, places),
        }
    }

    /// The page that is meant, if its checksum tells what it is.
    fn instead(
        &self,
        offset: u64,
        page: &[u8],
        named: Named,
        part: Part,
        tree: Tree,
    ) -> Result<Option<(Instead, Vec<u8>)>> {
        if self.left < u64::MAX {
            // It was only asked whether all fit.
            return Ok(None);
        }
        if part != Part::Lists
            && let Some((found_at, found)) = self.elsewhere(named)?
        {
            return Ok(Some((Instead::FoundAt(found_at), found)));
        }
        let healed = self.salvage.healing.heal(offset, page, tree, named.checksum);
        Ok(healed.map(|(healed, bit)| (Instead::Healed(bit), healed)))
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
        branch: &Node<'_>,
        part: Part,
        tree: Tree,
        (from, to): (Vec<u8>, Option<Vec<u8>>),
        depth: usize,
    ) -> Result<()> {
        for (number, child) in branch.named().enumerate() {
            let before = number.checked_sub(1).and_then(|before| branch.key(before));
            let from = before.map_or_else(|| from.clone(), <[u8]>::to_vec);
            let to = branch.key(number).map(<[u8]>::to_vec).or_else(|| to.clone());
            self.page(child, part, tree, (from, to), depth + 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: &Node<'_>, part: Part) -> Result<()> {
        if let Some(tables) = &mut self.tables {
            let found = leaf.tables().filter(|(name, _)| part == Part::Lists || *name == ROWS);
            tables.extend(found.map(|(_, table)| (table.root, table.tree)));
        } else if part == Part::Rows {
            leaf.pairs().try_for_each(|(key, value)| self.salvaging.row(key, value))?;
        }
        Ok(())
    }

    /// Tells of what looks like rows in a page that does not fit.
    fn doubtful(&mut self, page: &[u8], part: Part, tree: Tree) -> Result<()> {
        match Node::read(page, tree) {
            Ok(node) if part == Part::Rows => {
                node.pairs().try_for_each(|(key, value)| self.salvaging.doubtful(key, value))
            }
            _ => Ok(()),
        }
    }

    fn damaged(
        &mut self,
        offset: u64,
        why: &'static str,
        part: Part,
        places: (Vec<u8>, Option<Vec<u8>>),
    ) -> Result<()> {
        self.damaged += 1;
        let places = match part {
            // All rows are behind it.
            Part::Tables => Some((Vec::new(), None)),
            Part::Rows => Some(places),
            Part::Lists => None,
        };
        self.salvaging.damaged(DamagedPage { offset, why, places, instead: None })
    }
}
