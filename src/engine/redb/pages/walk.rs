//! Reading all pages that one commit names, past redb and its cache.

use std::io;

use super::header::{HEADER_BYTES, Header, Layout, Placed};
use super::node::Node;
use super::{PAGE, PageFile, Reference, Tree};
use crate::engine::PageRound;
use crate::engine::disk::StorageBackend;

const NO_COMMIT: &str = "no commit slot of the first page fits its checksum";

const NOT_WRITTEN: &str = "the first page is not what was written";
const OTHER_LENGTH: &str = "the file ends here, which is not where it ended when it was closed";

/// Deeper than any tree that redb makes.
const DEPTH_MAX: usize = 128;
/// How often the first page is read again, if somebody is writing it.
const TRIES: u32 = 100;

/// Reads pages of the newest commit, from behind a key of the largest table on, about as many bytes as are asked
/// for, and compares each with what names it. What is found is noted.
///
/// Pages of the store's table stay as they are while somebody holds a transaction that reads an earlier commit or
/// this one. Those of redb's own tables do not; they are walked again, if there is another commit by then.
pub(super) fn walk(file: &PageFile, after: Option<Vec<u8>>, bytes: u64) -> io::Result<PageRound> {
    let Some((layout, slot)) = newest(file)? else {
        file.note_damage(0, NO_COMMIT);
        return Ok(PageRound { damaged: vec![(0, NO_COMMIT)], ..PageRound::default() });
    };
    let mut walk = Walk::new(&*file.file, layout, after, bytes);
    let first = walk.after.is_none();
    if let Some(root) = slot.roots[0] {
        walk.tree(root)?;
    }
    if first {
        own_tables(file, &mut walk)?;
        if !file.has_own_header()? {
            walk.round.damaged.push((0, NOT_WRITTEN));
        }
        if let Some(header) = first_page(file)?
            && header.has_other_length()
        {
            walk.round.damaged.push((header.layout.length, OTHER_LENGTH));
        }
    }
    let round = walk.round;
    round.damaged.iter().for_each(|(offset, what)| file.note_damage(*offset, what));
    Ok(round)
}

/// All pages of the newest commit of a file that redb could not open. A crash may have cut off the newest, if it was not
/// written in two phases: then the one in the other slot counts.
pub(super) fn walk_closed(file: &PageFile) -> io::Result<PageRound> {
    let header = first_page(file)?;
    let (Some(header), Some((layout, _))) = (header, newest(file)?) else {
        return walk(file, None, u64::MAX);
    };
    let whole = |slot: Placed| {
        let mut walk = Walk::new(&*file.file, layout, None, u64::MAX);
        slot.roots.into_iter().flatten().try_for_each(|root| walk.tree(root))?;
        if header.has_other_length() {
            walk.round.damaged.push((layout.length, OTHER_LENGTH));
        }
        io::Result::Ok(walk.round)
    };
    let [newest, before] = header.newest_first();
    let found = newest.map(whole).transpose()?;
    if let (false, Some(before)) = (header.two_phases, before)
        && found.as_ref().is_none_or(|round| !round.damaged.is_empty())
    {
        let before = whole(before)?;
        if before.damaged.is_empty() {
            return Ok(before);
        }
    }
    Ok(found.unwrap_or_else(|| PageRound { damaged: vec![(0, NO_COMMIT)], ..PageRound::default() }))
}

/// What is in the first page, and how long the file was when it was there.
fn first_page(file: &PageFile) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    let mut length = file.file.len()?;
    if length < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.file.read(0, &mut bytes)?;
    for _ in 0..TRIES {
        // After that: the file may grow at any time, and the commits in it name no page behind its end by then. And
        // somebody may open a closed one to write: then it may have another length than when it was closed.
        length = file.file.len()?;
        let before = bytes;
        file.file.read(0, &mut bytes)?;
        if bytes == before {
            break;
        }
    }
    Ok(Header::read(&bytes, length))
}

/// The newest commit that is in the file as a whole, if there is one. If this process writes the file, that is the newest
/// that it has synced, whatever is in the first page.
fn newest(file: &PageFile) -> io::Result<Option<(Layout, Placed)>> {
    for _ in 0..TRIES {
        let header = match file.own_header() {
            Some(own) => Some(Header { layout: Layout { length: file.file.len()?, ..own.layout }, ..own }),
            None => first_page(file)?,
        };
        if let Some(header) = header
            && let [Some(slot), _] = header.newest_first()
        {
            return Ok(Some((header.layout, slot)));
        }
        // Somebody may be writing it just now.
        std::thread::yield_now();
    }
    Ok(None)
}

/// redb's own tables: they are small, and change with each commit.
fn own_tables(file: &PageFile, walk: &mut Walk<'_>) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let Some((layout, Placed { transaction, roots: [_, Some(root)] })) = newest(file)? else {
            return Ok(());
        };
        let mut own = Walk::new(walk.file, layout, None, u64::MAX);
        own.tree(root)?;
        let is_newest = newest(file)?.is_some_and(|(_, newest)| newest.transaction == transaction);
        tries += 1;
        if own.round.damaged.is_empty() || is_newest {
            walk.round.pages += own.round.pages;
            walk.round.bytes += own.round.bytes;
            walk.round.damaged.append(&mut own.round.damaged);
            return Ok(());
        }
        if tries == TRIES {
            // Commits come faster than these can be read: what is in them is compared when redb reads it.
            return Ok(());
        }
    }
}

struct Walk<'a> {
    file: &'a dyn StorageBackend,
    layout: Layout,
    /// Keys up to this one were walked before.
    after: Option<Vec<u8>>,
    /// How many bytes to read, about.
    limit: u64,
    /// Which pages were read, a bit for each of the smallest.
    seen: Vec<u64>,
    /// The newest key of the table, to see that they are in order.
    last: Option<Vec<u8>>,
    rows: u64,
    round: PageRound,
}

impl<'a> Walk<'a> {
    fn new(file: &'a dyn StorageBackend, layout: Layout, after: Option<Vec<u8>>, limit: u64) -> Self {
        let pages = usize::try_from(layout.length / PAGE).unwrap_or_default();
        let seen = vec![0; pages / 64 + 1];
        Self { file, layout, after, limit, seen, last: None, rows: 0, round: PageRound::default() }
    }

    fn damaged(&mut self, page: Reference, what: &'static str) {
        self.round.damaged.push((page.offset, what));
    }

    /// Whether none of a page was read before; notes it.
    fn is_first_time(&mut self, page: Reference) -> bool {
        let first = usize::try_from(page.offset / PAGE).unwrap_or_default();
        let mut fresh = true;
        for number in first..first + (1 << page.order) {
            if let Some(bits) = self.seen.get_mut(number / 64) {
                fresh &= *bits & (1 << (number % 64)) == 0;
                *bits |= 1 << (number % 64);
            }
        }
        fresh
    }

    /// All pages of a tree of tables, and of these tables.
    fn tree(&mut self, root: Reference) -> io::Result<()> {
        let mut ahead = vec![(root, 0)];
        // Of the table that is walked: its root, and how many rows were counted.
        let mut table: Option<Reference> = None;
        let mut page = Vec::new();
        while let Some((next, depth)) = ahead.pop() {
            if let Some(rows) = next.rows {
                self.end_table(table);
                table = Some(Reference { rows: Some(rows), ..next });
                self.last = self.after.clone().filter(|_| next.tree == Tree::ROWS);
                self.rows = 0;
            }
            if depth > DEPTH_MAX || !self.is_first_time(next) {
                self.damaged(next, "it is named twice");
                continue;
            }
            page.clear();
            page.resize(usize::try_from(next.bytes()).unwrap_or_default(), 0);
            self.round.pages += 1;
            self.round.bytes += next.bytes();
            if self.file.read(next.offset, &mut page).is_err() {
                // Others can be read all the same.
                self.damaged(next, "the disk can't read it");
                continue;
            }
            let node = match Node::read(&page, next.tree) {
                Ok(node) if node.checksum() != next.checksum => Err("it does not fit its checksum"),
                Ok(node) if !node.names_only_pages(self.layout) => {
                    Err("it names a page or a table that can't be")
                }
                read => read,
            };
            match node {
                Err(what) => self.damaged(next, what),
                Ok(node) if node.is_leaf() && next.tree != Tree::Definitions => {
                    self.leaf(next, &node);
                    if self.round.bytes >= self.limit && self.last > self.after && next.tree == Tree::ROWS {
                        self.round.next = self.last.take();
                        return Ok(());
                    }
                }
                Ok(node) => {
                    let first = ahead.len();
                    for (n, child) in node.children(self.layout).enumerate() {
                        // All its keys are up to the one behind it.
                        let walked = node.key(n).filter(|_| next.tree == Tree::ROWS && !node.is_leaf());
                        let walked = walked.is_some_and(|key| self.after.as_deref() >= Some(key));
                        if !walked {
                            ahead.push((child, depth + 1));
                        }
                    }
                    ahead[first..].reverse();
                }
            }
        }
        self.end_table(table);
        Ok(())
    }

    fn leaf(&mut self, page: Reference, node: &Node<'_>) {
        self.rows += node.entries() as u64;
        if page.tree != Tree::ROWS {
            return;
        }
        // Keys up to that one were walked before.
        let walked = |key: &&[u8]| self.after.as_deref() >= Some(*key);
        let keys = (0..node.entries()).filter_map(|n| node.key(n)).skip_while(walked).collect::<Vec<_>>();
        for key in keys {
            if self.last.as_deref() >= Some(key) {
                return self.damaged(page, "its keys are out of order");
            }
            let last = self.last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
        }
    }

    /// A table that was read as a whole has as many rows as its definition says.
    fn end_table(&mut self, table: Option<Reference>) {
        let Some(table) = table else { return };
        if self.after.is_none() && self.round.damaged.is_empty() && table.rows != Some(self.rows) {
            self.damaged(table, "its table has another number of rows");
        }
    }
}
